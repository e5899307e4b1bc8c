"""The layers of the reference models: functions of a dict of weights and an array.

They equal flax's layers of the same names and take the same weights. They are written so that
they stay fast inside of loops on CPU, where XLA's convolution takes more than ten times as long as outside.
"""

import math

import jax
import jax.numpy as jnp

_kernel = jax.nn.initializers.lecun_normal()


def init_dense(key, num_inputs: int, num_outputs: int) -> dict:
    """Weights of `dense`: `kernel`, float32 `[I, O]`, LeCun normal, and `bias`, float32 `[O]`, zeros.

    Example:
      >>> init_dense(jax.random.key(0), 3, 2)["kernel"].shape
      (3, 2)
    """
    return {"kernel": _kernel(key, (num_inputs, num_outputs)), "bias": jnp.zeros(num_outputs)}


def dense(weights: dict, x: jax.Array) -> jax.Array:
    """`x @ kernel + bias`.

    Args:
      weights: `kernel`, `[I, O]`, and `bias`, `[O]`.
      x: `[B, I]`.

    Returns:
      `[B, O]`.

    Example:
      >>> dense({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, jnp.ones((1, 3)))
      Array([[4., 4.]], dtype=float32)
    """
    return x @ weights["kernel"] + weights["bias"][None, :]


def init_conv3x3(key, num_inputs: int, num_outputs: int) -> dict:
    """Weights of `conv3x3`: `kernel`, float32 `[3, 3, I, O]`, LeCun normal, and `bias`, `[O]`, zeros.

    Example:
      >>> init_conv3x3(jax.random.key(0), 1, 32)["kernel"].shape
      (3, 3, 1, 32)
    """
    return {"kernel": _kernel(key, (3, 3, num_inputs, num_outputs)), "bias": jnp.zeros(num_outputs)}


def conv3x3(weights: dict, x: jax.Array) -> jax.Array:
    """A 3x3 convolution without padding, as patches and one matrix product.

    Args:
      weights: `kernel`, `[3, 3, I, O]`, and `bias`, `[O]`.
      x: images `[B, H, W, I]`.

    Returns:
      `[B, H-2, W-2, O]`, what `flax.linen.Conv(O, (3, 3), padding="VALID")` gives.

    Example:
      >>> weights = {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.zeros(2)}
      >>> conv3x3(weights, jnp.ones((1, 3, 3, 1))).ravel()
      Array([9., 9.], dtype=float32)
    """
    height, width = x.shape[1] - 2, x.shape[2] - 2
    shifted = [x[:, i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    kernel, bias = weights["kernel"], weights["bias"]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1]) + bias[None, None, None]


def max_pool2x2(x: jax.Array) -> jax.Array:
    """The largest of every 2x2 pixels; a last odd row or column is dropped.

    Args:
      x: images `[B, H, W, I]`.

    Returns:
      `[B, H//2, W//2, I]`, what `flax.linen.max_pool(x, (2, 2), strides=(2, 2))` gives.

    Example:
      >>> max_pool2x2(jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel()
      Array([3.], dtype=float32)
    """
    num_images, height, width, num_channels = x.shape
    height, width = height // 2, width // 2
    even = x[:, : 2 * height, : 2 * width]
    return even.reshape(num_images, height, 2, width, 2, num_channels).max(axis=(2, 4))


def flatten(x: jax.Array) -> jax.Array:
    """`[B, ...]` as `[B, N]`; `B` may be zero or symbolic.

    Example:
      >>> flatten(jnp.zeros((5, 2, 3))).shape
      (5, 6)
    """
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
