"""Initial weights and dense layers of the reference models; their other layers are in `layers`."""

import math

import jax
import jax.numpy as jnp

_kernel = jax.nn.initializers.lecun_normal()


def init_dense(key, num_inputs: int, num_outputs: int) -> dict:
    """Initial weights of `dense`: `kernel`, float32 `[I, O]`, LeCun normal, and `bias`, float32 `[O]`, zeros.

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
    """Initial weights of a 3x3 convolution: `kernel`, float32 `[3, 3, I, O]`, LeCun normal, and `bias`, `[O]`, zeros.

    Example:
      >>> init_conv3x3(jax.random.key(0), 1, 32)["kernel"].shape
      (3, 3, 1, 32)
    """
    return {"kernel": _kernel(key, (3, 3, num_inputs, num_outputs)), "bias": jnp.zeros(num_outputs)}


def flatten(x: jax.Array) -> jax.Array:
    """Flattens `[B, ...]` to `[B, N]`; `B` may be zero or symbolic.

    Example:
      >>> flatten(jnp.zeros((5, 2, 3))).shape
      (5, 6)
    """
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
