"""Metrics of one's own that padding changes are told of where a model is used."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import metrics
from fedjax_core.contracts import Metric

KEY = jax.random.key(0)


def right(predictions, batch):
    return predictions.argmax(-1) == batch["y"]


def metric(measure):
    return Metric(measure, lambda statistic: statistic)


def in_batch(predictions, batch):
    """The loss of a row against the labels of all rows."""
    return jax.nn.logsumexp(predictions @ predictions.T, axis=1)


UNMASKED = {
    "a count of all rows": lambda: metric(lambda p, b, mask: (jnp.sum(right(p, b) & mask), mask.size)),
    "a sum over all rows": lambda: metric(lambda p, b, mask: jnp.sum(right(p, b))),
    "a mean over all rows": lambda: metric(lambda p, b, mask: jnp.mean(p)),
    "an average of batches": lambda: metric(lambda p, b, mask: jnp.mean(jnp.where(mask, p[:, 0], 0))),
    "one for each domain": lambda: metrics.per_domain(metric(lambda p, b, mask: jnp.sum(right(p, b))), 2, "y"),
    "a loss that combines rows": lambda: metrics.loss(in_batch),
}
MASKED = {
    "by selection": lambda: metric(lambda p, b, mask: jnp.sum(jnp.where(mask, right(p, b), 0))),
    "by a product": lambda: metric(lambda p, b, mask: (jnp.sum(p[:, 0] * mask), mask.sum())),
    "a maximum": lambda: metric(lambda p, b, mask: jnp.max(jnp.where(mask[:, None], p, -jnp.inf))),
    "one for each domain": lambda: metrics.per_domain(metrics.accuracy(), 2, "y"),
    "a loss": lambda: metrics.loss(lambda p, b: p[:, 0]),
    "of the package": metrics.confusion_matrix,
}


def model(own):
    return fc.models.logistic_regression(2, 3, metrics={"own": own})


@pytest.mark.parametrize("name", UNMASKED)
def test_a_metric_that_padding_changes_is_told_of_by_its_name(name):
    with pytest.warns(UserWarning, match=r"padding changes the metric 'own'; .*jnp\.where\(mask, errors, 0\)"):
        fc.clients.accumulator(model(UNMASKED[name]()))


@pytest.mark.parametrize("name", MASKED)
def test_there_is_no_false_alarm(name):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fc.clients.accumulator(model(MASKED[name]()))
    assert not told


def test_predictions_may_hold_more_than_rows():
    """The penalty of the weights is one number for the whole batch."""
    softmax = fc.models.logistic_regression(2, 3)

    def predict(weights, batch, key=None, training=False):
        return {"scores": softmax.predict(weights, batch), "penalty": fc.trees.squared_norm(weights)}

    own = metric(lambda p, b, mask: jnp.sum(jnp.where(mask, right(p["scores"], b), 0)))
    penalized = softmax._replace(
        predict=predict, loss=lambda p, b: softmax.loss(p["scores"], b) + p["penalty"], metrics={"own": own}
    )
    assert fc.clients.accumulator(penalized).init().high["own"] == 0


def test_it_is_told_once():
    own = UNMASKED["a sum over all rows"]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            fc.algorithms.fed_avg(model(own), optax.sgd(0.1), key=KEY)
            fc.algorithms.federated_evaluation(model(own))
    assert [str(warning.message)[:35] for warning in caught] == ["padding changes the metric 'own'; b"]


def test_evaluation_pads_with_an_example_so_that_no_prediction_for_padding_is_nan():
    """The model divides each row by its length, which would be zero for a row of zeros."""

    def predict(weights, batch, key=None, training=False):
        return batch["x"] / jnp.linalg.norm(batch["x"], axis=1, keepdims=True) @ weights["kernel"]

    own = metric(lambda p, b, mask: jnp.sum(jnp.isnan(p)))
    evaluation = fc.algorithms.federated_evaluation(model(own)._replace(predict=predict))
    weights = {"bias": jnp.zeros(3), "kernel": jnp.ones((2, 3))}
    data = fc.data.from_clients([{"x": np.float32([[3, 4]] * n), "y": np.zeros(n, int)} for n in (5, 2)])
    assert int(evaluation(weights, data.cohort([0, 1], fc.data.Batching(4)))["eval"]["own"]) == 0
