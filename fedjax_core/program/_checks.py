"""Checks that `Run` and the other entry points share."""

import math
import operator
from typing import Any

from fedjax_core.computations import Computation
from fedjax_core.data import Batching, FederatedData
from fedjax_core.types import SequenceType, Type, matched_type, member_of, type_leaves


def checked_count(caller: str, name: str, value: Any, least: int = 1) -> int:
    """A count, of rounds or clients for example, as a Python integer.

    Raises:
      TypeError: the value is not an integer.
      ValueError: the value is less than `least`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{caller}({name}=...) must be an integer, got {value!r}; use {name}=10") from None
    if value < least:
        raise ValueError(f"{caller}({name}=...) must be at least {least}, got {value}; use {name}=10")
    return value


def checked_not_negative(caller: str, name: str, value: Any) -> float:
    """A number of seconds or a factor, unchanged.

    Raises:
      TypeError: the value is not a number.
      ValueError: the value is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{caller}({name}=...) must be a number, got {value!r}; use {name}=60")
    if not 0 <= value < math.inf:
        raise ValueError(f"{caller}({name}=...) must be at least 0 and finite, got {value}; use {name}=60")
    return value


def check_data(caller: str, name: str, data: Any, taker: str, computation: Computation) -> None:
    """Raises TypeError unless `data` is a `FederatedData` whose clients `computation` takes as its second argument."""
    if not isinstance(data, FederatedData):
        raise TypeError(
            f"{caller}({name}=...) must be FederatedData, got {type(data).__name__}; use "
            "FederatedData.from_clients(...)"
        )
    taken = member_of(computation.parameters[1][1])
    given = matched_type(taken, SequenceType(data.element_type))
    if not taken.is_assignable_from(given):
        raise TypeError(
            f"{caller}({name}=...): a client holds {given}, but {taker} takes {taken}{_difference(taken, given)}; "
            "convert the examples: `data.map(lambda examples: {'x': ..., 'y': ...})`"
        )


def _difference(taken: Type, given: Type) -> str:
    """A phrase that names the fields that differ, if both are sequences of structs; otherwise empty."""
    if not isinstance(taken, SequenceType) or not isinstance(given, SequenceType):
        return ""
    fields, others = ({path: str(leaf) for path, leaf in type_leaves(t.element)} for t in (taken, given))
    different = [name for name in {**fields, **others} if fields.get(name) != others.get(name)]
    return f" (they differ in {', '.join(map(repr, different))})" if any(different) else ""


def check_batching(caller: str, name: str, batching: Any) -> None:
    """Raises TypeError unless the value is a `Batching`."""
    if not isinstance(batching, Batching):
        raise TypeError(f"{caller}({name}=...) must be a Batching, got {batching!r}; use Batching(batch_size=20)")
