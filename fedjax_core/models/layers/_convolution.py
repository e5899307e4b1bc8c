"""Convolutions as matrix products, fast inside loops and with different weights for each client.

On CPU, XLA's own convolution takes more than ten times as long inside a loop as outside, and a convolution whose
kernel is mapped over becomes a grouped convolution, which is slow everywhere. A product of patches and kernel has
neither problem. On CPU, where this product takes most of the time, Winograd's minimal filtering halves the
multiplications of a kernel of height 3. It is applied along the height only, so that the products stay large.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

_POINTS = (0.0, 2**-0.5, -(2**-0.5), 2**0.5, -(2**0.5))
_TILE = 4


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, padding: str = "VALID") -> jax.Array:
    """A convolution with stride 1, with the result of `flax.linen.Conv`.

    It can be differentiated any number of times in both modes; `B` may be zero or symbolic.

    Args:
      x: floating point `[B, *S, I]`, with one or more spatial axes `S`.
      kernel: `[*K, I, O]`, in the dtype of `x`, with one size for each spatial axis.
      bias: `[O]`, or None for no bias.
      padding: "VALID", or "SAME" for outputs of the size of the inputs.

    Returns:
      `[B, *S, O]`, in the dtype of `x`; with "VALID" each spatial axis has length `S - K + 1`.

    Raises:
      ValueError: the shapes do not fit each other, the padding is unknown, or the kernel is larger than the input.

    References:
      Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308 (F(4, 3) along one
      axis); Barabasz et al. 2020, "Error Analysis and Improving the Accuracy of Winograd Convolution for
      Deep Neural Networks", arXiv:1803.10986 (the effect of the points on rounding).

    Example:
      >>> conv(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 2)), jnp.ones(2)).ravel()
      Array([10., 10.], dtype=float32)
      >>> conv(jnp.ones((5, 28, 28, 1)), jnp.ones((3, 3, 1, 32)), padding="SAME").shape
      (5, 28, 28, 32)
    """
    window = kernel.shape[:-2]
    if not window or x.ndim != kernel.ndim or x.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            "conv takes images of shape [B, *S, I] and a kernel of shape [*K, I, O] with one size for each of "
            f"the axes S, got {x.shape} and {kernel.shape}; for grayscale images write `x[..., None]`"
        )
    if padding not in ("VALID", "SAME"):
        raise ValueError(f"conv(padding=...) must be 'VALID' or 'SAME', got {padding!r}; for others use `jnp.pad`")
    if padding == "SAME":
        x = jnp.pad(x, ((0, 0), *(((k - 1) // 2, k // 2) for k in window), (0, 0)))
    if any(size < k for size, k in zip(x.shape[1:-1], window)):
        raise ValueError(
            f"conv takes a kernel no larger than the image, got {window} and {x.shape[1:-1]}; write padding='SAME'"
        )
    if _is_tiled(x, kernel):
        y = jax.lax.platform_dependent(x, kernel, cpu=_tiled, default=_patched)
    else:
        y = _patched(x, kernel)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)


def _is_tiled(x, kernel):
    """Whether tiles are worthwhile: the products are large, and the dtype tolerates the rounding."""
    return kernel.shape[0] == 3 and x.shape[1] >= 6 and x.shape[-1] >= 8 and x.dtype == jnp.float32


def _product(x, kernel):
    """`x @ kernel` over the last axis, as a product of two matrices."""
    rows = math.prod(x.shape[:-1])
    return (x.reshape(rows, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _patches(x, window):
    """Collects patches, from `[B, *S, I]` to `[B, *(S-K+1), K*I]`; a short `window` applies to the last axes of `S`."""
    first = x.ndim - 1 - len(window)
    sizes = [x.shape[first + axis] - k + 1 for axis, k in enumerate(window)]
    leading = (slice(None),) * first
    offsets = itertools.product(*map(range, window))
    return jnp.concatenate(
        [x[(*leading, *(slice(i, i + size) for i, size in zip(offset, sizes)))] for offset in offsets], axis=-1
    )


def _patched(x, kernel):
    return _product(_patches(x, kernel.shape[:-2]), kernel.reshape(-1, kernel.shape[-1]))


def _tiled(x, kernel):
    """The convolution in tiles of `_TILE` output rows, with one product for each of `_TILE + 2` sums of rows."""
    height = x.shape[1] - 2
    num_tiles = -(-height // _TILE)
    x = jnp.pad(x, ((0, 0), (0, num_tiles * _TILE - height), *((0, 0),) * (x.ndim - 2)))
    rows = [x[:, i : i + (num_tiles - 1) * _TILE + 1 : _TILE] for i in range(_TILE + 2)]
    to_rows, to_kernel, to_outputs = _MATRICES
    kernels = _mix(to_kernel, [row.reshape(-1, kernel.shape[-1]) for row in kernel])
    products = [_product(_patches(r, kernel.shape[1:-2]), k) for r, k in zip(_mix(to_rows, rows), kernels)]
    y = jnp.stack(_mix(to_outputs, products), axis=2)
    return y.reshape(y.shape[0], num_tiles * _TILE, *y.shape[3:])[:, :height]


def _mix(matrix, arrays):
    """Weighted sums of `arrays`, one for each row of weights in `matrix`."""
    return [sum(float(weight) * a for weight, a in zip(row, arrays) if weight) for row in matrix]


def _winograd(points):
    """The matrices of the Toom-Cook algorithm for 3 taps, evaluated at `points` and infinity.

    Returns:
      `to_rows`, `[n+1, n+1]`, `to_kernel`, `[n+1, 3]`, and `to_outputs`, `[n-1, n+1]`, such that
      `to_outputs @ ((to_kernel @ g) * (to_rows @ d))` is the correlation of `d` and `g`.
    """
    points = np.asarray(points)
    n = len(points)
    to_rows, to_kernel, to_outputs = np.zeros((n + 1, n + 1)), np.zeros((n + 1, 3)), np.zeros((n - 1, n + 1))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        to_rows[i, :n] = np.poly(others)[::-1]
        to_kernel[i] = point ** np.arange(3) / np.prod(point - others)
        to_outputs[:, i] = point ** np.arange(n - 1)
    to_rows[n], to_kernel[n, 2], to_outputs[-1, n] = np.poly(points)[::-1], 1, 1
    return tuple(np.where(abs(matrix) < 1e-12, 0, matrix) for matrix in (to_rows, to_kernel, to_outputs))


_MATRICES = _winograd(_POINTS)
