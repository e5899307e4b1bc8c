"""Metrics of regression against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import metrics

KINDS = {
    "mean_absolute_error": metrics.mean_absolute_error,
    "mean_squared_error": metrics.mean_squared_error,
    "r_squared": metrics.r_squared,
}


def _reference(name, predictions, labels):
    predictions, labels = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    errors = labels - predictions
    if name == "r_squared":
        return np.mean(1 - (errors**2).sum(0) / ((labels - labels.mean(0)) ** 2).sum(0))
    return np.mean(np.abs(errors) if name == "mean_absolute_error" else errors**2)


def _batch(seed, shape=(50,), mean=0.0):
    random = np.random.default_rng(seed)
    labels = (mean + random.normal(size=shape)).astype(np.float32)
    predictions = (labels + 0.3 * random.normal(size=shape)).astype(np.float32)
    return predictions, {"y": labels}, random.random(shape[0]) < 0.7


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 2, 2), (50, 1)])
def test_equals_the_reference(name, shape):
    metric = KINDS[name]()
    predictions, batch, mask = _batch(0, shape)
    found = metric.finalize(metric.measure(predictions, batch, mask))
    assert found.shape == () and found.dtype == np.float32
    np.testing.assert_allclose(found, _reference(name, predictions[mask], batch["y"][mask]), rtol=1e-5)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtypes", [(np.float32, np.int32), (np.int32, np.int32), ("bfloat16", np.float32)])
def test_dtypes(name, dtypes):
    metric = KINDS[name]()
    predictions = jnp.asarray([3, 1, 4, 1, 5], dtypes[0])
    labels = jnp.asarray([2, 7, 1, 8, 2], dtypes[1])
    found = metric.finalize(metric.measure(predictions, {"y": labels}, np.ones(5, bool)))
    np.testing.assert_allclose(found, _reference(name, predictions, labels), rtol=1e-6)


def test_r_squared_of_labels_far_from_zero():
    """Sums about zero cancel, so the value is refused; about a center near the mean they do not."""
    predictions, batch, mask = _batch(1, (2000,), mean=1e4)
    expected = _reference("r_squared", predictions[mask], batch["y"][mask])
    plain, centered = metrics.r_squared(), metrics.r_squared(center=1e4)
    assert np.isnan(plain.finalize(plain.measure(predictions, batch, mask)))
    np.testing.assert_allclose(centered.finalize(centered.measure(predictions, batch, mask)), expected, rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0, 90.0])
def test_r_squared_that_is_given_is_right_to_a_percent(mean):
    """Up to the limit at which it is refused, over many batches that are added one by one."""
    metric = metrics.r_squared()
    predictions, batch, mask = _batch(2, (64 * 200,), mean)
    parts = [x.reshape(200, 64) for x in (predictions, batch["y"], mask)]
    statistics = jax.vmap(lambda p, y, m: metric.measure(p, {"y": y}, m))(*parts)
    zero = jax.tree.map(lambda s: jnp.zeros_like(s[0]), statistics)
    total, _ = jax.lax.scan(lambda a, b: (jax.tree.map(jnp.add, a, b), None), zero, statistics)
    expected = _reference("r_squared", predictions[mask], batch["y"][mask])
    assert abs(metric.finalize(total) - expected) < 0.01


@pytest.mark.parametrize("labels", [[0.1], [0.1] * 40, [0.0] * 3, [1e6] * 40], ids=["one", "tenth", "zero", "million"])
def test_labels_without_variance_have_no_r_squared(labels):
    metric = metrics.r_squared()
    labels = np.array(labels, np.float32)
    statistic = metric.measure(labels + 1, {"y": labels}, np.ones(len(labels), bool))
    assert np.isnan(metric.finalize(statistic))


def test_r_squared_at_its_marks():
    metric, everyone = metrics.r_squared(), np.ones(4, bool)
    labels = np.array([1, 2, 3, 6], np.float32)
    for predictions, expected in ((labels, 1.0), (np.full(4, 3.0), 0.0), (2 * labels, 1 - 50 / 14)):
        found = metric.finalize(metric.measure(predictions, {"y": labels}, everyone))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_errors(name):
    metric, everyone = KINDS[name](), np.ones(5, bool)
    for predictions, labels in (((5, 1), (5,)), ((5,), (4,)), ((), ())):
        with pytest.raises(ValueError, match=rf"{name} compares predictions and labels of one shape"):
            metric.measure(np.zeros(predictions), {"y": np.zeros(labels)}, everyone)
    with pytest.raises(TypeError, match=rf"{name} compares real numbers, got complex64 in predictions"):
        metric.measure(np.zeros(5, np.complex64), {"y": np.zeros(5)}, everyone)
    with pytest.raises(TypeError, match=rf"{name} compares real numbers, got bool in batch\['y'\]"):
        metric.measure(np.zeros(5), {"y": np.zeros(5, bool)}, everyone)


def test_center_is_a_number():
    with pytest.raises(
        TypeError,
        match=r"r_squared\(center=...\) must be a finite number, got 'mean'; write a number near the mean",
    ):
        metrics.r_squared("mean")
