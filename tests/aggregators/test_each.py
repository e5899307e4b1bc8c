"""One aggregator for each field, against NumPy; and weights by field and by row."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from fedjax_core import aggregators
from tests.algorithms.test_compose_guards import counting

RANDOM = np.random.default_rng(0)
DELTAS, NORMS = RANDOM.normal(size=(5, 3)).astype(np.float32), RANDOM.random(5).astype(np.float32)
STEPS, SIZES = np.array([3, 1, 4, 1, 5], np.int32), np.array([2.0, 0.0, 1.0, 3.0, 2.0], np.float32)


class Update(NamedTuple):
    """A struct whose fields are not in alphabetical order."""

    steps: int
    delta: jax.Array
    norm: float


UPDATES = Update(STEPS, DELTAS, NORMS)
TYPE = Update("int32", "float32[3]", "float32")


def each(**changes):
    fields = {"delta": aggregators.mean(), "norm": aggregators.mean(), "steps": aggregators.sum()}
    return aggregators.each(**fields | changes)


def weighted(values, weights):
    return np.tensordot(np.float64(weights), np.float64(values), 1) / np.float64(weights).sum()


def test_one_weight_is_for_all_fields():
    process = aggregators.as_process(each(), TYPE)
    result = process.next(process.initialize(), UPDATES, SIZES).result
    assert isinstance(result, Update) and result.steps == STEPS.sum()
    np.testing.assert_allclose(result.delta, weighted(DELTAS, SIZES), rtol=1e-6)
    np.testing.assert_allclose(result.norm, weighted(NORMS, SIZES), rtol=1e-6)


def test_a_weight_for_each_field():
    weight_type = {"delta": "float32", "norm": "float32", "steps": "float32"}
    process = aggregators.as_process(each(), TYPE, weight_type)
    weights = {"delta": SIZES, "norm": np.ones(5, np.float32), "steps": SIZES}
    output = process.next(process.initialize(), UPDATES, weights)
    np.testing.assert_allclose(output.result.delta, weighted(DELTAS, SIZES), rtol=1e-6)
    np.testing.assert_allclose(output.result.norm, np.float64(NORMS).mean(), rtol=1e-6)
    assert output.measurements["norm"]["mean_weight"]["total"] == 5.0


def test_every_field_has_a_state_of_its_own():
    process = aggregators.as_process(each(delta=counting(aggregators.mean())), TYPE)
    state = process.initialize()
    assert set(state) == {"delta", "norm", "steps"}
    for _ in range(2):
        state = process.next(state, UPDATES, SIZES).state
    assert state["delta"]["rounds"] == 2
    np.testing.assert_allclose(state["delta"]["released"], 2 * weighted(DELTAS, SIZES), rtol=1e-5)


def test_it_always_releases_if_one_of_them_does():
    private = aggregators.private_mean(1.0, 1.0, 5, key=jax.random.key(0))
    assert each(delta=private).always_releases and not each().always_releases


@pytest.mark.parametrize("value_type", [{"delta": "float32"}, "float32", ("float32", "float32", "float32")])
def test_values_with_other_fields_are_refused(value_type):
    with pytest.raises(TypeError, match=r"takes a value with the fields \['delta', 'norm', 'steps'\], got"):
        aggregators.as_process(each(), value_type)


def test_what_is_no_aggregator_is_refused():
    with pytest.raises(TypeError, match=r"each\(norm=...\) must be an Aggregator.*write norm=fc.aggregators.mean\(\)"):
        each(norm=aggregators.mean)
    with pytest.raises(TypeError, match="takes an aggregator for each field, got none"):
        aggregators.each()


ROWS = RANDOM.normal(size=(5, 2, 3)).astype(np.float32)
ROW_WEIGHTS = np.array([[1, 0], [2, 0], [0, 0], [1, 0], [5, 0]], np.float32)


def test_mean_by_rows_is_zero_in_a_row_without_weight():
    process = aggregators.as_process(aggregators.mean(), {"b": "float32[2]", "w": "float32[2,3]"}, "float32[2]")
    output = process.next(process.initialize(), {"b": ROWS[:, :, 0], "w": ROWS}, ROW_WEIGHTS)
    np.testing.assert_allclose(output.result["w"][0], weighted(ROWS[:, 0], ROW_WEIGHTS[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(output.result["b"][0], weighted(ROWS[:, 0, 0], ROW_WEIGHTS[:, 0]), rtol=1e-5)
    assert not output.result["w"][1].any() and not output.result["b"][1]
    np.testing.assert_array_equal(output.measurements["mean_weight"]["total"], [9.0, 0.0])
    assert output.measurements["mean_weight"]["num_zero"] == 1


def test_mean_by_fields():
    types = {"body": "float32[2,3]", "head": "float32"}
    process = aggregators.as_process(aggregators.mean(), types, {"body": "float32", "head": "float32"})
    weights = {"body": SIZES, "head": NORMS}
    result = process.next(process.initialize(), {"body": ROWS, "head": NORMS}, weights).result
    np.testing.assert_allclose(result["body"], weighted(ROWS, SIZES), rtol=1e-5)
    np.testing.assert_allclose(result["head"], weighted(NORMS, NORMS), rtol=1e-6)


@pytest.mark.parametrize(
    "aggregator",
    [
        aggregators.clip_by_norm(1.0),
        aggregators.zero_large(1.0),
        aggregators.measure(),
        aggregators.median(),
        aggregators.trimmed_mean(0.2),
        aggregators.private_mean(1.0, 1.0, 5, key=jax.random.key(0)),
    ],
    ids=["clip_by_norm", "zero_large", "measure", "median", "trimmed_mean", "private_mean"],
)
def test_aggregators_that_take_one_weight_refuse_several(aggregator):
    with pytest.raises(TypeError, match=r"takes one weight for each client, got \{float32\[2\]\}@CLIENTS"):
        aggregators.as_process(aggregator, "float32[2]", "float32[2]")


def test_its_noise_is_that_of_all_fields_together():
    """Two sums with noise 3 and 4 move by 1/3 and 1/4 of their noise, together by 5/12 of it."""
    three, four = (aggregators.private_mean(1.0, z, cohort_size=4, key=jax.random.key(0)) for z in (3.0, 4.0))
    assert aggregators.each(a=three, b=four).noise_multiplier == pytest.approx(12 / 5)
    assert aggregators.each(a=three, b=aggregators.sum()).noise_multiplier == 0.0
    assert aggregators.each(a=aggregators.mean()).noise_multiplier == 0.0
