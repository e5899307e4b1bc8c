"""Replacements for flax linen modules that are fast inside the engine's loops.

Use them in place of `flax.linen.Conv` and `flax.linen.RNN`. Their parameters have the same names and shapes, so
trained weights fit:

  >>> import flax.linen as nn
  >>> from fedjax_core import models
  >>> from fedjax_core.models import layers
  >>> from fedjax_core.models.layers import linen as fast
  >>> class Net(nn.Module):
  ...     @nn.compact
  ...     def __call__(self, x):
  ...         x = nn.relu(fast.Conv(8, (3, 3))(x))
  ...         x = layers.max_pool(x)
  ...         return nn.Dense(10)(x.reshape(x.shape[0], 14 * 14 * 8))
  >>> batch_type = {"x": "float32[?,28,28,1]", "y": "int32[?]"}
  >>> model = models.from_linen(Net(), models.cross_entropy(), batch_type)
  >>> list(model.init(jax.random.key(0)))
  ['Conv_0', 'Dense_0']
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from fedjax_core._signposts import signpost
from fedjax_core.models.layers._convolution import conv
from fedjax_core.models.layers._recurrent import gru, lstm

__all__ = ["RNN", "Conv"]

signpost(__name__)


class Conv(nn.Module):
    """`flax.linen.Conv` with stride 1, computed by `layers.conv`.

    It maps floating point `[..., *S, I]` to `[..., *S, O]`, with the parameters `kernel`, `[*K, I, O]`, and `bias`,
    `[O]`. Calling it raises `ValueError` for strides other than 1 and for a padding other than "SAME" and "VALID"; use
    `flax.linen.Conv` for these.

    Attributes:
      features: `O`, the number of output channels.
      kernel_size: `K`, one size for each spatial axis `S`; an integer for one axis.
      strides: None, 1 or a sequence of ones.
      padding: "SAME" or "VALID".
      use_bias: whether there is a bias.
      dtype: the dtype of the computation; None to infer it from the inputs and the parameters.
      param_dtype: the dtype of the parameters.
      kernel_init: the initializer of the kernel.
      bias_init: the initializer of the bias.

    Example:
      >>> module = Conv(32, (3, 3), padding="VALID")
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 28, 28, 1)))
      >>> module.apply(variables, jnp.ones((5, 28, 28, 1))).shape
      (5, 26, 26, 32)
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: str = "SAME"
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        strides = self.strides if isinstance(self.strides, Sequence) else (self.strides,)
        if any(stride not in (None, 1) for stride in strides):
            raise ValueError(
                f"layers.linen.Conv(strides=...) must be 1, got {self.strides}; for other strides use `flax.linen.Conv`"
            )
        shape = (*window, inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        leading, image = inputs.shape[: -len(window) - 1], inputs.shape[-len(window) - 1 :]
        outputs = conv(inputs.reshape(math.prod(leading), *image), kernel, bias, self.padding)
        return outputs.reshape(*leading, *outputs.shape[1:])


class RNN(nn.Module):
    """`flax.linen.RNN` with an LSTM or GRU cell, computed by `layers.lstm` or `layers.gru`.

    It maps floating point `[..., T, I]` to the hidden states after each position, `[..., T, H]`. The parameters are
    those of the cell, named as `flax.linen.RNN` names them. Other options of `flax.linen.RNN` (lengths, the last
    carry, reversal) and forward-mode differentiation are not supported. Calling it raises `TypeError` for another
    cell, and `ValueError` for activations other than sigmoid and tanh.

    Attributes:
      cell: a `flax.linen.OptimizedLSTMCell`, `LSTMCell` or `GRUCell`.
      time_major: whether time is the first axis, `[T, ..., I]`, of inputs and outputs.

    Example:
      >>> module = RNN(nn.OptimizedLSTMCell(16))
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 80, 8)))
      >>> module.apply(variables, jnp.ones((5, 80, 8))).shape
      (5, 80, 16)
    """

    cell: nn.RNNCellBase
    time_major: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        cell = self.cell
        _check_cell(cell)
        if self.time_major:
            inputs = jnp.moveaxis(inputs, 0, -2)
        leading = inputs.shape[:-2]
        x = inputs.reshape(math.prod(leading), *inputs.shape[-2:])
        carry = cell.initialize_carry(jax.random.key(0), (x.shape[0], x.shape[-1]))
        if self.is_initializing():
            cell(carry, x[:, 0])
        run = _run_gru if isinstance(cell, nn.GRUCell) else _run_lstm
        outputs = run(cell.variables["params"], x, carry, cell.dtype)
        outputs = outputs.reshape(*leading, *outputs.shape[1:])
        return jnp.moveaxis(outputs, -2, 0) if self.time_major else outputs


def _check_cell(cell):
    if not isinstance(cell, (nn.OptimizedLSTMCell, nn.LSTMCell, nn.GRUCell)):
        raise TypeError(
            "layers.linen.RNN takes an OptimizedLSTMCell, LSTMCell or GRUCell of flax.linen, got "
            f"{type(cell).__name__}; for other cells use `flax.linen.RNN`"
        )
    if cell.gate_fn is not nn.sigmoid or cell.activation_fn is not nn.tanh:
        raise ValueError(
            "layers.linen.RNN takes a cell with gate_fn=sigmoid and activation_fn=tanh; for others use `flax.linen.RNN`"
        )


def _run_lstm(params, x, carry, dtype):
    kernel = _joined(params, "kernel", ("ii", "if", "ig", "io"))
    recurrent_kernel = _joined(params, "kernel", ("hi", "hf", "hg", "ho"))
    bias = _joined(params, "bias", ("hi", "hf", "hg", "ho"))
    cell, hidden = carry
    x, kernel, recurrent_kernel, bias = _promoted(dtype, x, kernel, recurrent_kernel, bias, carry=hidden)
    return lstm(x, kernel, recurrent_kernel, bias, (hidden, cell))


def _run_gru(params, x, carry, dtype):
    kernel, bias = (_joined(params, part, ("ir", "iz", "in")) for part in ("kernel", "bias"))
    recurrent_kernel = _joined(params, "kernel", ("hr", "hz", "hn"))
    new = params["hn"]["bias"]
    recurrent_bias = jnp.concatenate([jnp.zeros_like(new), jnp.zeros_like(new), new])
    arrays = (x, kernel, recurrent_kernel, bias, recurrent_bias)
    x, kernel, recurrent_kernel, bias, recurrent_bias = _promoted(dtype, *arrays, carry=carry)
    return gru(x, kernel, recurrent_kernel, bias, recurrent_bias, carry)


def _joined(params, part, names):
    return jnp.concatenate([params[name][part] for name in names], axis=-1)


def _promoted(dtype, *arrays, carry):
    """The arrays, rounded to `dtype` as in flax, but in a dtype at least as wide as the carry's, as flax's outputs."""
    arrays = promote_dtype(*arrays, dtype=dtype)
    return [a.astype(jnp.promote_types(a.dtype, carry.dtype)) for a in arrays]
