import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import models


def _reference(logits, labels):
    logits = logits.astype(np.float64)
    normalizer = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    return normalizer - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def _logits(*shape):
    return (np.random.default_rng(0).normal(size=shape) * 4).astype(np.float32)


def test_cross_entropy_equals_the_reference():
    logits, labels = _logits(9, 5), np.arange(9) % 5
    losses = models.cross_entropy()(logits, {"y": labels})
    np.testing.assert_allclose(losses, _reference(logits, labels), rtol=1e-5)


def test_cross_entropy_stays_finite_for_large_logits():
    loss = models.cross_entropy()
    assert loss(jnp.array([[1e30, -1e30]]), {"y": jnp.array([0])}) == 0


@pytest.mark.parametrize("label", [-1, 5, 1000])
def test_an_unknown_label_gives_nan_for_its_example_alone_and_in_the_gradient(label):
    loss, batch = models.cross_entropy(), {"y": np.array([1, label])}
    assert np.isnan(loss(_logits(2, 5), batch)).tolist() == [False, True]
    gradient = jax.grad(lambda logits: loss(logits, batch).sum())(_logits(2, 5))
    assert np.isnan(gradient).all(axis=1).tolist() == [False, True]


def test_cross_entropy_takes_another_field_and_small_integers():
    labels = np.array([0, 3], np.uint8)
    losses = models.cross_entropy(label="digit")(_logits(2, 5), {"digit": labels})
    np.testing.assert_allclose(losses, _reference(_logits(2, 5), labels), rtol=1e-5)


def test_sequence_cross_entropy_is_the_sum_over_tokens_by_the_length():
    logits, tokens = _logits(2, 4, 5), np.array([[1, 2, 0, 0], [3, 0, 4, 1]])
    expected = np.where(tokens != 0, _reference(logits, tokens), 0).sum(1) / 4
    np.testing.assert_allclose(models.sequence_cross_entropy()(logits, {"y": tokens}), expected, rtol=1e-5)
    everything = models.sequence_cross_entropy(pad=None)(logits, {"y": tokens})
    np.testing.assert_allclose(everything, _reference(logits, tokens).mean(1), rtol=1e-5)


def test_sequence_cross_entropy_takes_a_pad_outside_of_the_vocabulary():
    loss, batch = models.sequence_cross_entropy(pad=-1), {"y": np.array([[2, -1]])}
    np.testing.assert_allclose(
        loss(_logits(1, 2, 5), batch), _reference(_logits(1, 2, 5), np.array([[2, 0]]))[:, 0] / 2, rtol=1e-5
    )
    gradient = jax.grad(lambda logits: loss(logits, batch).sum())(_logits(1, 2, 5))
    assert (gradient[0, 1] == 0).all()
    assert np.isfinite(gradient).all()


def test_squared_error_averages_over_components():
    predictions, values = _logits(4, 3, 2), _logits(4, 3, 2) * 0.5
    expected = ((predictions.astype(np.float64) - values) ** 2).mean((1, 2))
    np.testing.assert_allclose(models.squared_error()(predictions, {"y": values}), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "predictions", "labels", "error"),
    [
        (models.cross_entropy(), (4, 3), np.zeros((4, 1), int), ValueError),
        (models.cross_entropy(), (4,), np.zeros(4, int), ValueError),
        (models.cross_entropy(), (4, 2, 3), np.zeros((4, 2), int), ValueError),
        (models.cross_entropy(), (4, 3), np.zeros(4, np.float32), TypeError),
        (models.sequence_cross_entropy(), (4, 3), np.zeros(4, int), ValueError),
        (models.sequence_cross_entropy(), (4, 2, 3), np.zeros((4, 5), int), ValueError),
        (models.squared_error(), (4, 1), np.zeros(4, np.float32), ValueError),
    ],
)
def test_refuses_what_does_not_belong_together(loss, predictions, labels, error):
    with pytest.raises(error, match="got"):
        loss(np.zeros(predictions, np.float32), {"y": labels})
