"""The laws of metrics: for each of them one that breaks it and keeps the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core import testing
from fedjax_core.contracts import Metric
from tests.broken_laws import broken

SCORES = np.random.default_rng(0).normal(size=12).astype(np.float32)
BATCH = {"y": np.random.default_rng(1).integers(0, 2, 12)}


def sum_and_count(predictions, batch, mask):
    return jnp.sum(jnp.where(mask, jnp.abs(predictions - batch["y"]), 0.0)), jnp.sum(mask, dtype=jnp.int32)


def ratio(statistic):
    return statistic[0] / statistic[1]


def of_unmasked(predictions, batch, mask):
    weights = mask.astype(jnp.float32)
    return jnp.sum(weights * jnp.abs(predictions - batch["y"])), jnp.sum(mask, dtype=jnp.int32)


def of_the_first_sixteen(predictions, batch, mask):
    return sum_and_count(predictions, batch, mask & (jnp.arange(mask.shape[0]) < 16))


def of_the_largest(predictions, batch, mask):
    return jnp.max(jnp.where(mask, jnp.abs(predictions - batch["y"]), 0.0)), jnp.sum(mask, dtype=jnp.int32)


def with_a_truth(predictions, batch, mask):
    return (*sum_and_count(predictions, batch, mask), jnp.any(mask))


def with_a_start(predictions, batch, mask):
    total, count = sum_and_count(predictions, batch, mask)
    return jnp.where(jnp.any(mask), total, 1.0), count


def doubled_if_compiled(predictions, batch, mask):
    factor = 1 + isinstance(mask, jax.core.Tracer)
    return jax.tree.map(lambda x: x * factor, sum_and_count(predictions, batch, mask))


METRICS = {
    "padding": Metric(of_unmasked, ratio),
    "width": Metric(of_the_first_sixteen, ratio),
    "additive": Metric(of_the_largest, ratio),
    "statistic": Metric(with_a_truth, ratio),
    "zero_of_nobody": Metric(with_a_start, ratio),
    "nan_of_nobody": Metric(sum_and_count, lambda statistic: statistic[0] / jnp.maximum(statistic[1], 1)),
    "compiled": Metric(doubled_if_compiled, ratio),
}


def test_a_metric_keeps_all_laws():
    testing.check_metric(Metric(sum_and_count, ratio), SCORES, BATCH)
    few = {"y": BATCH["y"][:5]}
    testing.check_metric(Metric(sum_and_count, ratio), SCORES[:5], few, [True, True, True, False, True])


@pytest.mark.parametrize("law", METRICS)
def test_a_metric_breaks_this_law_alone(law):
    assert broken(testing.check_metric, METRICS[law], SCORES, BATCH) == {law}


def test_every_law_of_metrics_has_one_that_breaks_it():
    assert METRICS.keys() == testing.METRIC_LAWS.keys()


def test_a_statistic_of_the_size_of_the_batch_is_found():
    whole = Metric(lambda predictions, batch, mask: jnp.where(mask, predictions, 0), jnp.sum)
    with pytest.raises(AssertionError, match=r"statistic: .*\n  expected .*shape=\(12,\).*, for 1 examples found"):
        testing.check_metric(whole, SCORES, BATCH, laws="statistic")


def test_a_metric_that_cannot_be_traced_is_found():
    untraced = Metric(lambda predictions, batch, mask: np.asarray(predictions).sum(), lambda statistic: statistic)
    assert broken(testing.check_metric, untraced, SCORES, BATCH) == METRICS.keys()


@pytest.mark.parametrize(
    "arguments, error",
    [
        ((SCORES[:5], BATCH), "different|one row per example"),
        ((SCORES[:3], {"y": BATCH["y"][:3]}), "at least 4 examples"),
        ((None, {}), "at least 4 examples"),
        ((SCORES, BATCH, np.ones(12, bool)), "False for some examples"),
        ((SCORES, {"y": np.float32(1)}), "one row per example"),
    ],
)
def test_batches_that_show_nothing_are_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        testing.check_metric(Metric(sum_and_count, ratio), *arguments)


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError, match="check_metric takes a Metric"):
        testing.check_metric(fc.metrics.accuracy, SCORES, BATCH)
