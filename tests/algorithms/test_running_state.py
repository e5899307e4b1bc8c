"""Running state of a model: averaged over the clients by examples, beside the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.contracts import ClientResult, ModelWeights, Running
from fedjax_core.templates import ProcessCompositionError
from tests import learning_references as reference

KEY = jax.random.key(7)
LINEAR = reference.linear_model()
CLIENTS = reference.make_clients((5, 3, 0, 4))


def first(key):
    averages = {"mean": jnp.arange(4.0) / 3, "half": jnp.full(4, 0.1, jnp.bfloat16), "untouched": jnp.full(2, 0.3)}
    return ModelWeights(LINEAR.init(key), {**averages, "steps": jnp.int32(7), "key": key})


MODEL = LINEAR._replace(
    init=first, predict=lambda weights, batch, key=None, training=False: LINEAR.predict(weights.trainable, batch)
)


def work(weights, data, key):
    """Client work without training: a client returns the mean of its inputs as its running state."""
    number = data.num_examples.astype("float32")
    mean = data.sum()["x"] / jnp.maximum(number, 1)
    old = weights.non_trainable
    state = {**old, "mean": mean, "half": mean.astype("bfloat16"), "steps": old["steps"] + 5}
    update = jax.tree.map(lambda w: 0 * w + 0.1, weights.trainable)
    statistics = fc.clients.local_evaluation(MODEL)(weights, data)
    return ClientResult(update, number, statistics, running=Running(state, number))


def process(work=work, model=MODEL, aggregator=None, **rules):
    return fc.algorithms.compose(
        model,
        fc.algorithms.broadcast(),
        fc.clients.client_work(work, fc.algorithms.metrics_process(model)),
        aggregator or fc.aggregators.mean(),
        fc.algorithms.apply_optimizer(optax.sgd(1.0), **rules),
        key=KEY,
    )


@pytest.fixture(scope="module")
def started():
    built = process()
    return built, built.initialize()


def mean_input(clients):
    return np.concatenate([client["x"] for client in clients]).astype(np.float64).mean(0)


def test_running_state_is_averaged_by_examples(started):
    built, state = started
    new, _ = built.next(state, reference.cohort(CLIENTS))
    found, old = new.weights.non_trainable, state.weights.non_trainable
    expected = mean_input(CLIENTS.values())
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.float32(found["half"]), expected, rtol=2e-2, atol=2e-2)
    assert found["half"].dtype == jnp.bfloat16
    same = ("untouched", "steps", "key")
    reference.assert_same_bits({name: found[name] for name in same}, {name: old[name] for name in same})
    reference.assert_close(new.weights.trainable, jax.tree.map(lambda w: w - 0.1, state.weights.trainable))


def test_the_running_state_stays_with_the_weights_when_the_update_is_rejected():
    built = process(should_reject_update=lambda state, update: fc.trees.norm(update) > 0.01)
    first = built.initialize()
    new, metrics = built.next(first, reference.cohort(CLIENTS))
    assert metrics["finalizer"]["update_rejected"] == 1
    reference.assert_same_bits(new.weights, first.weights)


@pytest.mark.slow
def test_order_lanes_and_devices_change_no_running_state(started):
    built, state = started
    expected, _ = built.next.with_config(fc.EngineConfig(lanes=2, devices=1))(state, reference.cohort(CLIENTS))
    turned = reference.cohort(CLIENTS, list(reversed(CLIENTS)))
    found, _ = built.next.with_config(fc.EngineConfig(lanes=2, devices=2))(state, turned)
    reference.assert_same_bits(found.weights, expected.weights)


def test_client_of_nan_leaves_no_running_state(started):
    built, state = started
    clients = {**CLIENTS, "b": {**CLIENTS["b"], "x": np.full_like(CLIENTS["b"]["x"], np.nan)}}
    new, metrics = built.next(state, reference.cohort(clients))
    expected = mean_input([CLIENTS["a"], CLIENTS["d"]])
    np.testing.assert_allclose(new.weights.non_trainable["mean"], expected, rtol=1e-5, atol=1e-6)
    assert fc.algorithms.left_out_clients(metrics, list(clients)) == {"b": "update"}


@pytest.mark.parametrize("ids", [[], ["c"]], ids=["nobody", "no examples"])
def test_round_without_examples_leaves_the_running_state(started, ids):
    built, state = started
    new, _ = built.next(state, reference.cohort(CLIENTS, ids))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))


def test_clients_that_contribute_without_running_examples_leave_the_running_state():
    def idle(weights, data, key):
        result = work(weights, data, key)
        return result._replace(running=result.running._replace(num_examples=jnp.float32(0)))

    built = process(idle)
    state = built.initialize()
    new, _ = built.next(state, reference.cohort(CLIENTS))
    reference.assert_same_bits(new.weights.non_trainable, state.weights.non_trainable)
    assert (np.asarray(new.weights.trainable["bias"]) != np.asarray(state.weights.trainable["bias"])).all()


@pytest.mark.slow
def test_gradient_through_running_state_is_finite(started):
    built, state = started
    next, cohort = built.next.as_function(), fc.pack_cohort(reference.cohort(CLIENTS))

    def loss(mean):
        non_trainable = {**state.weights.non_trainable, "mean": mean}
        weights = state.weights._replace(non_trainable=non_trainable)
        return jnp.sum(next(state._replace(weights=weights), cohort)[0].weights.non_trainable["mean"])

    np.testing.assert_allclose(jax.grad(loss)(jnp.arange(4.0)), np.zeros(4), atol=1e-6)


def test_running_state_beside_a_noised_aggregate_is_refused():
    private = fc.aggregators.private_mean(1.0, 1.0, 3, key=KEY)
    with pytest.raises(ProcessCompositionError, match=r'(?s)without the noise.*running="freeze".*running="keep"'):
        process(aggregator=private)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda running: running._replace(state=running.state["mean"]), r"running state must be .*got .*float32\[4\]"),
        (lambda running: running._replace(num_examples=jnp.int32(1)), "num_examples=int32"),
        (lambda running: running.state, "running state must be"),
    ],
)
def test_running_state_of_another_type_names_the_client_work(change, found):
    def other(weights, data, key):
        result = work(weights, data, key)
        return result._replace(running=change(result.running))

    with pytest.raises(ProcessCompositionError, match=rf"(?s)the client_work .*{found}"):
        process(other)
