"""What the adapters share: the inputs of a module, and the arguments that switch it to training or evaluation."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import _checks, types

_TRAINING_NAMES = ("train", "training", "is_training")
_EVALUATION_NAMES = ("deterministic", "use_running_average")


def input_names(adapter: str, inputs: str | Sequence[str], batch_type: types.Type) -> tuple[str, ...]:
    """The names of the batch fields that a module takes, checked against the batch type.

    Args:
      adapter: the name of the adapter, for error messages.
      inputs: the name of one field, or several names.
      batch_type: the type of a batch.

    Returns:
      The names as a tuple.

    Raises:
      ValueError: the batch lacks one of the fields.

    Example:
      >>> input_names("from_linen", "x", types.parse_type("<x=float32[?,3],y=int32[?]>"))
      ('x',)
    """
    names = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    fields = batch_type.names if isinstance(batch_type, types.StructType) else ()
    for name in names:
        if name not in fields:
            raise ValueError(
                f"{adapter}(inputs=...) must name fields of a batch, got {name!r}, which is not "
                f"one of {batch_type}; write `inputs=NAME`, or `batch_type={{{name!r}: ..., ...}}`"
            )
    return names


def example_inputs(names: Sequence[str], batch_type: types.StructType) -> list[Any]:
    """Zeros for the fields `names` of a batch, in which every unknown size (`?`) is 1.

    Raises:
      ValueError: the rank of a field is unknown.

    Example:
      >>> example_inputs(["x"], types.parse_type("<x=float32[?,3],y=int32[?]>"))
      [Array([[0., 0., 0.]], dtype=float32)]
    """
    return [jax.tree.map(_zeros, types.tree_of_types(batch_type[name])) for name in names]


def _zeros(tensor: types.TensorType) -> jax.Array:
    if tensor.shape is None:
        raise ValueError(
            f"the batch type of a flax module must give the rank of every input, got {tensor}; "
            f"for example write {tensor.dtype}[?,3]"
        )
    return jnp.zeros([1 if size is None else size for size in tensor.shape], tensor.dtype)


def call_arguments(adapter: str, call: Callable, mask: str | None) -> Callable[[bool, Any, Any], dict[str, Any]]:
    """The keyword arguments that tell a module whether it trains and which rows are padding.

    Args:
      adapter: the name of the adapter, for error messages.
      call: the module's `__call__`. Parameters named `train`, `training` or `is_training` get `training`,
        those named `deterministic` or `use_running_average` get the opposite.
      mask: the name of the parameter that takes the mask; None if there is none.

    Returns:
      `arguments(training, mask, batch)`, which gives the keyword arguments for a call. The mask may be None if every
      row of the batch is an example.

    Raises:
      ValueError: `call` has no parameter named `mask`.

    Example:
      >>> call_arguments("from_linen", lambda x, train: x, None)(True, None, {})
      {'train': True}
      >>> call_arguments("from_linen", lambda x, deterministic=True: x, None)(True, None, {})
      {'deterministic': False}
      >>> call_arguments("from_linen", lambda x, rows: x, "rows")(True, jnp.array([True, False]), {})
      {'rows': Array([ True, False], dtype=bool)}
    """
    parameters = inspect.signature(call).parameters
    positive = [name for name in _TRAINING_NAMES if name in parameters]
    negative = [name for name in _EVALUATION_NAMES if name in parameters]
    if mask is not None and mask not in parameters:
        raise ValueError(
            f"{adapter}(mask=...) must name the parameter of the module's call that takes the mask; its parameters are "
            f"{', '.join(parameters) or 'none'}, got {mask!r}; write `def __call__(self, x, {mask})`"
        )

    def arguments(training, rows, batch):
        modes = {**dict.fromkeys(positive, bool(training)), **dict.fromkeys(negative, not training)}
        if mask is None:
            return modes
        everyone = jnp.ones(jax.tree.leaves(batch)[0].shape[0], bool) if rows is None else rows
        return {**modes, mask: everyone}

    return arguments


def running_of_model(adapter: str, running: str) -> str:
    """The value of `Model.running` for the argument `running` of an adapter.

    Raises:
      ValueError: `running` is not "average", "keep" or "freeze".

    Example:
      >>> running_of_model("from_linen", "freeze")
      'keep'
      >>> running_of_model("from_linen", "mean")
      Traceback (most recent call last):
      ValueError: from_linen(running=...) must be "average", "keep" or "freeze", got 'mean'; write running="average"
    """
    if running not in ("average", "keep", "freeze"):
        raise ValueError(
            f'{adapter}(running=...) must be "average", "keep" or "freeze", got {running!r}; write running="average"'
        )
    return "keep" if running == "freeze" else running  # frozen state is never returned, so either value would do


def missing_key() -> ValueError:
    """The error for a module that draws random numbers but got no key.

    Example:
      >>> raise missing_key()
      Traceback (most recent call last):
      ValueError: this module draws random numbers in training, but got `key=None`; write
        `model.predict(weights, batch, key, training=True)`
    """
    return ValueError(
        "this module draws random numbers in training, but got `key=None`; write "
        "`model.predict(weights, batch, key, training=True)`"
    )


@contextlib.contextmanager
def telling_of_axes(repaired: str) -> Iterator[None]:
    """A context in which a mean over an unknown mapped axis raises an error that says what to write instead.

    Args:
      repaired: what to write instead, for the error message.

    Raises:
      ValueError: the code inside uses the name of a mapped axis that does not exist.

    Example:
      >>> try:
      ...     with telling_of_axes("leave `axis_name` out"):
      ...         jax.lax.pmean(jnp.ones(3), "batch")
      ... except ValueError as error:
      ...     print(str(error).rpartition("training ")[-1])
      (unbound axis name: batch); leave `axis_name` out
    """
    try:
        yield
    except NameError as error:
        if "axis name" not in str(error):
            raise
        raise ValueError(
            "this module takes a mean over a mapped axis whose name does not exist in a client's training "
            f"({str(error).partition('.')[0]}); {repaired}"
        ) from error


WITHOUT_AXIS = "leave `axis_name` out of its BatchNorm, whose statistics are then over the examples of a client's batch"


def metrics_dict(metrics: Mapping | None) -> dict:
    """A copy of `metrics` for a model; an empty dict for None.

    Raises:
      TypeError: they are not in a dict, which `dict` might take for one nevertheless: a `Metric` is a pair.

    Example:
      >>> metrics_dict(None)
      {}
    """
    if not isinstance(metrics, Mapping | None):
        raise TypeError(
            f"the metrics of a model must be a dict from name to Metric, got {_checks.shown(metrics)}; write "
            'metrics={"accuracy": fc.metrics.accuracy()}'
        )
    return dict(metrics or {})
