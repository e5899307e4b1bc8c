"""Recurrent layers whose weight gradient is formed once, after the scan.

JAX differentiates a scan step by step and so adds up the gradient of the recurrent kernel, the
largest array around, once for every position. Here the backward scan only carries the hidden state's gradient,
and one matrix product over all positions gives the kernel's.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def lstm_cell(inputs, hidden, carry):
    """One step of an LSTM (Hochreiter & Schmidhuber 1997); the gates are input, forget, cell, output.

    Args:
      inputs: the projected input, `[B, 4*H]`.
      hidden: the projected hidden state with the bias, `[B, 4*H]`.
      carry: hidden and cell state, each `[B, H]`.

    Returns:
      The new hidden and cell state.

    Example:
      >>> state = jnp.zeros((1, 1))
      >>> [part.shape for part in lstm_cell(jnp.zeros((1, 4)), jnp.zeros((1, 4)), (state, state))]
      [(1, 1), (1, 1)]
    """
    input_gate, forget_gate, new, output_gate = jnp.split(inputs + hidden, 4, axis=-1)
    cell = jax.nn.sigmoid(forget_gate) * carry[1] + jax.nn.sigmoid(input_gate) * jnp.tanh(new)
    return jax.nn.sigmoid(output_gate) * jnp.tanh(cell), cell


def gru_cell(inputs, hidden, carry):
    """One step of a GRU (Cho et al. 2014), reset after the product; the gates are reset, update, new.

    Args:
      inputs: the projected input with its bias, `[B, 3*H]`.
      hidden: the projected hidden state with its bias, `[B, 3*H]`.
      carry: the hidden state, a 1-tuple of `[B, H]`.

    Returns:
      The new hidden state, a 1-tuple.

    Example:
      >>> gru_cell(jnp.zeros((1, 3)), jnp.zeros((1, 3)), (jnp.ones((1, 1)),))
      (Array([[0.5]], dtype=float32),)
    """
    input_reset, input_update, input_new = jnp.split(inputs, 3, axis=-1)
    hidden_reset, hidden_update, hidden_new = jnp.split(hidden, 3, axis=-1)
    reset = jax.nn.sigmoid(input_reset + hidden_reset)
    update = jax.nn.sigmoid(input_update + hidden_update)
    new = jnp.tanh(input_new + reset * hidden_new)
    return ((1 - update) * new + update * carry[0],)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(cell: Callable, inputs, kernel, bias, initial):
    """Runs a cell along a sequence. Differentiable any number of times, in reverse mode only.

    Args:
      cell: `(inputs_t, hidden @ kernel + bias, carry) -> carry`, a pure function; the first of the
        carry is the hidden state.
      inputs: projected inputs, time first, `[T, B, G]`.
      kernel: `[H, G]`.
      bias: `[G]`.
      initial: the carry before the first position, a tuple of arrays `[B, H]`.

    Returns:
      The hidden states after each position, `[T, B, H]`.

    Example:
      >>> start = (jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> recur(lstm_cell, jnp.ones((5, 2, 12)), jnp.ones((3, 12)), jnp.ones(12), start).shape
      (5, 2, 3)
    """
    return _forward(cell, inputs, kernel, bias, initial)[0]


def _forward(cell, inputs, kernel, bias, initial):
    def step(carry, inputs_t):
        hidden = carry[0] @ kernel + bias[None, :]
        after = cell(inputs_t, hidden, carry)
        return after, (after[0], hidden, carry)

    _, (outputs, hidden, before) = jax.lax.scan(step, initial, inputs)
    return outputs, (inputs, kernel, hidden, before)


def _backward(cell, residuals, gradient):
    inputs, kernel, hidden, before = residuals
    transposed = kernel.T

    def step(carry_gradient, position):
        output_gradient, inputs_t, hidden_t, carry = position
        _, pull_back = jax.vjp(cell, inputs_t, hidden_t, carry)
        to_inputs, to_hidden, to_carry = pull_back((carry_gradient[0] + output_gradient, *carry_gradient[1:]))
        return (to_carry[0] + to_hidden @ transposed, *to_carry[1:]), (to_inputs, to_hidden)

    start = jax.tree.map(lambda part: jnp.zeros_like(part[0]), before)
    positions = (gradient, inputs, hidden, before)
    to_initial, (to_inputs, to_hidden) = jax.lax.scan(step, start, positions, reverse=True)
    states = before[0].reshape(-1, kernel.shape[0])
    to_hidden = to_hidden.reshape(-1, kernel.shape[1])
    return to_inputs, states.T @ to_hidden, to_hidden.sum(axis=0), to_initial


recur.defvjp(_forward, _backward)
