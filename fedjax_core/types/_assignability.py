"""Assignability: the first part of two types that prevents one from being assigned to the other.

This module distinguishes types by their `kind`, so that the type classes can import it.
"""

import dataclasses
import functools
from typing import Any

from fedjax_core.types import _containers, _dtypes


@dataclasses.dataclass(frozen=True)
class Difference:
    """A part of a target type, what the source has in its place, and why it does not fit."""

    path: str
    target: Any
    source: Any
    reason: str


@functools.lru_cache(maxsize=1024)
def is_assignable(target: Any, source: Any) -> bool:
    """Whether `source` can be assigned to `target`; the answer is cached by notation."""
    return first_difference(target, source) is None


def first_difference(target: Any, source: Any, path: str = "") -> Difference | None:
    """The first part that prevents `source` from being assigned to `target`, or None."""
    if target == source:
        return None
    if target.kind != source.kind:
        return Difference(path, target, source, _kind_reason(target, source))
    return _RULES[target.kind](target, source, path)


def _kind_reason(target, source) -> str:
    reason = f"a {source.kind} type is not a {target.kind} type"
    if target.kind == "federated" and source.kind == "struct" and source.contains("federated"):
        return f"{reason}; federated_zip makes one federated value of a struct of them"
    if target.kind == "federated":
        return f"{reason}; federated_value(value, {target.placement}) places a value"
    if source.kind == "federated":
        return f"{reason}; work on the members with federated_map(fn, value)"
    return reason


def _tensor(target, source, path: str) -> Difference | None:
    if target.dtype != source.dtype:
        reason = _dtype_reason(target.dtype, source.dtype)
    else:
        reason = _shape_reason(target.shape, source.shape)
    return Difference(path, target, source, reason) if reason else None


def _dtype_reason(target, source) -> str:
    reason = f"its dtype is {source}, not {target}, and dtypes are never converted automatically"
    if _dtypes.is_key(target):
        return f"{reason}; keys come from jax.random.key(seed)"
    if _dtypes.canonical(target) != target:
        return f"{reason}; {target} needs jax.config.update('jax_enable_x64', True)"
    if _dtypes.is_key(source):
        return reason
    return f"{reason}; convert the value with jnp.asarray(value, '{target}')"


def _shape_reason(target, source) -> str | None:
    if target is None:
        return None
    if source is None:
        return "a value of unknown rank may have any shape"
    if len(target) != len(source):
        return f"it has {len(source)} dimensions, not {len(target)}"
    for axis, (wanted, found) in enumerate(zip(target, source, strict=True)):
        if wanted is not None and wanted != found:
            return f"dimension {axis} is {'unknown' if found is None else found}, not {wanted}"
    return None


def _struct(target, source, path: str) -> Difference | None:
    reason = _containers.names_reason(target.names, source.names)
    if reason:
        return Difference(path, target, source, reason)
    for position, ((name, child), other) in enumerate(zip(target.elements, source.children, strict=True)):
        difference = first_difference(child, other, _containers.join(path, name, position))
        if difference:
            return difference
    return None


def _sequence(target, source, path: str) -> Difference | None:
    return first_difference(target.element, source.element, path)


def _function(target, source, path: str) -> Difference | None:
    if (target.parameter is None) != (source.parameter is None):
        takes = "takes nothing" if source.parameter is None else "takes a parameter"
        return Difference(path, target, source, f"it {takes}")
    if target.parameter is not None:
        inner = _containers.join(path, "parameter", 0)
        found = first_difference(source.parameter, target.parameter, inner)
        if found:
            reason = f"{found.reason}; a function must take every value that the required one takes"
            return Difference(found.path, found.source, found.target, reason)
    return first_difference(target.result, source.result, _containers.join(path, "result", 1))


def _federated(target, source, path: str) -> Difference | None:
    if target.placement is not source.placement:
        to_clients = target.placement.value == "CLIENTS"
        repair = "federated_broadcast" if to_clients else "federated_sum, federated_mean or federated_collect"
        reason = f"it lives at {source.placement}, not at {target.placement}; {repair} brings it there"
        return Difference(path, target, source, reason)
    if target.all_equal and not source.all_equal:
        reason = "its value may differ from place to place, and one value for all is required"
        return Difference(path, target, source, reason)
    return first_difference(target.member, source.member, path)


_RULES = {
    "tensor": _tensor,
    "struct": _struct,
    "sequence": _sequence,
    "function": _function,
    "federated": _federated,
}
