"""A model from a flax nnx module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.contracts import Metric, Model, ModelWeights
from fedjax_core.models import _adapting


def from_nnx(
    create: Callable[[Any], Any],
    loss: Callable[[Any, Any], jax.Array],
    batch_type: Any,
    metrics: Mapping[str, Metric] | None = None,
    *,
    inputs: str | Sequence[str] = "x",
) -> Model:
    """Makes a `Model` of a `flax.nnx.Module`.

    Its `nnx.Param` variables are trained. If there are others (the running averages of `BatchNorm`), the
    weights are `ModelWeights(params, others)`; the others are constant: what the module would write into them
    is dropped. So in training a `BatchNorm` uses the statistics of its batch, in
    evaluation the running averages it was created with. Its statistics in training are over the whole
    batch, padding included; `GroupNorm` and `LayerNorm` do not mix examples. The states of
    random number streams are no weights: in training they come from the key.

    The module is put into its `train()` or `eval()` mode, and told by the parameter of its `__call__`
    that is named `train`, `training`, `is_training`, `deterministic` or `use_running_average`, if it has one.

    Args:
      create: `(rngs: nnx.Rngs) -> module`, makes the module; `module(*inputs)` gives the predictions.
      loss: `(predictions, batch) -> [B]`, for example `cross_entropy()`.
      batch_type: the type of a batch, or what `to_type` makes one of: notation or a dict of notations.
      metrics: metrics by name, beside the loss.
      inputs: the field of a batch that the module takes, or several in the order of its parameters.

    Returns:
      The `Model`. Its weights are nested dicts of arrays, keyed as `nnx.to_pure_dict` keys them; layers of a
      list have integer keys.

    Raises:
      ValueError: `batch_type` lacks one of the inputs; when predicting, a key is needed and missing.

    Example:
      >>> from flax import nnx
      >>> from fedjax_core.models import cross_entropy
      >>> batch_type = {"x": "float32[?,784]", "y": "int32[?]"}
      >>> model = from_nnx(lambda rngs: nnx.Linear(784, 10, rngs=rngs), cross_entropy(), batch_type)
      >>> weights = model.init(jax.random.key(0))
      >>> weights["kernel"].shape
      (784, 10)
      >>> model.predict(weights, {"x": jnp.ones((2, 784))}).shape
      (2, 10)
    """
    from flax import nnx

    batch_type = types.to_type(batch_type)
    names = _adapting.input_names("from_nnx", inputs, batch_type)
    abstract = _split(nnx.eval_shape(lambda: create(nnx.Rngs(0))))
    arguments = _adapting.mode_arguments(nnx.merge(*abstract).__call__)

    def init(key):
        parts = _split(create(nnx.Rngs(key)))
        trainable, others = nnx.to_pure_dict(parts.params), nnx.to_pure_dict(parts.others)
        return ModelWeights(trainable, others) if others else trainable

    def predict(weights, batch, key=None, training=False):
        if training and key is None and jax.tree.leaves(abstract.streams):
            raise _adapting.missing_key()
        trainable, others = weights if isinstance(weights, ModelWeights) else (weights, {})
        module = nnx.merge(
            abstract.graph,
            _filled(abstract.params, trainable),
            _seeded(abstract.streams, jax.random.key(0) if key is None else key),
            _filled(abstract.others, others),
        )
        module.train() if training else module.eval()
        return module(*[batch[name] for name in names], **arguments(training))

    return Model(init, predict, loss, _adapting.metrics_dict(metrics), batch_type)


class _Parts(NamedTuple):
    graph: Any
    params: Any
    streams: Any
    others: Any


def _split(module) -> _Parts:
    from flax import nnx

    return _Parts(*nnx.split(module, nnx.Param, nnx.RngState, ...))


def _filled(state, values):
    from flax import nnx

    filled = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(filled, values)
    return filled


def _seeded(streams, key):
    """The states of the random number streams at the beginning of a call that has `key`."""
    leaves, structure = jax.tree.flatten(streams)
    states = [
        jax.random.split(jax.random.fold_in(key, i), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, states)
