"""Recurrent layers over whole sequences."""

import jax
import jax.numpy as jnp

from fedjax_core.models import _recurrence


def lstm(
    x: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array,
    initial: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Long short-term memory along a sequence, with the result of `flax.linen.RNN(OptimizedLSTMCell(H))`.

    The input is projected for all positions at once, and the gradient of each kernel takes one product. The layer can
    be differentiated any number of times in reverse mode, but not in forward mode; `B` may be zero or symbolic.

    Args:
      x: floating point `[B, T, I]`.
      kernel: `[I, 4*H]`, in the dtype of `x`; the gates are input, forget, cell and output.
      recurrent_kernel: `[H, 4*H]`.
      bias: `[4*H]`.
      initial: the hidden state and the cell state before the first position, `[B, H]` each; None for zeros.

    Returns:
      The hidden states after each position, `[B, T, H]`, in the dtype of `x`.

    Raises:
      ValueError: the shapes do not fit each other.

    Example:
      >>> lstm(jnp.ones((2, 5, 3)), jnp.ones((3, 16)), jnp.ones((4, 16)), jnp.zeros(16)).shape
      (2, 5, 4)
    """
    _check("lstm", 4, x, kernel, recurrent_kernel, bias)
    projected = _project(x, kernel)
    return _run(_recurrence.LSTM, projected, recurrent_kernel, bias, initial)


def gru(
    x: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array,
    recurrent_bias: jax.Array,
    initial: jax.Array | None = None,
) -> jax.Array:
    """A gated recurrent unit along a sequence, with the result of `flax.linen.RNN(GRUCell(H))`.

    It can be differentiated like `lstm`.

    Args:
      x: floating point `[B, T, I]`.
      kernel: `[I, 3*H]`, in the dtype of `x`; the gates are reset, update and new.
      recurrent_kernel: `[H, 3*H]`.
      bias: `[3*H]`, added to the projected input.
      recurrent_bias: `[3*H]`, added to the projected hidden state before the reset gate is applied. (In flax only
        the last `H` elements exist; the first `2*H` are zero.)
      initial: the hidden state before the first position, `[B, H]`; None for zeros.

    Returns:
      The hidden states after each position, `[B, T, H]`, in the dtype of `x`.

    Raises:
      ValueError: the shapes do not fit each other.

    Example:
      >>> zeros = jnp.zeros(12)
      >>> gru(jnp.ones((2, 5, 3)), jnp.ones((3, 12)), jnp.ones((4, 12)), zeros, zeros).shape
      (2, 5, 4)
    """
    _check("gru", 3, x, kernel, recurrent_kernel, bias, recurrent_bias)
    projected = _project(x, kernel) + bias[None, None, :]
    return _run(_recurrence.GRU, projected, recurrent_kernel, recurrent_bias, None if initial is None else (initial,))


def _check(function, num_gates, x, kernel, recurrent_kernel, *biases):
    size = recurrent_kernel.shape[0]
    width = num_gates * size
    shapes = (kernel.shape, recurrent_kernel.shape, *(bias.shape for bias in biases))
    if x.ndim != 3 or shapes != ((x.shape[-1], width), (size, width), *((width,),) * len(biases)):
        raise ValueError(
            f"{function} takes a sequence [B, T, I] and kernels [I, {num_gates}*H] and [H, {num_gates}*H] with "
            f"biases [{num_gates}*H], got a sequence of shape {x.shape}, kernels of shape {shapes[0]} and "
            f"{shapes[1]}, and biases of shape {', '.join(map(str, shapes[2:]))}; for one sequence write `x[None]`"
        )


def _project(x, kernel):
    """`x @ kernel` for `x` of shape `[B, T, I]`, as one product of two matrices; the result has time first."""
    num_examples, length, size = x.shape
    rows = x.swapaxes(0, 1).reshape(length * num_examples, size)
    return (rows @ kernel).reshape(length, num_examples, kernel.shape[1])


def _run(cell, projected, kernel, bias, initial):
    if initial is None:
        initial = (jnp.zeros((projected.shape[1], kernel.shape[0]), projected.dtype),) * cell.num_states
    hidden: jax.Array = _recurrence.recur(cell, projected, kernel, bias, initial)
    return hidden.swapaxes(0, 1)
