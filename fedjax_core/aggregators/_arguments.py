"""What the functions of this room ask of their arguments."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.aggregators._mean import mean
from fedjax_core.contracts import Aggregator
from fedjax_core.language import Placed


def check_number(call: str, value, rule: str, holds: Callable[[Any], bool], repair: str) -> None:
    """Raises unless `value` is a real number that keeps the rule.

    Args:
      call: the function and the argument, to show.
      value: the argument.
      rule: what it must be.
      holds: whether a number is so; it need not expect NaN, which never is.
      repair: what to write instead.

    Raises:
      TypeError: `value` is no number (a bool and an array are none).
      ValueError: it breaks the rule.

    Example:
      >>> check_number("private_mean(max_norm=...)", -1, "positive", lambda x: x > 0, "write max_norm=1.0")
      Traceback (most recent call last):
      ValueError: private_mean(max_norm=...) must be positive, got -1; write max_norm=1.0
    """
    message = f"{call} must be {rule}, got {value!r}; {repair}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(message)
    if value != value or not holds(value):
        raise ValueError(message)


def check_key(call: str, key) -> None:
    """Raises a TypeError unless `key` is one typed key.

    Example:
      >>> check_key("quantize(key=...)", 7)
      Traceback (most recent call last):
      TypeError: quantize(key=...) is one JAX key, got 7; write key=jax.random.key(0)
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        found = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array) else repr(key)
        raise TypeError(f"{call} is one JAX key, got {found}; write key=jax.random.key(0)")


def inner_or_mean(function: str, inner) -> Aggregator:
    """The aggregator that `function` wraps; None is `mean()`.

    Raises:
      TypeError: `inner` is no Aggregator.

    Example:
      >>> inner_or_mean("quantize", "mean")
      Traceback (most recent call last):
      TypeError: quantize(inner=...) is an Aggregator, got 'mean'; write inner=fc.aggregators.mean()
    """
    if inner is None:
        return mean()
    if not isinstance(inner, Aggregator):
        raise TypeError(f"{function}(inner=...) is an Aggregator, got {inner!r}; write inner=fc.aggregators.mean()")
    return inner


def check_one_weight(function: str, weight: Placed) -> None:
    """Raises a TypeError unless a client has one weight, and not one for each row or field.

    Args:
      function: the name to show.
      weight: at CLIENTS.

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
    """Raises a TypeError unless every leaf of a client's value is a tensor of an allowed kind of dtype.

    Args:
      function: the name to show.
      value_type: of a client's value.
      rule: the kind in words, "real numbers".
      allowed: kinds such as `jnp.floating`, of which each dtype must be one.

    Example:
      >>> check_entries("quantize", types.to_type({"n": "int32"}), "floats", (jnp.floating,))
      Traceback (most recent call last):
      TypeError: quantize takes floats, got <n=int32> (see n)
    """
    for path, leaf in types.type_leaves(value_type):
        kinds = (jnp.issubdtype(leaf.dtype, kind) for kind in allowed) if isinstance(leaf, types.TensorType) else ()
        if not any(kinds):
            raise TypeError(f"{function} takes {rule}, got {value_type}" + (f" (see {path})" if path else ""))
