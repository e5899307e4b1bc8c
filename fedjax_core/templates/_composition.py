"""Several measured processes combined into one: one after another, or side by side."""

import itertools
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

from fedjax_core.computations import computation, federated_computation
from fedjax_core.language import federated_zip
from fedjax_core.templates import _checks
from fedjax_core.templates._measured_process import MeasuredProcess, MeasuredProcessOutput
from fedjax_core.templates.errors import ProcessCompositionError
from fedjax_core.types import FederatedType, Placement, Type, TypeNotAssignableError, of_kind, to_type, type_leaves


def chain(processes: Mapping[str, MeasuredProcess]) -> MeasuredProcess:
    """Runs measured processes one after another: each takes the result of the one before as its value.

    Args:
      processes: a dict from name to process, in the order in which they run. The first takes a state and
        any arguments, every other one takes a state and a value.

    Returns:
      A `MeasuredProcess` that takes the arguments of the first process and returns the result of the last.
      Its state and its measurements are dicts by name.

    Raises:
      TypeError: `processes` is not a dict from name to `MeasuredProcess`.
      ValueError: `processes` is empty.
      ProcessCompositionError: a result is not assignable to the value that the next process takes, or the
        states or the measurements are not at one placement; the message names the two processes.

    Example:
      >>> import fedjax_core as fc
      >>> def scaled(factor):
      ...     initialize = fc.computation(lambda: 0)
      ...     def next(rounds, value):
      ...         return MeasuredProcessOutput(rounds + 1, factor * value, {"taken": value})
      ...     return MeasuredProcess(initialize, fc.computation(next, "int32", "float32"))
      >>> process = chain({"double": scaled(2.0), "triple": scaled(3.0)})
      >>> output = process.next(process.initialize(), 5.0)
      >>> print(output.result, output.measurements["triple"]["taken"])
      30.0 10.0
    """
    _check_processes("chain", processes)
    _check_links(processes)
    first, *_ = processes.values()

    def next(call, state, *args):
        outputs = {}
        for name, process in processes.items():
            outputs[name] = call(process.next)(state[name], *args)
            args = (outputs[name].result,)
        return outputs, args[0]

    return _composed("chain", processes, next, first.next.parameters[0][0], first.next.parameters[1:])


def concatenate(processes: Mapping[str, MeasuredProcess]) -> MeasuredProcess:
    """Runs measured processes side by side, each on a value of its own.

    Args:
      processes: a dict from name to process; each process takes a state and a value.

    Returns:
      A `MeasuredProcess` whose value, result, state and measurements are dicts by name.

    Raises:
      TypeError: `processes` is not a dict from name to `MeasuredProcess`.
      ValueError: `processes` is empty.
      ProcessCompositionError: a process does not take exactly a state and a value, or the states or the
        measurements are not at one placement; the message names the processes.

    Example:
      >>> import fedjax_core as fc
      >>> def scaled(factor):
      ...     initialize = fc.computation(lambda: 0)
      ...     def next(rounds, value):
      ...         return MeasuredProcessOutput(rounds + 1, factor * value, {"taken": value})
      ...     return MeasuredProcess(initialize, fc.computation(next, "int32", "float32"))
      >>> process = concatenate({"double": scaled(2.0), "triple": scaled(3.0)})
      >>> output = process.next(process.initialize(), {"double": 1.0, "triple": 5.0})
      >>> print(output.result["double"], output.result["triple"])
      2.0 15.0
    """
    _check_processes("concatenate", processes)
    value_type = {name: _value_type("concatenate", name, process) for name, process in processes.items()}

    def next(call, state, value):
        outputs = {name: call(process.next)(state[name], value[name]) for name, process in processes.items()}
        return outputs, {name: output.result for name, output in outputs.items()}

    return _composed("concatenate", processes, next, "state", [("value", to_type(value_type))])


def _composed(
    caller: str, processes: Mapping[str, MeasuredProcess], next: Callable, state_name: str, parameters
) -> MeasuredProcess:
    """Combines several processes into one.

    Args:
      caller: the public function, for error messages.
      processes: a dict from name to process.
      next: `(call, state, *args) -> (outputs by name, result)`; `call` makes a function from a Computation.
      state_name: the name of the first parameter.
      parameters: `(name, type)` of each of `args`.
    """
    state_types = {name: process.state_type for name, process in processes.items()}
    measured_types = {name: _checks.result_fields(process.next)["measurements"] for name, process in processes.items()}
    placement = _common_placement(caller, "states", state_types)
    measured_at = _common_placement(caller, "measurements", {n: t for n, t in measured_types.items() if type_leaves(t)})
    if any(process.next.type_signature.contains("federated") for process in processes.values()):
        declare, call = federated_computation, lambda fn: fn
    else:
        declare, call = computation, lambda fn: fn.as_function()

    def initialize():
        return _joined(placement, {name: call(process.initialize)() for name, process in processes.items()})

    def composed(state, *args):
        outputs, result = next(call, state, *args)
        return MeasuredProcessOutput(
            _joined(placement, {name: output.state for name, output in outputs.items()}),
            result,
            _joined(measured_at, {name: output.measurements for name, output in outputs.items()}),
        )

    names = [state_name, *(name for name, _ in parameters)]
    composed.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    state_type = to_type(_joined_type(placement, state_types))
    return MeasuredProcess(declare(initialize), declare(composed, state_type, *(type_ for _, type_ in parameters)))


def _joined(placement: Placement | None, parts: dict[str, Any]):
    return parts if placement is None else federated_zip(parts)


def _joined_type(placement: Placement | None, parts: dict[str, Type]):
    if placement is None:
        return parts
    federated = {name: of_kind(type_, FederatedType) for name, type_ in parts.items()}
    members = to_type({name: type_.member for name, type_ in federated.items()})
    return FederatedType(members, placement, all(type_.all_equal for type_ in federated.values()))


def _common_placement(caller: str, what: str, parts: dict[str, Type]) -> Placement | None:
    """The placement of all parts, None if they are unplaced or structs of placed values."""
    kinds = {name: _kind(type_) for name, type_ in parts.items()}
    for (first, kind), (second, other) in itertools.pairwise(kinds.items()):
        if kind != other:
            raise ProcessCompositionError(
                f"{caller}: the {what} of {first!r}, {parts[first]}, and of {second!r}, {parts[second]}, must be at "
                "one placement; place an unplaced value with `fc.federated_value(value, fc.SERVER)`, and combine a "
                "struct of placed values with `fc.federated_zip(value)`"
            )
    kind = next(iter(kinds.values()), None)
    return kind if isinstance(kind, Placement) else None


def _kind(type_: Type) -> Placement | str:
    if isinstance(type_, FederatedType):
        return type_.placement
    return "in parts" if type_.contains("federated") else "unplaced"


def _value_type(caller: str, name: str, process: MeasuredProcess) -> Type:
    """The type of the one value that a process takes in addition to its state."""
    _, *values = _checks.argument_types(process.next)
    if len(values) != 1:
        raise ProcessCompositionError(
            f"{caller}: {name!r} must take a state and one value, got {process.next.type_signature}; combine several "
            "values into one: `fc.federated_zip((first, second))`"
        )
    return values[0]


def _check_links(processes: Mapping[str, MeasuredProcess]) -> None:
    for (first, giver), (second, taker) in itertools.pairwise(processes.items()):
        given = _checks.result_fields(giver.next)["result"]
        try:
            _value_type("chain", second, taker).check_assignable_from(given)
        except TypeNotAssignableError as difference:
            raise ProcessCompositionError(
                f"chain: the result of {first!r}, {given}, must be assignable to the value that {second!r} takes: "
                f"{difference}; convert it in {first!r}, or declare the value of {second!r} with its type"
            ) from difference


def _check_processes(caller: str, processes: Any) -> None:
    repair = f"write fc.templates.{caller}({{'first': process, 'second': other}})"
    if not isinstance(processes, Mapping):
        raise TypeError(f"{caller} takes a dict from name to MeasuredProcess, got {processes!r:.200}; {repair}")
    for name, process in processes.items():
        if not isinstance(name, str) or not isinstance(process, MeasuredProcess):
            found = f"{name!r}: {process!r:.200}"
            raise TypeError(f"{caller} takes a dict from name to MeasuredProcess, got {found}; {repair}")
    if not processes:
        raise ValueError(f"{caller} takes at least one process, got none; {repair}")
