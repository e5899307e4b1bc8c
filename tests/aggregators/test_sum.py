"""The sum, and aggregators by themselves."""

import functools

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.contracts import Aggregator
from tests import learning_references as reference


def test_adds_whatever_the_weights():
    process = fc.aggregators.as_process(fc.aggregators.sum(), {"w": "float32[2]", "n": "int32"})
    clients = [{"w": np.array([i, 1], np.float32), "n": i} for i in range(5)]
    output = process.next(process.initialize(), clients, np.arange(5, dtype=np.float32))
    np.testing.assert_array_equal(output.result["w"], [10, 5])
    assert output.result["n"] == 10 and output.state == () and output.measurements == ()


def test_nobody_adds_up_to_zero():
    process = fc.aggregators.as_process(fc.aggregators.sum(), "float32[2]")
    np.testing.assert_array_equal(process.next((), [], []).result, np.zeros(2))


def test_sum_in_a_round_takes_the_whole_updates():
    model, clients = reference.linear_model(), reference.make_clients((3, 2))
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), aggregator=fc.aggregators.sum(), key=jax.random.key(0))
    state, metrics = process.next(process.initialize(), reference.cohort(clients))
    initial = reference.as_float64(process.initialize().weights)
    update, _ = reference.fed_avg_update(initial, clients, reference.SGD(0.1), 3, 1, "uniform")
    reference.assert_close(state.weights, jax.tree.map(lambda w, u: w - 2 * u, initial, update))
    assert metrics["aggregator"] == ()


def test_wrapped_aggregators_are_aggregators():
    def clip_by_norm(max_norm, inner):
        def next(state, value, weight):
            clipped = fc.federated_map(functools.partial(fc.trees.clip_by_norm, max_norm), value)
            return inner.next(state, clipped, weight)

        return inner._replace(next=next)

    clipped = clip_by_norm(1.0, fc.aggregators.mean()._replace(always_releases=True))
    assert isinstance(clipped, Aggregator) and clipped.always_releases
    process = fc.aggregators.as_process(clipped, "float32[2]")
    output = process.next((), [np.array([3, 4], np.float32), np.array([0.5, 0], np.float32)], [1.0, 1.0])
    np.testing.assert_allclose(output.result, [0.55, 0.4], rtol=1e-6)


@pytest.mark.parametrize("wrong", [fc.aggregators.mean, None, fc.metrics.accuracy()])
def test_what_is_no_aggregator_is_refused(wrong):
    with pytest.raises(TypeError, match=r"as_process takes an Aggregator, got .*fc\.aggregators\.mean\(\)"):
        fc.aggregators.as_process(wrong, "float32")


@pytest.mark.parametrize("value", ["bool", "key<fry>", "float32[?]*"])
def test_what_cannot_be_added_is_refused(value):
    for aggregator in (fc.aggregators.sum(), fc.aggregators.mean()):
        with pytest.raises(TypeError, match="takes numbers"):
            fc.aggregators.as_process(aggregator, value)
