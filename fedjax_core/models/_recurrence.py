"""Recurrent layers with a backward pass of their own, for speed inside loops on CPU.

JAX differentiates a scan step by step: at every position it adds to the gradient of the recurrent kernel, the largest
array involved, and computes the derivatives of the gates in many small operations. Here the backward scan carries only
the gradient of the hidden state. The derivatives of the gates are computed before the scan, for all positions at once,
and the gradient of the kernel after it, with one matrix product.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Cell(NamedTuple):
    """A recurrent cell and its derivative, split into parts by when they can be computed.

    Shapes: `H` units, `G` gates; a carry is a tuple of arrays `[B, H]`, the hidden state first.

    Attributes:
      num_gates: `G`, the number of gates.
      num_states: the number of arrays in a carry.
      step: `(inputs, hidden, carry) -> carry, saved`, at one position: `inputs` is the projected input and
        `hidden` the projected hidden state, each `[B, G*H]`; `saved` is a tuple of arrays `[B, H]`.
      factors: `(saved, before) -> factors`, for all positions at once: the factors that the gradient is multiplied
        by, `[T, B, H]` each. `before` is the carry before each position.
      pull_back: `(factors, gradient) -> to_inputs, to_carry`, at one position: from the gradient with respect to
        the new carry to the gradients with respect to `inputs` and the old carry, the latter without the part that
        passes through `hidden`.
      to_hidden: `(factors, to_inputs) -> to_hidden`, at one position or for all at once: the gradient with respect
        to `hidden`.
    """

    num_gates: int
    num_states: int
    step: Callable[[Any, Any, Any], tuple]
    factors: Callable[[Any, Any], Any]
    pull_back: Callable[[Any, Any], tuple]
    to_hidden: Callable[[Any, Any], Any]


def _lstm_step(inputs, hidden, carry):
    gates = jnp.split(inputs + hidden, 4, axis=-1)
    take, keep, give = (jax.nn.sigmoid(gates[i]) for i in (0, 1, 3))
    new = jnp.tanh(gates[2])
    cell = keep * carry[1] + take * new
    squashed = jnp.tanh(cell)
    return (give * squashed, cell), (take, keep, new, give, squashed)


def _lstm_factors(saved, before):
    take, keep, new, give, squashed = saved
    to_cell = give * (1 - squashed**2)
    to_take = new * take * (1 - take)
    to_keep = before[1] * keep * (1 - keep)
    to_new = take * (1 - new**2)
    to_give = squashed * give * (1 - give)
    return to_cell, to_take, to_keep, to_new, to_give, keep


def _lstm_pull_back(factors, gradient):
    to_cell, to_take, to_keep, to_new, to_give, keep = factors
    hidden = gradient[0]
    cell = gradient[1] + hidden * to_cell
    gates = (cell * to_take, cell * to_keep, cell * to_new, hidden * to_give)
    return jnp.concatenate(gates, axis=-1), (jnp.zeros_like(hidden), cell * keep)


def _lstm_to_hidden(factors, to_inputs):
    return to_inputs


LSTM = Cell(4, 2, _lstm_step, _lstm_factors, _lstm_pull_back, _lstm_to_hidden)
"""Long short-term memory (Hochreiter & Schmidhuber 1997); the gates are input, forget, cell, output."""


def _gru_step(inputs, hidden, carry):
    inputs, hidden = jnp.split(inputs, 3, axis=-1), jnp.split(hidden, 3, axis=-1)
    reset = jax.nn.sigmoid(inputs[0] + hidden[0])
    keep = jax.nn.sigmoid(inputs[1] + hidden[1])
    new = jnp.tanh(inputs[2] + reset * hidden[2])
    return ((1 - keep) * new + keep * carry[0],), (reset, keep, new, hidden[2])


def _gru_factors(saved, before):
    reset, keep, new, hidden_new = saved
    to_new = (1 - keep) * (1 - new**2)
    to_keep = (before[0] - new) * keep * (1 - keep)
    to_reset = to_new * hidden_new * reset * (1 - reset)
    return to_reset, to_keep, to_new, reset, keep


def _gru_pull_back(factors, gradient):
    to_reset, to_keep, to_new, _, keep = factors
    hidden = gradient[0]
    gates = (hidden * to_reset, hidden * to_keep, hidden * to_new)
    return jnp.concatenate(gates, axis=-1), (hidden * keep,)


def _gru_to_hidden(factors, to_inputs):
    to_reset, to_keep, to_new = jnp.split(to_inputs, 3, axis=-1)
    return jnp.concatenate((to_reset, to_keep, to_new * factors[3]), axis=-1)


GRU = Cell(3, 1, _gru_step, _gru_factors, _gru_pull_back, _gru_to_hidden)
"""Gated recurrent unit (Cho et al. 2014), with the reset after the product; the gates are reset, update, new."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(cell: Cell, inputs, kernel, bias, initial):
    """Runs a cell along a sequence. It can be differentiated any number of times, in reverse mode only.

    Args:
      cell: `LSTM` or `GRU`.
      inputs: projected inputs, time first, `[T, B, G*H]`.
      kernel: `[H, G*H]`; `hidden @ kernel + bias` is the projected hidden state.
      bias: `[G*H]`.
      initial: the carry before the first position, a tuple of arrays `[B, H]`.

    Returns:
      The hidden states after each position, `[T, B, H]`.

    Example:
      >>> start = (jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> recur(LSTM, jnp.ones((5, 2, 12)), jnp.ones((3, 12)), jnp.ones(12), start).shape
      (5, 2, 3)
    """
    return _forward(cell, inputs, kernel, bias, initial)[0]


def _forward(cell, inputs, kernel, bias, initial):
    def step(carry, inputs_t):
        after, saved = cell.step(inputs_t, carry[0] @ kernel + bias[None, :], carry)
        return after, (after, saved)

    _, (after, saved) = jax.lax.scan(step, initial, inputs)
    return after[0], (kernel, initial, after, saved)


def _backward(cell, residuals, gradient):
    kernel, initial, after, saved = residuals
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), initial, after)
    factors = cell.factors(saved, before)
    transposed = kernel.T

    def step(carry, position):
        to_output, factors_t = position
        to_inputs, to_carry = cell.pull_back(factors_t, (carry[0] + to_output, *carry[1:]))
        to_hidden = cell.to_hidden(factors_t, to_inputs)
        return (to_carry[0] + to_hidden @ transposed, *to_carry[1:]), to_inputs

    start = jax.tree.map(jnp.zeros_like, initial)
    to_initial, to_inputs = jax.lax.scan(step, start, (gradient, factors), reverse=True)
    to_hidden = cell.to_hidden(factors, to_inputs).reshape(-1, kernel.shape[1])
    states = before[0].reshape(-1, kernel.shape[0])
    return to_inputs, states.T @ to_hidden, to_hidden.sum(axis=0), to_initial


recur.defvjp(_forward, _backward)
