"""The recurrent next-character model that federated learning papers train on Shakespeare."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedjax_core import _checks, types
from fedjax_core.contracts import Metric, Model
from fedjax_core.language.graph import IntegerRange
from fedjax_core.models import _adapting, _arguments, _layers, _losses, _recurrence

_CELLS = {"lstm": _recurrence.LSTM, "gru": _recurrence.GRU}


def character_model(
    vocab_size: int = 90,
    embedding_size: int = 8,
    hidden_size: int = 256,
    num_layers: int = 2,
    cell: str = "lstm",
    sequence_length: int = 80,
    pad: int | None = 0,
    metrics: Mapping[str, Metric] | None = None,
) -> Model:
    """Predicts the next token at every position: an embedding, a stack of LSTM or GRU layers and a dense layer.

    It can be differentiated any number of times in reverse mode (`jax.grad`, `jax.vjp`), but not in forward mode
    (`jax.jvp`, `jax.hessian`).

    Args:
      vocab_size: `V`, the number of symbols including the padding.
      embedding_size: `E`, the size of an embedding.
      hidden_size: `H`, the number of units of each recurrent layer.
      num_layers: the number of recurrent layers.
      cell: "lstm", or "gru" (which applies the reset gate after the matrix product, like cuDNN).
      sequence_length: `T`, the number of positions.
      pad: the padding symbol in `y`, whose positions do not count in the loss; None if there is none.
      metrics: metrics by name, in addition to the loss.

    Returns:
      A `Model` for batches `<x=int32[?,T],y=int32[?,T]>`. It predicts logits, float32 `[B, T, V]`; its loss is
      `sequence_cross_entropy(pad=pad)`. Its weights are `embedding`, float32 `[V, E]`; `layer_0`, `layer_1`, ...,
      each with `kernel` `[I, G*H]`, `recurrent_kernel` `[H, G*H]` and `bias` `[G*H]`, and for a GRU also
      `recurrent_bias` `[G*H]`; and `dense` with `kernel` `[H, V]` and `bias` `[V]`. An LSTM has the G = 4 gates
      input, forget, cell and output, a GRU the 3 gates reset, update and new. The bias of the forget gate starts at 1.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or the cell is unknown.

    References:
      McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
      Data", arXiv:1602.05629, section 3.

    Example:
      >>> model = character_model(hidden_size=16)
      >>> str(model.batch_type)
      '<x=int32[?,80],y=int32[?,80]>'
      >>> weights = model.init(jax.random.key(0))
      >>> model.predict(weights, {"x": jnp.ones((2, 80), int)}).shape
      (2, 80, 90)
    """
    _arguments.check_positive(
        "character_model",
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        sequence_length=sequence_length,
    )
    _checks.check_choice("character_model(cell=...)", cell, tuple(_CELLS), "write cell='lstm'")

    def init(key):
        embedding_key, dense_key, *layer_keys = jax.random.split(key, num_layers + 2)
        sizes = [embedding_size] + [hidden_size] * (num_layers - 1)
        layers = {
            f"layer_{i}": _init_layer(layer_key, cell, size, hidden_size)
            for i, (layer_key, size) in enumerate(zip(layer_keys, sizes))
        }
        embedding = jax.random.normal(embedding_key, (vocab_size, embedding_size)) / vocab_size**0.5
        return {
            "embedding": embedding,
            **layers,
            "dense": _layers.init_dense(dense_key, hidden_size, vocab_size),
        }

    def predict(weights, batch, key=None, training=False):
        x = weights["embedding"][batch["x"].T]
        for i in range(num_layers):
            x = _layer(weights[f"layer_{i}"], x, cell)
        logits = _project(x, weights["dense"]["kernel"]) + weights["dense"]["bias"][None, None, :]
        return logits.swapaxes(0, 1)

    # JAX would take the last row of the embedding for a token beyond it.
    predict.integer_ranges = (IntegerRange("x", 0, vocab_size - 1, what="the vocabulary of the model"),)
    batch_type = types.parse_type(f"<x=int32[?,{sequence_length}],y=int32[?,{sequence_length}]>")
    return Model(init, predict, _losses.sequence_cross_entropy(pad=pad), _adapting.metrics_dict(metrics), batch_type)


def _init_layer(key, cell, num_inputs, hidden_size):
    input_key, recurrent_key = jax.random.split(key)
    width = _CELLS[cell].num_gates * hidden_size
    kernels = {
        "kernel": jax.nn.initializers.lecun_normal()(input_key, (num_inputs, width)),
        "recurrent_kernel": jax.nn.initializers.orthogonal()(recurrent_key, (hidden_size, width)),
    }
    if cell == "gru":
        return {**kernels, "bias": jnp.zeros(width), "recurrent_bias": jnp.zeros(width)}
    return {**kernels, "bias": jnp.zeros(width).at[hidden_size : 2 * hidden_size].set(1.0)}


def _layer(weights, x, cell):
    """One recurrent layer over `x`, `[T, B, I]`, to `[T, B, H]`."""
    inputs = _project(x, weights["kernel"])
    kernel, bias = weights["recurrent_kernel"], weights["bias"]
    if cell == "gru":
        inputs, bias = inputs + bias[None, None, :], weights["recurrent_bias"]
    zeros = jnp.zeros((x.shape[1], kernel.shape[0]), inputs.dtype)
    return _recurrence.recur(_CELLS[cell], inputs, kernel, bias, (zeros,) * _CELLS[cell].num_states)


def _project(x, kernel):
    """`x @ kernel` for `[T, B, I]` as one product of two matrices, the faster form on CPU."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])
