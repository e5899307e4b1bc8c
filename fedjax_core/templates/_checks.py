"""The checks that the templates share."""

from typing import Any

import jax

from fedjax_core.computations import Computation
from fedjax_core.templates import errors
from fedjax_core.types import (
    CLIENTS,
    SERVER,
    FederatedType,
    StructType,
    Type,
    TypeNotAssignableError,
    of_kind,
    type_leaves,
)


def check_is_computation(role: str, value: Any) -> None:
    """Raises TypeError unless `value`, passed as the argument `role`, is a `Computation`."""
    if isinstance(value, Computation):
        return
    raise TypeError(
        f"`{role}` must be a Computation, got {type(value).__name__}: {value!r:.200}; declare the types of its "
        "arguments: `fc.computation(fn, *types)`, or `fc.federated_computation(fn, *types)` with placements"
    )


def check_iteration(initialize_fn: Any, next_fn: Any, takes_data: bool) -> Type:
    """The checks that every template makes first, in this order.

    Args:
      initialize_fn: the user's argument of that name.
      next_fn: the user's argument of that name.
      takes_data: False if several arguments of `next_fn` may together be one state, True if
        the first of several arguments is the state and the others are data.

    Returns:
      The type of the state as `next_fn` takes it.

    Raises:
      TypeError: if either argument is not a `Computation`.
      TemplateInitFnParamNotEmptyError: if `initialize_fn` takes an argument.
      TemplateNextFnNumArgsError: if `next_fn` takes no argument.
      TemplateStateNotAssignableError: if `next_fn` cannot take the initial state or the state that it returns.
    """
    check_is_computation("initialize_fn", initialize_fn)
    if initialize_fn.parameters:
        raise errors.TemplateInitFnParamNotEmptyError(
            f"`initialize_fn` must take no arguments, got the type {initialize_fn.type_signature}; let it "
            "close over what it needs: `initialize_fn=fc.computation(lambda: initialize(value))`"
        )
    check_is_computation("next_fn", next_fn)
    if not next_fn.parameters:
        raise errors.TemplateNextFnNumArgsError(
            f"`next_fn` must take the state as its first argument, got the type {next_fn.type_signature}; "
            "declare it: `fc.federated_computation(fn, initialize_fn.type_signature.result)`, or `fc.computation` "
            "for an unplaced state"
        )
    state_type = _state_taken(initialize_fn.type_signature.result, next_fn, takes_data)
    _check_state_returned(state_type, next_fn.type_signature.result)
    return state_type


def _state_taken(initial: Type, next_fn: Computation, takes_data: bool) -> Type:
    arguments = argument_types(next_fn)
    candidates = arguments[:1] if takes_data and len(arguments) > 1 else _whole_and_first(_parameter(next_fn))
    for candidate in candidates:
        if candidate.is_assignable_from(initial):
            return candidate
    raise errors.TemplateStateNotAssignableError(
        "the initial state must be assignable to the state that `next_fn` takes, got the initial state "
        f"{initial} where `next_fn` takes {' or '.join(map(str, candidates))}; declare the first argument of "
        "`next_fn` with `initialize_fn.type_signature.result`, or let `initialize_fn` return what `next_fn` takes"
    ) from _difference(candidates[-1], initial)


def _check_state_returned(state_type: Type, result: Type) -> None:
    candidates = _whole_and_first(result)
    if not any(state_type.is_assignable_from(candidate) for candidate in candidates):
        raise errors.TemplateStateNotAssignableError(
            "the state that `next_fn` returns, alone or as the first of several results, must be assignable "
            f"to the state that it takes, {state_type}, got {result}; return the new state first, with the "
            "dtypes, the shapes and the placement of the old one: `return new_state, other`"
        ) from _difference(state_type, candidates[-1])


def _whole_and_first(value_type: Type) -> tuple[Type, ...]:
    first = value_type.children[:1] if isinstance(value_type, StructType) else ()
    return (value_type, *first)


def _difference(target: Type, source: Type) -> TypeNotAssignableError | None:
    try:
        target.check_assignable_from(source)
    except TypeNotAssignableError as difference:
        return difference


def result_fields(fn: Computation) -> StructType:
    """The types of the fields of the struct that `fn` returns."""
    return of_kind(fn.type_signature.result, StructType)


def argument_types(fn: Computation) -> tuple[Type, ...]:
    """The types of the arguments of `fn`, one for each argument even if it is a struct."""
    return tuple(argument_type for _, argument_type in fn.parameters)


def _parameter(fn: Computation) -> Type:
    """The parameter of a computation that has one."""
    parameter = fn.type_signature.parameter
    assert parameter is not None
    return parameter


def takes(fn: Computation, value_type: Type) -> bool:
    """Whether `fn` takes exactly one argument, to which a value of this type is assignable."""
    return len(fn.parameters) == 1 and _parameter(fn).is_assignable_from(value_type)


def returns_exactly(fn: Computation, output: type) -> bool:
    """Whether `fn` returns the NamedTuple `output` itself, not another struct with its fields."""
    result = fn.type_signature.result
    expected = jax.tree.structure(output(*output._fields))
    return isinstance(result, StructType) and result.container == expected


def check_next_state(state_type: Type, next_state: Type) -> None:
    """Raises TemplateStateNotAssignableError unless `next_fn` can take `next_state`."""
    if not state_type.is_assignable_from(next_state):
        raise errors.TemplateStateNotAssignableError(
            f"the state that `next_fn` returns must be assignable to the state that it takes, {state_type}, "
            f"got {next_state}; keep its dtypes, shapes and placement, or declare the first argument of "
            "`next_fn` with the type that it returns"
        ) from _difference(state_type, next_state)


def check_at_server(what: str, value_type: Type, error: type[TypeError]) -> None:
    """Raises `error` unless `what`, a result of this type, is one federated value at SERVER."""
    if isinstance(value_type, FederatedType) and value_type.placement == SERVER:
        return
    raise error(f"{what} must be at SERVER as a whole, got {value_type}; {_repaired_result(value_type)}")


def check_at_clients(what: str, value_type: Type, error: type[TypeError]) -> None:
    """Raises `error` unless `what`, an argument of this type, is one federated value at CLIENTS."""
    if isinstance(value_type, FederatedType) and value_type.placement == CLIENTS:
        return
    raise error(
        f"{what} must be at CLIENTS as a whole, got {value_type}; declare it "
        f"`fc.at_clients({str(_without_placements(value_type))!r})`"
    )


def _repaired_result(value_type: Type) -> str:
    parts = [part for _, part in type_leaves(value_type)]
    placements = {part.placement if isinstance(part, FederatedType) else None for part in parts}
    if placements <= {None}:
        return "place it: `fc.federated_value(value, fc.SERVER)`"
    if placements == {SERVER}:
        return "combine the struct into one value: `fc.federated_zip(value)`"
    if len(parts) == 1 and placements == {CLIENTS}:
        return (
            "aggregate it: `fc.federated_sum(value)` or `fc.federated_mean(value)`, or place a constant: "
            "`fc.federated_value(value, fc.SERVER)`"
        )
    return (
        "bring every part to SERVER with `fc.federated_value`, `fc.federated_sum` or `fc.federated_mean`, "
        "then `fc.federated_zip` the struct"
    )


def _without_placements(value_type: Type) -> Type:
    if isinstance(value_type, FederatedType):
        return value_type.member
    if isinstance(value_type, StructType):
        elements = [(name, _without_placements(child)) for name, child in value_type.elements]
        return StructType(elements)
    return value_type
