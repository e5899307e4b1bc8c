import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_core import types
from fedjax_core.contracts import Metric, Model
from fedjax_core.model_calls import mean_loss, model_metrics


def _difference(predictions, batch):
    return predictions - batch["y"]


def _model(**changes):
    model = Model(
        init=lambda key: jnp.zeros(3),
        predict=lambda weights, batch, key=None, training=False: batch["x"] @ weights,
        loss=_difference,
        metrics={},
        batch_type=types.parse_type("<x=float32[?,3],y=float32[?]>"),
    )
    return model._replace(**changes)


def _batch(seed, size):
    random = np.random.default_rng(seed)
    return (
        random.normal(size=size).astype(np.float32),
        {"y": random.normal(size=size).astype(np.float32)},
        random.random(size) < 0.6,
    )


def test_mean_loss_is_the_mean_over_the_unmasked_examples():
    predictions, batch, mask = _batch(0, 50)
    metric = mean_loss(_difference)
    statistic = metric.measure(predictions, batch, mask)
    expected = (predictions.astype(np.float64) - batch["y"])[mask]
    assert statistic[1] == mask.sum()
    np.testing.assert_allclose(statistic[0], expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(metric.finalize(statistic), expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, np.inf])
def test_mean_loss_ignores_what_stands_in_padding(garbage):
    predictions, batch, mask = _batch(1, 20)
    metric = mean_loss(_difference)
    dirty = np.where(mask, predictions, np.float32(garbage))
    for clean, other in zip(metric.measure(predictions, batch, mask), metric.measure(dirty, batch, mask)):
        np.testing.assert_array_equal(clean, other)


def test_mean_loss_adds_up_over_batches():
    predictions, batch, mask = _batch(2, 30)
    metric = mean_loss(_difference)
    halves = [
        metric.measure(predictions[part], {"y": batch["y"][part]}, mask[part]) for part in (slice(0, 11), slice(11, 30))
    ]
    total = jax.tree.map(jnp.add, *halves)
    np.testing.assert_allclose(total[0], metric.measure(predictions, batch, mask)[0], rtol=1e-6)
    assert total[1] == mask.sum()


def test_mean_loss_over_nobody_is_nan():
    predictions, batch, _ = _batch(3, 4)
    metric = mean_loss(_difference)
    assert jnp.isnan(metric.finalize(metric.measure(predictions, batch, np.zeros(4, bool))))


def test_mean_loss_sums_small_floats_in_float32():
    metric = mean_loss(lambda predictions, batch: predictions)
    total, _ = metric.measure(jnp.ones(1000, jnp.bfloat16), {}, jnp.ones(1000, bool))
    assert total.dtype == jnp.float32
    assert total == 1000


@pytest.mark.parametrize("reduce", [jnp.mean, lambda losses: losses[:, None]])
def test_mean_loss_refuses_a_loss_that_is_not_per_example(reduce):
    predictions, batch, mask = _batch(4, 6)
    metric = mean_loss(lambda predictions, batch: reduce(_difference(predictions, batch)))
    with pytest.raises(ValueError, match=r"one value for each example, shape \(6,\), got shape"):
        metric.measure(predictions, batch, mask)


def test_mean_loss_traces_with_a_symbolic_batch():
    (size,) = jax.export.symbolic_shape("b")
    values = jax.ShapeDtypeStruct((size,), jnp.float32)
    mask = jax.ShapeDtypeStruct((size,), jnp.bool_)
    total, count = jax.eval_shape(mean_loss(_difference).measure, values, {"y": values}, mask)
    assert (total.shape, total.dtype, count.shape, count.dtype) == ((), jnp.float32, (), jnp.int32)


def test_model_metrics_puts_the_loss_first_and_once():
    own = Metric(lambda predictions, batch, mask: mask.sum(), lambda total: total)
    model = _model(metrics={"accuracy": own})
    metrics = model_metrics(model)
    assert list(metrics) == ["loss", "accuracy", "num_examples"]
    assert metrics["accuracy"] is own
    assert list(model.metrics) == ["accuracy"]


def test_model_metrics_of_a_model_without_metrics():
    assert list(model_metrics(_model())) == ["loss", "num_examples"]


def test_model_metrics_keeps_the_models_own_number_of_examples():
    own = Metric(lambda predictions, batch, mask: mask.sum(), lambda total: total)
    assert model_metrics(_model(metrics={"num_examples": own}))["num_examples"] is own


@pytest.mark.parametrize("metrics", [None, [1], {"accuracy": lambda *_: 0}, {1: mean_loss(_difference)}])
def test_model_metrics_refuses_what_is_no_dict_of_metrics(metrics):
    with pytest.raises(TypeError, match="a dict from name to Metric, got"):
        model_metrics(_model(metrics=metrics))


def _uncalled(label="y"):
    return _difference


@pytest.mark.parametrize(
    "loss",
    [
        optax.softmax_cross_entropy_with_integer_labels,
        optax.squared_error,
        lambda y_true, y_pred: y_pred,
        _uncalled,
        "cross_entropy",
        None,
    ],
)
def test_a_loss_of_another_kind_is_refused(loss):
    with pytest.raises(TypeError, match=r"loss must be a function of the predictions and the batch, got .*; write fc"):
        model_metrics(_model(loss=loss))


@pytest.mark.parametrize("loss", [lambda values, batch, mask: 0.0, lambda *values: 0.0, functools.partial(_difference)])
def test_a_loss_may_take_the_mask_or_any_arguments(loss):
    assert list(model_metrics(_model(loss=loss))) == ["loss", "num_examples"]


def test_a_metric_named_loss_is_refused():
    """It was dropped without a word."""
    with pytest.raises(ValueError, match=r'may not be named "loss", .* give it another name'):
        model_metrics(_model(metrics={"loss": mean_loss(_difference)}))
