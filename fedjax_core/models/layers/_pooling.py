"""Max-pooling as a maximum over axes, fast inside loops on CPU."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def max_pool(x: jax.Array, window: Sequence[int] = (2, 2)) -> jax.Array:
    """The largest value of every window. Windows do not overlap, and a remainder that fills no window is dropped.

    It equals `flax.linen.max_pool(x, window, strides=window)`, and so does its gradient, which goes to the first of
    several largest values. It can be differentiated in both modes; `B` may be zero or symbolic.

    Args:
      x: `[B, *S, I]`.
      window: `W`, the size of a window along each of the axes `S`.

    Returns:
      `[B, *(S // W), I]`, in the dtype of `x`.

    Raises:
      ValueError: the window does not have one positive size for each axis `S`.

    Example:
      >>> max_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel()
      Array([3.], dtype=float32)
    """
    window = tuple(window)
    if x.ndim != len(window) + 2 or any(size < 1 for size in window):
        raise ValueError(
            "max_pool takes one positive size for each axis S of images [B, *S, I], got window="
            f"{window} and images of shape {x.shape}; for images [B, H, W, I] write `window=(2, 2)`"
        )
    sizes = [size // w for size, w in zip(x.shape[1:-1], window)]
    even = x[(slice(None), *(slice(0, size * w) for size, w in zip(sizes, window)))]
    split = [part for size, w in zip(sizes, window) for part in (size, w)]
    return _largest(even.reshape(x.shape[0], *split, x.shape[-1]), tuple(range(2, 2 + 2 * len(window), 2)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(x, axes):
    return x.max(axis=axes)


@_largest.defjvp
def _largest_jvp(axes, primals, tangents):
    (x,), (tangent,) = primals, tangents
    y = _largest(x, axes)
    order = _order(x, axes)
    largest = x == jnp.expand_dims(y, axes)
    first = jnp.where(largest, order, order.size).min(axis=axes, keepdims=True)
    return y, jnp.where(order == first, tangent, 0).sum(axis=axes, dtype=x.dtype)


def _order(x, axes):
    """The places of a window, numbered in order, with one axis for each axis of `x`."""
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    dtype = jnp.int8 if math.prod(shape) < 128 else jnp.int32
    return jnp.arange(math.prod(shape), dtype=dtype).reshape(shape)
