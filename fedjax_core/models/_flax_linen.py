"""Models from flax linen modules."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from fedjax_core import types
from fedjax_core.contracts import Metric, Model, ModelWeights, Predicted
from fedjax_core.model_calls import check_loss
from fedjax_core.models import _adapting, _masking


def from_linen(
    module: Any,
    loss: Callable[[Any, Any], jax.Array],
    batch_type: Any,
    metrics: Mapping[str, Metric] | None = None,
    *,
    inputs: str | Sequence[str] = "x",
    mask: str | None = None,
    running: str = "average",
) -> Model:
    """Makes a `Model` from a `flax.linen.Module`.

    The collection `params` is trained. If there are other collections (such as the running averages of `BatchNorm`),
    the weights are `ModelWeights(params, others)`. What the module writes into the others in training is running
    state; `running` says what happens to it.

    A `flax.linen.BatchNorm` in the module gets the mask of the batch, so padding does not count in its statistics.
    Layers of your own that combine examples can take the mask through `mask`.

    The module learns whether it trains from the parameter of its `__call__` that is named `train`, `training`,
    `is_training`, `deterministic` or `use_running_average`, if there is one. In training, the key seeds the stream
    `dropout` and all other random streams.

    Args:
      module: the module; `module(*inputs)` gives the predictions.
      loss: `(predictions, batch) -> [B]`, for example `cross_entropy()`.
      batch_type: the type of a batch, or anything that `to_type` converts: notation, or a dict of notations.
      metrics: metrics by name, in addition to the loss.
      inputs: the batch field that the module takes, or several fields in the order of its parameters.
      mask: the parameter of the module's `__call__` that takes the mask, bool `[B]`, False for padding; None if
        there is none.
      running: what happens to running state. "average": the server averages the clients' states after training,
        weighted by their numbers of examples. "keep": a client carries it from step to step and does not send it.
        "freeze": it stays as it was initialized.

    Returns:
      The `Model`. Its weights are those that `module.init` gives for a batch of one example.

    Raises:
      TypeError: `module` is not an instance of a module of linen, or `loss` is not a function of predictions and batch.
      ValueError: `batch_type` lacks one of the inputs, the module has no parameter named `mask`, or `running` is not
        one of the three; when predicting: the module needs a key and gets none, or a `BatchNorm` has an `axis_name`
        that does not exist.

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
    import flax.linen as nn

    if not isinstance(module, nn.Module):
        found = f"the class {module.__name__}" if isinstance(module, type) else f"{type(module).__name__}(...)"
        raise TypeError(
            f"from_linen(module=...) must be an instance of a flax.linen.Module, got {found}; write "
            "from_linen(nn.Dense(10), ...), or from_nnx(...) for a module of flax.nnx"
        )
    check_loss(loss)
    batch_type = types.to_type(batch_type)
    names = _adapting.input_names("from_linen", inputs, batch_type)
    arguments = _adapting.call_arguments("from_linen", module.__call__, mask)

    def init(key):
        params, dropout = jax.random.split(key)
        examples = _adapting.example_inputs(names, batch_type)
        modes = arguments(False, None, dict(zip(names, examples)))
        variables = module.init({"params": params, "dropout": dropout}, *examples, **modes)
        others = {name: part for name, part in variables.items() if name != "params"}
        trainable = variables.get("params", {})
        return ModelWeights(trainable, others) if others else trainable

    def apply(training, mask, weights, batch, key):
        trainable, others = weights if isinstance(weights, ModelWeights) else (weights, {})
        variables = {"params": trainable, **others}
        values = [batch[name] for name in names]
        return _apply(module, variables, values, arguments(training, mask, batch), _streams(key), list(others))

    train = _masking.masked(functools.partial(apply, True), batch_type)

    def predict(weights, batch, key=None, training=False, mask=None):
        if not training:
            return apply(False, mask, weights, batch, key)[0]
        predictions, others = train(mask, weights, batch, key)
        return Predicted(predictions, others) if others and running != "freeze" else predictions

    predict.__qualname__ = f"from_linen({type(module).__name__}).predict"
    metrics = _adapting.metrics_dict(metrics)
    return Model(init, predict, loss, metrics, batch_type, _adapting.running_of_model("from_linen", running))


def _streams(key):
    if key is None:
        return {}
    dropout, others = jax.random.split(key)
    return {"dropout": dropout, "params": others}  # flax draws every stream that is not given from "params"


def _apply(module, variables, values, arguments, streams, mutable):
    import flax.linen as nn
    from flax import errors

    try:
        with nn.intercept_methods(_give_mask), _adapting.telling_of_axes(_adapting.WITHOUT_AXIS):
            return module.apply(variables, *values, rngs=streams, mutable=mutable, **arguments)
    except errors.InvalidRngError as error:
        raise _adapting.missing_key() from error


def _give_mask(method, args, kwargs, context):
    """Calls a method of a module, with the mask if the module is a `BatchNorm`."""
    import flax.linen as nn

    module = context.module
    # With an axis name, the means along that axis are averaged with equal weights, whatever their masks.
    if isinstance(module, nn.BatchNorm) and context.method_name == "__call__" and module.axis_name is None:
        x = args[0] if args else kwargs["x"]
        others = {name: value for name, value in kwargs.items() if name != "mask"}
        return _masking.with_mask(method, module.path, x, kwargs.get("mask"), args, others)
    return method(*args, **kwargs)
