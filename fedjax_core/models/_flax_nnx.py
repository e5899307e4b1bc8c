"""A model from a flax nnx module."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.contracts import Metric, Model, ModelWeights, Predicted
from fedjax_core.models import _adapting, _masking


def from_nnx(
    create: Callable[[Any], Any],
    loss: Callable[[Any, Any], jax.Array],
    batch_type: Any,
    metrics: Mapping[str, Metric] | None = None,
    *,
    inputs: str | Sequence[str] = "x",
    mask: str | None = None,
    running: str = "average",
) -> Model:
    """Makes a `Model` of a `flax.nnx.Module`.

    Its `nnx.Param` variables are trained. If there are others (the running averages of `BatchNorm`), the
    weights are `ModelWeights(params, others)`, and what the module writes into the others in training is
    running state, see `running`. The states of random number streams are no weights: in training they come
    from the key.

    A `flax.nnx.BatchNorm` in the module is given the mask of the batch, so that padding is not in its
    statistics. Layers of one's own that combine examples can take the mask, see `mask`.

    The module is put into its `train()` or `eval()` mode, and told by the parameter of its `__call__`
    that is named `train`, `training`, `is_training`, `deterministic` or `use_running_average`, if it has one.

    Args:
      create: `(rngs: nnx.Rngs) -> module`, makes the module; `module(*inputs)` gives the predictions.
      loss: `(predictions, batch) -> [B]`, for example `cross_entropy()`.
      batch_type: the type of a batch, or what `to_type` makes one of: notation or a dict of notations.
      metrics: metrics by name, beside the loss.
      inputs: the field of a batch that the module takes, or several in the order of its parameters.
      mask: the parameter of the module's `__call__` that takes the mask, bool `[B]`, False on padding;
        None if it has none.
      running: what becomes of running state. "average": the server averages what the clients' training
        leaves, weighted by their examples. "keep": a client carries it from step to step and does not send it.
        "freeze": it stays as it was created.

    Returns:
      The `Model`. Its weights are nested dicts of arrays, keyed as `nnx.to_pure_dict` keys them; layers of a
      list have integer keys.

    Raises:
      ValueError: `batch_type` lacks one of the inputs, the module has no such parameter, or `running` is another
        word; when predicting, a key is needed and missing, or a `BatchNorm` has an `axis_name` that is not there.

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
    module = nnx.eval_shape(lambda: create(nnx.Rngs(0)))
    arguments = _adapting.call_arguments("from_nnx", module.__call__, mask)
    name = type(module).__name__
    _take_masks(module)
    abstract = _split(module)

    def init(key):
        parts = _split(create(nnx.Rngs(key)))
        trainable, others = nnx.to_pure_dict(parts.params), nnx.to_pure_dict(parts.others)
        return ModelWeights(trainable, others) if others else trainable

    def apply(training, mask, weights, batch, key):
        trainable, others = weights if isinstance(weights, ModelWeights) else (weights, {})
        module = nnx.merge(
            abstract.graph,
            _filled(abstract.params, trainable),
            _seeded(abstract.streams, jax.random.key(0) if key is None else key),
            _filled(abstract.others, others),
        )
        module.train() if training else module.eval()
        with _adapting.telling_of_axes(_adapting.WITHOUT_AXIS):
            predictions = module(*[batch[name] for name in names], **arguments(training, mask, batch))
        return predictions, _same_keys(nnx.to_pure_dict(_split(module).others), others)

    train = _masking.masked(functools.partial(apply, True), batch_type)

    def predict(weights, batch, key=None, training=False, mask=None):
        if not training:
            return apply(False, mask, weights, batch, key)[0]
        if key is None and jax.tree.leaves(abstract.streams):
            raise _adapting.missing_key()
        predictions, others = train(mask, weights, batch, key)
        return Predicted(predictions, others) if others and running != "freeze" else predictions

    predict.__qualname__ = f"from_nnx({name}).predict"
    metrics = _adapting.metrics_dict(metrics)
    return Model(init, predict, loss, metrics, batch_type, _adapting.running_of_model("from_nnx", running))


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


def _same_keys(new, old):
    """What `old` has too: not what a module sows while it is called."""
    return {key: _same_keys(new[key], part) for key, part in old.items()} if isinstance(old, dict) else new


def _take_masks(module) -> None:
    """Makes each `BatchNorm` of a module one that asks for the mask when it is called."""
    from flax import nnx

    for path, part in nnx.iter_modules(module):
        # One with an axis name takes the mean of means over that axis, where each counts alike whatever its mask.
        if isinstance(part, nnx.BatchNorm) and part.axis_name is None:
            part.__class__ = _masked_class(type(part))
            part.path_in_module = path  # pyright: ignore[reportAttributeAccessIssue]  # of its new class


@functools.cache
def _masked_class(norm: type) -> type:
    """A class like that of a `BatchNorm`; it goes through `nnx.merge` and nnx's transforms with its instances."""

    def call(self, x, *args, mask=None, **kwargs):
        method = functools.partial(norm.__call__, self)
        return _masking.with_mask(method, self.path_in_module, x, mask, (x, *args), kwargs)

    return type(norm.__name__, (norm,), {"__call__": call, "__module__": norm.__module__})
