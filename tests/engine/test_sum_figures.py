"""Sums, means and losses over very many clients, beside NumPy in float64: relative errors of at most 1e-6."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from tests.marks import with_slow


@fc.federated_computation(fc.at_clients("float32"), fc.at_clients("float32"))
def figures(values, weights):
    return {
        "sum": fc.federated_sum(values),
        "mean": fc.federated_mean(values),
        "weighted sum": fc.federated_sum(fc.federated_map(jnp.multiply, values, weights)),
        "weighted mean": fc.federated_mean(values, weights),
    }


PROGRAMS = {
    "1 lane": figures.with_config(fc.EngineConfig(lanes=1, devices=1)),
    "8 lanes": figures.with_config(fc.EngineConfig(lanes=8, devices=1)),
    "as_function": jax.jit(figures.as_function()),
}
VALUES = {
    "equal": lambda random, number: np.full(number, 0.1),
    "random": lambda random, number: random.random(number),
    "signed": lambda random, number: random.normal(size=number),
    "12 orders of magnitude": lambda random, number: 10.0 ** random.uniform(-6, 6, number),
    "large ones first": lambda random, number: np.geomspace(1e6, 1e-6, number),
}
NUMBERS = [100_000, 1_000_000, 3_000_000]
CASES = list(itertools.product(VALUES, PROGRAMS, NUMBERS))


@pytest.mark.parametrize(("kind", "program", "number"), with_slow(CASES, {c for c in CASES if c[2] > 100_000}))
def test_sums_and_means_do_not_drift(kind, program, number):
    values = VALUES[kind](np.random.default_rng(number), number).astype(np.float32)
    weights = np.full(number, 3, np.float32)
    found = {name: float(x) for name, x in PROGRAMS[program](values, weights).items()}
    wide, magnitude = values.astype(np.float64), np.abs(values.astype(np.float64)).sum()
    total = wide.sum()
    expected = {"sum": total, "mean": total / number, "weighted sum": 3 * total, "weighted mean": total / number}
    # The error of a sum of both signs is measured on the sum of the magnitudes.
    errors = {name: abs(found[name] - value) * abs(total / value) / magnitude for name, value in expected.items()}
    assert max(errors.values()) <= 1e-6, errors


LOSSES = [(50_000, 1), (200_000, 1), (200_000, 8)]


@pytest.mark.parametrize(("number", "lanes"), with_slow(LOSSES, {(200_000, 1), (200_000, 8)}))
def test_the_loss_of_zero_weights_is_the_logarithm_of_the_number_of_classes(number, lanes):
    examples = {"x": np.ones((number, 1), np.float32), "y": np.arange(number, dtype=np.int32) % 10}
    data = fc.data.FederatedData.from_arrays(examples, np.arange(number))
    model = fc.models.logistic_regression(1, 10)
    weights = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    evaluate = fc.algorithms.federated_evaluation(model).with_config(fc.EngineConfig(lanes, 1))
    metrics = evaluate(weights, data.cohort(data.client_ids, fc.data.Batching(1)))["eval"]
    assert abs(float(metrics["loss"]) / np.log(10) - 1) <= 1e-6
    assert int(metrics["num_examples"]) == number
