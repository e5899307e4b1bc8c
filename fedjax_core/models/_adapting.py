"""What the adapters share: how a module is fed, and told whether it trains."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types

_TRAINING_NAMES = ("train", "training", "is_training")
_EVALUATION_NAMES = ("deterministic", "use_running_average")


def input_names(adapter: str, inputs: str | Sequence[str], batch_type: types.Type) -> tuple[str, ...]:
    """The batch fields that a module takes, checked against the type of a batch.

    Args:
      adapter: the name to show in the message.
      inputs: the name of a field, or several.
      batch_type: the type of a batch.

    Returns:
      The names.

    Raises:
      ValueError: the batch has no such field.

    Example:
      >>> input_names("from_linen", "x", types.parse_type("<x=float32[?,3],y=int32[?]>"))
      ('x',)
    """
    names = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    fields = batch_type.names if isinstance(batch_type, types.StructType) else ()
    for name in names:
        if name not in fields:
            raise ValueError(
                f"{adapter}(inputs=...) names the fields of a batch that the module takes; {name!r} is not "
                f"one of {batch_type}; write `inputs=NAME`, or `batch_type={{{name!r}: ..., ...}}`"
            )
    return names


def example_inputs(names: Sequence[str], batch_type: types.StructType) -> list[Any]:
    """Zeros for the fields `names` of a batch; every `?` becomes 1.

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
            f"the batch type of a flax module needs the rank of every input, got {tensor}; "
            f"write for example {tensor.dtype}[?,3]"
        )
    return jnp.zeros([1 if size is None else size for size in tensor.shape], tensor.dtype)


def mode_arguments(call: Callable) -> Callable[[bool], dict[str, bool]]:
    """How a module's `__call__` wants to be told whether it trains, found in its signature.

    Args:
      call: the `__call__`; parameters named `train`, `training` or `is_training` are given
        `training`, those named `deterministic` or `use_running_average` the opposite.

    Returns:
      `arguments(training)`, the keyword arguments for a call.

    Example:
      >>> mode_arguments(lambda x, train: x)(True)
      {'train': True}
      >>> mode_arguments(lambda x, deterministic=True: x)(True)
      {'deterministic': False}
    """
    parameters = inspect.signature(call).parameters
    positive = [name for name in _TRAINING_NAMES if name in parameters]
    negative = [name for name in _EVALUATION_NAMES if name in parameters]

    def arguments(training):
        return {**dict.fromkeys(positive, bool(training)), **dict.fromkeys(negative, not training)}

    return arguments


def missing_key() -> ValueError:
    """The error of a module that draws random numbers and was given no key.

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


def metrics_dict(metrics: Mapping | None) -> dict:
    """A dict of its own for a model; None is empty.

    Example:
      >>> metrics_dict(None)
      {}
    """
    return dict(metrics or {})
