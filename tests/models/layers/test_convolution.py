import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.models import layers
from fedjax_core.models.layers import _convolution
from tests.marks import with_slow

CASES = {
    "no tiles, few channels": ((2, 9, 7, 1), (3, 3)),
    "whole tiles": ((2, 10, 7, 8), (3, 3)),
    "part of a tile": ((2, 13, 6, 9), (3, 2)),
    "a row more than a tile": ((1, 7, 9, 8), (3, 5)),
    "no tiles, other height": ((2, 12, 7, 8), (5, 4)),
    "one by one": ((2, 6, 7, 8), (1, 1)),
    "one axis": ((2, 11, 8), (3,)),
    "one axis, even": ((2, 11, 3), (4,)),
    "three axes": ((1, 7, 5, 4, 8), (3, 2, 2)),
}


def _case(shape, window, dtype=jnp.float32, channels=5):
    random = np.random.default_rng(0)
    arrays = random.normal(size=shape), random.normal(size=(*window, shape[-1], channels)), random.normal(size=channels)
    x, kernel, bias = (jnp.asarray(array, dtype) for array in arrays)
    return x, kernel / np.sqrt(np.prod(kernel.shape[:-1])).astype(dtype), bias


def _flax(x, kernel, bias, padding="VALID"):
    module = nn.Conv(kernel.shape[-1], kernel.shape[:-2], padding=padding)
    return module.apply({"params": {"kernel": kernel, "bias": bias}}, x)


def _assert_close(a, b, tolerance=1e-5):
    """Equal to `tolerance` of the largest value."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(1, abs(y).max()))


def _gradient(conv, *arguments):
    return jax.jit(jax.grad(lambda arguments: jnp.sin(conv(*arguments)).sum()))(arguments)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("name", with_slow(CASES, {"three axes", "whole tiles", "a row more than a tile"}))
def test_values_and_gradients_equal_flax(name, padding):
    arguments = _case(*CASES[name])
    ours, flax = (functools.partial(conv, padding=padding) for conv in (layers.conv, _flax))
    _assert_close(jax.jit(ours)(*arguments), jax.jit(flax)(*arguments))
    _assert_close(_gradient(ours, *arguments), _gradient(flax, *arguments))


def test_tiles_round_no_worse_than_twice_a_plain_product():
    x, kernel, _ = _case((4, 26, 26, 32), (3, 3), channels=64)
    x64, kernel64 = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    exact = sum(x64[:, i : i + 24, j : j + 24] @ kernel64[i, j] for i in range(3) for j in range(3))
    errors = [abs(np.asarray(form(x, kernel)) - exact) for form in (_convolution._tiled, _convolution._patched)]
    assert np.sqrt((errors[0] ** 2).mean()) < 2 * np.sqrt((errors[1] ** 2).mean())


def test_other_platforms_take_patches_and_no_convolution():
    x, kernel, _ = _case((2, 10, 7, 8), (3, 3))
    for platform, num_products in (("cpu", 6), ("cuda", 1), ("tpu", 1)):
        exported = jax.export.export(jax.jit(layers.conv), platforms=[platform])(x, kernel)
        text = exported.mlir_module()
        assert "stablehlo.convolution" not in text
        assert text.count("stablehlo.dot_general") == num_products


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_dtype_and_equals_flax(dtype):
    arguments = _case((2, 10, 7, 8), (3, 3), dtype)
    ours = jax.jit(layers.conv)(*arguments)
    assert ours.dtype == dtype
    _assert_close(ours, _flax(*arguments), 3e-2 if dtype == "bfloat16" else 5e-3)
    assert all(leaf.dtype == dtype for leaf in _gradient(layers.conv, *arguments))


@pytest.mark.parametrize("name", ["no tiles, few channels", "part of a tile"])
def test_vmap_over_kernels(name):
    x, kernel, bias = _case(*CASES[name])
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), (kernel, bias))
    together = jax.jit(jax.vmap(lambda weights: _gradient(layers.conv, x, *weights)))(several)
    for i in range(2):
        weights = jax.tree.map(lambda leaf, i=i: leaf[i], several)
        _assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), _gradient(layers.conv, x, *weights))


def test_inside_of_a_loop():
    x, kernel, bias = _case((2, 10, 7, 8), (3, 3))

    def step(i, kernel):
        return kernel - 0.1 * _gradient(layers.conv, x, kernel, bias)[1]

    looped = jax.jit(lambda n: jax.lax.fori_loop(0, n, step, kernel))(2)
    _assert_close(looped, step(1, step(0, kernel)))


@pytest.mark.slow
def test_forward_mode_agrees_with_reverse_mode():
    x, kernel, bias = _case((1, 8, 3, 8), (3, 3), channels=2)

    def total(bias_and_scale):
        return jnp.sin(layers.conv(x, kernel * bias_and_scale[0], bias)).sum()

    scale = jnp.ones(1)
    _assert_close(jax.jacfwd(total)(scale), jax.jacrev(total)(scale))


@pytest.mark.parametrize("name", with_slow(["no tiles, few channels", "part of a tile"], {"part of a tile"}))
def test_batch_may_be_empty_or_symbolic(name):
    x, kernel, bias = _case(*CASES[name])
    assert layers.conv(x[:0], kernel, bias).shape == (0, *layers.conv(x, kernel, bias).shape[1:])
    (size,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    gradient = jax.jit(lambda x: jax.grad(lambda x: jnp.sin(layers.conv(x, kernel, bias)).sum())(x))
    exported = jax.export.export(gradient)(spec)
    _assert_close(exported.call(x), gradient(x))


@pytest.mark.parametrize(
    ("x", "kernel", "padding"),
    [
        ((2, 9, 9), (3, 3, 1, 4), "VALID"),
        ((2, 9, 9, 2), (3, 3, 1, 4), "VALID"),
        ((2, 4), (4, 5), "VALID"),
        ((2, 2, 9, 1), (3, 3, 1, 4), "VALID"),
        ((2, 9, 9, 1), (3, 3, 1, 4), "CIRCULAR"),
    ],
)
def test_refuses_what_does_not_fit(x, kernel, padding):
    with pytest.raises(ValueError, match="conv"):
        layers.conv(jnp.zeros(x), jnp.zeros(kernel), padding=padding)
