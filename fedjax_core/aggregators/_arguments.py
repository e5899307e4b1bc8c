"""Checks of the arguments of this room's functions."""

import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.aggregators._mean import mean
from fedjax_core.contracts import Aggregator
from fedjax_core.language import Placed


def inner_or_mean(function: str, inner) -> Aggregator:
    """The aggregator that `function` wraps, `mean()` if it is None.

    Raises:
      TypeError: `inner` is not an `Aggregator`.

    Example:
      >>> inner_or_mean("quantize", "mean")
      Traceback (most recent call last):
      TypeError: quantize(inner=...) must be an Aggregator, got 'mean'; write inner=fc.aggregators.mean()
    """
    if inner is None:
        return mean()
    if not isinstance(inner, Aggregator):
        raise TypeError(
            f"{function}(inner=...) must be an Aggregator, got {inner!r}; write inner=fc.aggregators.mean()"
        )
    return inner


def check_one_weight(function: str, weight: Placed) -> None:
    """Checks that a client has a single weight, and not one for each row or field.

    Args:
      function: the name to show in the message.
      weight: at CLIENTS.

    Raises:
      TypeError: the weight is not a scalar.

    Example:
      >>> import fedjax_core as fc
      >>> fc.aggregators.as_process(fc.aggregators.median(), "float32[2]", "float32[2]")
      Traceback (most recent call last):
      TypeError: median takes one weight for each client, got {float32[2]}@CLIENTS; only mean, each and sum take several
    """
    member = types.member_of(weight.fedjax_type)
    if not (isinstance(member, types.TensorType) and member.shape == ()):
        raise TypeError(
            f"{function} takes one weight for each client, got {weight.fedjax_type}; only mean, each and sum take "
            "several"
        )


def check_entries(function: str, value_type: types.Type, rule: str, allowed) -> None:
    """Checks that every leaf of a client's value is a tensor of an allowed kind of dtype.

    Args:
      function: the name to show in the message.
      value_type: the type of a client's value.
      rule: the allowed kinds in words, such as "real numbers".
      allowed: the allowed kinds, such as `jnp.floating`.

    Raises:
      TypeError: a leaf is not a tensor, or its dtype is of another kind.

    Example:
      >>> check_entries("quantize", types.to_type({"n": "int32"}), "floats", (jnp.floating,))
      Traceback (most recent call last):
      TypeError: quantize takes floats, got <n=int32> (see n)
    """
    for path, leaf in types.type_leaves(value_type):
        kinds = (jnp.issubdtype(leaf.dtype, kind) for kind in allowed) if isinstance(leaf, types.TensorType) else ()
        if not any(kinds):
            raise TypeError(f"{function} takes {rule}, got {value_type}" + (f" (see {path})" if path else ""))
