"""A model from a flax linen module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from fedjax_core import types
from fedjax_core.contracts import Metric, Model, ModelWeights
from fedjax_core.models import _adapting


def from_linen(
    module: Any,
    loss: Callable[[Any, Any], jax.Array],
    batch_type: Any,
    metrics: Mapping[str, Metric] | None = None,
    *,
    inputs: str | Sequence[str] = "x",
) -> Model:
    """Makes a `Model` of a `flax.linen.Module`.

    The collection `params` is trained. If there are others (the running averages of `BatchNorm`), the
    weights are `ModelWeights(params, others)`; the others are constant: what the module would write into them
    is dropped. So in training a `BatchNorm` uses the statistics of its batch, in
    evaluation the running averages it was initialized with. Its statistics in training are over the whole
    batch, padding included; `GroupNorm` and `LayerNorm` do not mix examples.

    The module is told whether it trains by the parameter of its `__call__` that is named `train`,
    `training`, `is_training`, `deterministic` or `use_running_average`; it may have none.
    In training, the key gives the random numbers of `dropout` and of any other stream.

    Args:
      module: the module; `module(*inputs)` gives the predictions.
      loss: `(predictions, batch) -> [B]`, for example `cross_entropy()`.
      batch_type: the type of a batch, or what `to_type` makes one of: notation or a dict of notations.
      metrics: metrics by name, beside the loss.
      inputs: the field of a batch that the module takes, or several in the order of its parameters.

    Returns:
      The `Model`. Its weights are what `module.init` gives for a batch of one example.

    Raises:
      ValueError: `batch_type` lacks one of the inputs; when predicting, a key is needed and missing.

    Example:
      >>> import flax.linen as nn
      >>> import jax.numpy as jnp
      >>> from fedjax_core.models import cross_entropy
      >>> batch_type = {"x": "float32[?,28,28,1]", "y": "int32[?]"}
      >>> module = nn.Sequential([lambda x: x.reshape(x.shape[0], -1), nn.Dense(10)])
      >>> model = from_linen(module, cross_entropy(), batch_type)
      >>> weights = model.init(jax.random.key(0))
      >>> weights["layers_1"]["kernel"].shape
      (784, 10)
      >>> model.predict(weights, {"x": jnp.ones((2, 28, 28, 1))}).shape
      (2, 10)
    """
    batch_type = types.to_type(batch_type)
    names = _adapting.input_names("from_linen", inputs, batch_type)
    arguments = _adapting.mode_arguments(module.__call__)

    def init(key):
        params, dropout = jax.random.split(key)
        examples = _adapting.example_inputs(names, batch_type)
        variables = module.init({"params": params, "dropout": dropout}, *examples, **arguments(False))
        others = {name: part for name, part in variables.items() if name != "params"}
        trainable = variables.get("params", {})
        return ModelWeights(trainable, others) if others else trainable

    def predict(weights, batch, key=None, training=False):
        trainable, others = weights if isinstance(weights, ModelWeights) else (weights, {})
        variables = {"params": trainable, **others}
        values = [batch[name] for name in names]
        return _apply(module, variables, values, arguments(training), _streams(key), list(others))

    return Model(init, predict, loss, _adapting.metrics_dict(metrics), batch_type)


def _streams(key):
    if key is None:
        return {}
    dropout, others = jax.random.split(key)
    return {"dropout": dropout, "params": others}  # flax draws every stream it does not find from "params"


def _apply(module, variables, values, arguments, streams, mutable):
    from flax import errors

    try:
        predictions, _ = module.apply(variables, *values, rngs=streams, mutable=mutable, **arguments)
    except errors.InvalidRngError as error:
        raise _adapting.missing_key() from error
    return predictions
