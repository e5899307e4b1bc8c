"""Sums of statistics over clients and rounds, finalized at the server."""

import jax
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.metrics import finalize_sum, sum_then_finalize

STATISTICS = fc.types.to_type({"accuracy": ("int32", "int32"), "loss": ("float32", "int32")})
WORDS, FLOATS = "<low=uint32,high=int32>", "<high=float32,low=float32>"
STATE = f"<accuracy=<{WORDS},{WORDS}>,loss=<{FLOATS},{WORDS}>>"
FINALIZERS = {"accuracy": lambda s: s[0] / s[1], "loss": lambda s: s[0] / s[1].astype("float32")}


def _client(right, count, loss):
    return {"accuracy": (right, count), "loss": (loss, count)}


CLIENTS = [_client(3, 4, 2.0), _client(0, 1, 5.0), _client(2, 5, 0.5)]


def _numbers(totals):
    """The numbers of totals in a state."""
    return [word.low.item() + 2**32 * word.high.item() for word in totals]


@pytest.fixture(scope="module")
def process():
    return sum_then_finalize().create(FINALIZERS, STATISTICS)


def test_is_an_aggregation_process_without_a_weight(process):
    assert isinstance(process, fc.templates.AggregationProcess) and not process.is_weighted
    metrics = "<accuracy=float32,loss=float32>"
    assert str(process.next.type_signature) == (
        f"(<totals={STATE}@SERVER,unfinalized={{{STATISTICS}}}@CLIENTS> -> <state={STATE}@SERVER,"
        f"result=<{metrics},{metrics}>@SERVER,measurements=<num_non_finite=int32>@SERVER>)"
    )


def test_current_round_and_all_rounds(process):
    state, (current, total), measured = process.next(process.initialize(), CLIENTS)
    for metrics in (current, total):
        np.testing.assert_allclose(metrics["accuracy"], 5 / 10)
        np.testing.assert_allclose(metrics["loss"], 7.5 / 10)
    assert measured == {"num_non_finite": 0}
    state, (current, total), _ = process.next(state, [_client(10, 10, 30.0)])
    assert current["accuracy"] == 1.0 and current["loss"] == 3.0
    np.testing.assert_allclose(total["accuracy"], 15 / 20)
    np.testing.assert_allclose(total["loss"], 37.5 / 20)
    assert _numbers(state["accuracy"]) == [15, 20]


def test_order_of_clients_changes_nothing(process):
    results = [process.next(process.initialize(), [CLIENTS[i] for i in order]) for order in ((0, 1, 2), (2, 0, 1))]
    for a, b in zip(*map(jax.tree.leaves, results)):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_client_that_is_not_finite_is_left_out_whole_and_counted(process, value):
    state, (current, _), measured = process.next(process.initialize(), [*CLIENTS, _client(9, 9, value)])
    assert measured == {"num_non_finite": 1}
    np.testing.assert_allclose(current["accuracy"], 0.5)
    np.testing.assert_allclose(current["loss"], 0.75)
    assert _numbers(state["accuracy"]) == [5, 10]


def test_metrics_over_nobody_are_nan(process):
    state, (current, total), measured = process.next(process.initialize(), [])
    assert all(np.isnan(leaf) for leaf in jax.tree.leaves((current, total)))
    assert measured == {"num_non_finite": 0} and not any(jax.tree.leaves(state))


def test_finalizers_of_other_names_list_both():
    with pytest.raises(ValueError, match=r"\['acc', 'loss'\] do not have the names .*, \['accuracy', 'loss'\]"):
        sum_then_finalize().create({"acc": FINALIZERS["accuracy"], "loss": FINALIZERS["loss"]}, STATISTICS)
    with pytest.raises(ValueError, match="do not have the names of the metrics"):
        sum_then_finalize().create({"loss": FINALIZERS["loss"]}, STATISTICS)
    with pytest.raises(TypeError, match="must be a struct of tensors with a name for every metric, got float32"):
        sum_then_finalize().create({}, fc.types.to_type("float32"))


@pytest.mark.parametrize("wrong", [None, [1], {"accuracy": 1, "loss": 2}])
def test_finalizers_of_a_wrong_kind_are_refused(wrong):
    with pytest.raises(
        TypeError, match="finalizers must be a function of all metrics or a dict of functions by metric"
    ):
        sum_then_finalize().create(wrong, STATISTICS)


def test_one_function_may_finalize_all():
    process = sum_then_finalize().create(lambda s: s["loss"][0] / s["accuracy"][1], STATISTICS)
    _, (current, total), _ = process.next(process.initialize(), CLIENTS)
    assert current == total == 0.75


def test_finalizer_that_fails_is_refused_when_built():
    with pytest.raises(TypeError, match="cannot be applied"):
        sum_then_finalize().create({**FINALIZERS, "loss": lambda s: s["total"]}, STATISTICS)


def test_finalize_sum_inside_a_computation_of_ones_own():
    @fc.federated_computation(fc.at_clients(STATISTICS))
    def worst_and_mean(metrics):
        mean, measured = finalize_sum(FINALIZERS, metrics)
        return {"mean": mean, "worst": fc.federated_max(metrics["loss"][0]), "measured": measured}

    result = worst_and_mean(CLIENTS)
    np.testing.assert_allclose(result["mean"]["loss"], 0.75)
    assert result["worst"] == 5.0 and result["measured"] == {"num_non_finite": 0}
