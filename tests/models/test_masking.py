"""How the mask reaches modules that do not know about padding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_core import models
from fedjax_core.model_calls import predicted

ROWS = {"x": "float32[?,1]", "y": "float32[?,1]"}
MASKS = [jnp.array(mask) for mask in ([True, True, True, False], [True, True, False, False])]
X = np.array([[0], [3], [6], [9]], np.float32)
EXPECTED = [[-np.sqrt(1.5), 0, np.sqrt(1.5)], [-1, 1]]
"""The examples that each mask keeps, normalized."""
MOVED = [(0.03, 1.05), (0.015, 1.0125)]
"""Where they leave the running averages, which start at 0 and 1."""


class Within(nn.Module):
    """A BatchNorm within a flax transform."""

    transform: str

    @nn.compact
    def __call__(self, x, train):
        options = {"use_running_average": not train}
        if self.transform == "jit":
            return nn.jit(nn.BatchNorm)(**options)(x)
        if self.transform == "remat":
            return nn.remat(nn.BatchNorm)(**options)(x)
        axes = {"params": 0, "batch_stats": 0}
        layer = nn.scan(_norm, variable_axes=axes, split_rngs={"params": True}, length=1)
        return layer(self, x, jnp.zeros((1, int(train))))[0]


def _norm(module, x, trains):
    return nn.BatchNorm(use_running_average=trains.shape[0] == 0)(x), None


class Jitted(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)

    def __call__(self, x):
        return _jitted(self.norm, x)


@nnx.jit
def _jitted(norm, x):
    return norm(x)


TRANSFORMED = {
    **{f"linen {name}": lambda name=name: _linen(Within(name)) for name in ("jit", "remat", "scan")},
    "nnx jit": lambda: models.from_nnx(Jitted, models.squared_error(), ROWS),
}


def _linen(module, batch_type=ROWS, **options):
    return models.from_linen(module, models.squared_error(), batch_type, **options)


def trained(model, batch, mask):
    """Predictions in training for the examples that a mask keeps."""
    weights = model.init(jax.random.key(0))
    return np.asarray(predicted(model, weights, batch, mask, jax.random.key(1), training=True).predictions)[mask]


@pytest.mark.parametrize("name", TRANSFORMED)
def test_each_call_has_its_own_mask_also_within_transforms(name):
    """Called without `jit`, so that a transform that keeps what it traced would keep the first mask."""
    model = TRANSFORMED[name]()
    weights = model.init(jax.random.key(0))
    for mask, expected, moved in zip(MASKS, EXPECTED, MOVED, strict=True):
        output = predicted(model, weights, {"x": X}, mask, training=True)
        np.testing.assert_allclose(output.predictions[mask, 0], expected, rtol=1e-4, atol=1e-5)
        found = sorted(leaf.item() for leaf in jax.tree.leaves(output.non_trainable))
        np.testing.assert_allclose(found, moved, rtol=1e-5)


def test_a_call_that_fails_does_not_hide_the_mask_from_the_next():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return Within("remat")(x, train) + 0 * jax.random.normal(self.make_rng("noise"), x.shape)

    model = _linen(Dropped())
    with pytest.raises(ValueError, match="got `key=None`"):
        predicted(model, model.init(jax.random.key(0)), {"x": X}, MASKS[0], training=True)
    np.testing.assert_allclose(trained(model, {"x": X}, MASKS[0])[:, 0], EXPECTED[0], rtol=1e-4, atol=1e-5)


class OverAxis(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train, axis_name="devices")(x)


@pytest.mark.parametrize(
    "model",
    [
        lambda: _linen(OverAxis()),
        lambda: models.from_nnx(
            lambda rngs: nnx.BatchNorm(1, axis_name="devices", rngs=rngs), models.squared_error(), ROWS
        ),
    ],
)
def test_statistics_over_an_axis_that_is_not_there_are_refused(model):
    model = model()
    weights = model.init(jax.random.key(0))
    assert np.shape(model.predict(weights, {"x": X})) == (4, 1)
    with pytest.raises(ValueError, match=r"unbound axis name: devices\); leave `axis_name` out of its BatchNorm"):
        predicted(model, weights, {"x": X}, MASKS[0], training=True)


def test_lanes_have_masks_of_their_own():
    model = _linen(Within("remat"))
    weights = model.init(jax.random.key(0))
    run = jax.vmap(lambda mask: predicted(model, weights, {"x": X}, mask, training=True).predictions)
    for found, mask, expected in zip(run(jnp.stack(MASKS)), MASKS, EXPECTED, strict=True):
        np.testing.assert_allclose(found[mask, 0], expected, rtol=1e-4, atol=1e-5)


class OverImages(nn.Module):
    """Each image is normalized by itself: the first axis of what the layer sees is one of the image."""

    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(use_running_average=False, use_scale=False, use_bias=False, parent=None)
        averages = {"batch_stats": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}
        return jax.vmap(lambda image: norm.apply(averages, image, mutable=["batch_stats"])[0])(x)


def test_a_layer_that_sees_no_rows_gets_no_mask():
    x = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
    model = _linen(OverImages(), {"x": "float32[?,4,2]", "y": "float32[?,4,2]"})
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    for mask in MASKS:
        np.testing.assert_allclose(trained(model, {"x": x}, mask), expected[mask], rtol=1e-3, atol=1e-4)


class OverSteps(nn.Module):
    """Rows along another axis, or split into more rows."""

    layout: str

    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(use_running_average=not train)
        if self.layout == "time first":
            return jnp.swapaxes(norm(jnp.swapaxes(x, 0, 1)), 0, 1)
        return norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)


@pytest.mark.parametrize("layout", ["time first", "merged"])
def test_rows_are_found_along_any_axis(layout):
    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    model = _linen(OverSteps(layout), {"x": "float32[?,5,2]", "y": "float32[?,5,2]"})
    for mask in MASKS:
        kept = x[np.asarray(mask)]
        expected = (kept - kept.mean((0, 1))) / np.sqrt(kept.var((0, 1)) + 1e-5)
        np.testing.assert_allclose(trained(model, {"x": x}, mask), expected, rtol=1e-3, atol=1e-4)


class OfTokens(nn.Module):
    """Gives its BatchNorm a mask of its own, of what is not zero."""

    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(x, mask=x != 0)


def test_a_mask_of_the_modules_own_stays():
    model = _linen(OfTokens())
    found = trained(model, {"x": X}, MASKS[0])  # leaves 3 and 6
    np.testing.assert_allclose(found[1:, 0], [-1, 1], rtol=1e-4)


class Centered(nn.Module):
    @nn.compact
    def __call__(self, x, rows):
        return x - jnp.mean(x, axis=0, where=rows[:, None])[None]


def test_a_module_can_take_the_mask_itself():
    model = _linen(Centered(), mask="rows")
    np.testing.assert_allclose(trained(model, {"x": X}, MASKS[0])[:, 0], [-3, 0, 3])
    np.testing.assert_allclose(model.predict({}, {"x": X})[:, 0], [-4.5, -1.5, 1.5, 4.5])
    with pytest.raises(ValueError, match=r"are x, rows, got 'mask'; write `def __call__\(self, x, mask\)`"):
        _linen(Centered(), mask="mask")
