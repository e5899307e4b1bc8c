"""Models from flax nnx modules."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import _checks, types
from fedjax_core.contracts import Metric, Model, ModelWeights, Predicted
from fedjax_core.model_calls import check_loss
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
    """Makes a `Model` from a `flax.nnx.Module`.

    Its `nnx.Param` variables are trained. If there are other variables (such as the running averages of
    `BatchNorm`), the weights are `ModelWeights(params, others)`. What the module writes into the others in training
    is running state; `running` says what happens to it. The states of random number streams are not weights: in
    training they are derived from the key.

    A `flax.nnx.BatchNorm` in the module gets the mask of the batch, so padding does not count in its statistics.
    Layers of your own that combine examples can take the mask through `mask`.

    The module is switched to its `train()` or `eval()` mode. It also learns whether it trains from the parameter of
    its `__call__` that is named `train`, `training`, `is_training`, `deterministic` or `use_running_average`, if
    there is one.

    Args:
      create: `(rngs: nnx.Rngs) -> module`; `module(*inputs)` gives the predictions.
      loss: `(predictions, batch) -> [B]`, for example `cross_entropy()`.
      batch_type: the type of a batch, or anything that `to_type` converts: notation, or a dict of notations.
      metrics: metrics by name, in addition to the loss.
      inputs: the batch field that the module takes, or several fields in the order of its parameters.
      mask: the parameter of the module's `__call__` that takes the mask, bool `[B]`, False for padding; None if
        there is none.
      running: what happens to running state. "average": the server averages the clients' states after training,
        weighted by their numbers of examples. "keep": a client carries it from step to step and does not send it.
        "freeze": it stays as it was created.

    Returns:
      The `Model`. Its weights are nested dicts of arrays with the keys of `nnx.to_pure_dict`; layers in a list have
      integer keys.

    Raises:
      TypeError: `create` does not make a module with `nnx.Rngs`, or `loss` is not a function of predictions and batch.
      ValueError: `batch_type` lacks one of the inputs, the module has no parameter named `mask`, or `running` is not
        one of the three; when predicting: the module needs a key and gets none, or a `BatchNorm` has an `axis_name`
        that does not exist.

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
    check_loss(loss)
    module = _abstract_module(create)
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


def _abstract_module(create: Callable) -> Any:
    """The module that `create` makes, with abstract arrays."""
    from flax import linen, nnx

    repair = "write from_nnx(lambda rngs: nnx.Linear(784, 10, rngs=rngs), ...)"
    rule = "from_nnx(create=...) must be a function that makes a flax.nnx.Module with nnx.Rngs"
    if isinstance(create, nnx.Module | linen.Module) or not callable(create):
        raise TypeError(f"{rule}, got {type(create).__name__}(...); {repair}")
    try:  # the signature of a class of nnx takes anything
        inspect.signature(functools.partial(create.__init__, None) if isinstance(create, type) else create).bind(None)
    except TypeError as error:
        raise TypeError(f"{rule}, got {_checks.shown(create)}, which cannot be called so ({error}); {repair}") from None
    module = nnx.eval_shape(lambda: create(nnx.Rngs(0)))
    if not isinstance(module, nnx.Module):
        raise TypeError(f"{rule}, got {_checks.shown(create)}, which returns a {type(module).__name__}; {repair}")
    return module


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
    """The states of the random number streams at the start of a call with `key`."""
    leaves, structure = jax.tree.flatten(streams)
    states = [
        jax.random.split(jax.random.fold_in(key, i), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, states)


def _same_keys(new, old):
    """The parts of `new` that `old` has too, which leaves out what a module sows while it is called."""
    return {key: _same_keys(new[key], part) for key, part in old.items()} if isinstance(old, dict) else new


def _take_masks(module) -> None:
    """Replaces the class of each `BatchNorm` in a module by one that gets the mask when it is called."""
    from flax import nnx

    for path, part in nnx.iter_modules(module):
        # With an axis name, the means along that axis are averaged with equal weights, whatever their masks.
        if isinstance(part, nnx.BatchNorm) and part.axis_name is None:
            part.__class__ = _masked_class(type(part))
            part.path_in_module = path  # pyright: ignore[reportAttributeAccessIssue]  # the new class has it


@functools.cache
def _masked_class(norm: type) -> type:
    """A subclass of a `BatchNorm` that takes the mask; it survives `nnx.merge` and nnx's transforms."""

    def call(self, x, *args, mask=None, **kwargs):
        method = functools.partial(norm.__call__, self)
        return _masking.with_mask(method, self.path_in_module, x, mask, (x, *args), kwargs)

    return type(norm.__name__, (norm,), {"__call__": call, "__module__": norm.__module__})
