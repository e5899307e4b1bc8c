"""Checks of the slots of a round, of their arguments and of their results."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core._own_errors import raise_if_own
from fedjax_core.algorithms._guard import check_left_out
from fedjax_core.contracts import Aggregator, ClientResult, ClientWork, Distributor, Finalizer, Model, Running
from fedjax_core.language import Placed, federated_value, federated_zip
from fedjax_core.templates import MeasuredProcessOutput, ProcessCompositionError
from fedjax_core.types import CLIENTS, SERVER, Placement

_KINDS = {
    "model": Model,
    "distributor": Distributor,
    "client_work": ClientWork,
    "aggregator": Aggregator,
    "finalizer": Finalizer,
}


def check_kinds(caller: str, **arguments: Any):
    """Raises TypeError unless each argument has the type that belongs to its name."""
    for name, value in arguments.items():
        if not isinstance(value, _KINDS[name]):
            called = f"; call it to get one: {value.__name__}(...)" if hasattr(value, "__name__") else ""
            raise TypeError(
                f"{caller}({name}=...) must be a fc.contracts.{_KINDS[name].__name__}, got {value!r}{called}"
            )


def placed(value: Any, placement: Placement = SERVER) -> Placed:
    """A struct of placed values as one placed value; a struct without leaves, such as `()`, is put at `placement`."""
    return federated_zip(value) if jax.tree.leaves(value) else federated_value(value, placement)


def first_state(slot: str, init: Callable, *args: Any) -> Placed:
    """The initial state of a slot.

    Raises:
      ProcessCompositionError: `init` fails, or its result is not at SERVER.
    """
    return _one_value(slot, "first state", _called(slot, init, args), SERVER, None)


def run_slot(
    slot: str, next: Callable, args: tuple, placement: Placement, result: types.Type | None = None, **named: Any
) -> MeasuredProcessOutput:
    """The output of a slot, with its state and its result as one placed value each.

    Args:
      slot: the name of the slot.
      next: the slot's function.
      args: the function's arguments, beginning with the slot's state.
      placement: where the result must be placed.
      result: the type of the result; None for any type.
      **named: arguments that are passed by name.

    Raises:
      ProcessCompositionError: `next` fails or does not return a `MeasuredProcessOutput`, or its state or result has
        another type or placement. The message names the slot.
    """
    output = _called(slot, next, args, **named)
    if not isinstance(output, MeasuredProcessOutput):
        raise ProcessCompositionError(
            f"the {slot} must return a MeasuredProcessOutput, got {_described(output)}; write `return "
            "fc.templates.MeasuredProcessOutput(state, result, measurements)`"
        )
    return MeasuredProcessOutput(
        _one_value(slot, "state", output.state, SERVER, args[0].fedjax_type.member),
        _one_value(slot, "result", output.result, placement, result),
        placed(output.measurements, SERVER),
    )


def run_client_work(run: Callable, args: tuple, round_num: Placed, weights: types.Type) -> tuple[Placed, Placed]:
    """The clients' results, and the value that the work shares with its `commit`.

    Args:
      run: `ClientWork.run`; it gets the round number if it has a parameter named `round_num`.
      args: its arguments, beginning with the state.
      round_num: int32 at SERVER.
      weights: the type of the model's weights.

    Returns:
      A `ClientResult` at CLIENTS, and a value at SERVER.

    Raises:
      ProcessCompositionError: `run` fails, does not return such a pair, or a field of the result does not fit.
    """
    named = {"round_num": round_num} if takes_argument(run, "round_num") else {}
    output = _called("client_work", run, args, **named)
    if type(output) is not tuple or len(output) != 2:
        raise ProcessCompositionError(
            "the client_work must return a pair from `run`, the ClientResult at CLIENTS and a value at SERVER that it "
            f"shares with `commit`, got {_described(output)}; write `return result, ()`"
        )
    result = _one_value("client_work", "result", output[0], CLIENTS, None)
    _check_client_result(result, weights)
    shared = _one_value("client_work", "shared value", output[1], SERVER, None)
    check_left_out(result, shared)
    return result, shared


def takes_argument(fn: Callable, name: str) -> bool:
    """Whether a function has a parameter with this name.

    Example:

    >>> takes_argument(lambda state, round_num: state, "round_num"), takes_argument(len, "round_num")
    (True, False)
    """
    try:
        return name in inspect.signature(fn).parameters
    except ValueError:
        return False


def _check_client_result(result: Placed, weights: types.Type):
    member = types.member_of(result.fedjax_type)
    if not isinstance(member, types.StructType) or not isinstance(types.tree_of_types(member), ClientResult):
        raise ProcessCompositionError(
            f"the client_work must return a ClientResult for every client, got {result.fedjax_type}; write `return "
            "fc.contracts.ClientResult(update, weight, metrics)`"
        )
    leaves = types.type_leaves(member["weight"])
    if not leaves or any(getattr(leaf, "dtype", None) != jnp.float32 for _, leaf in leaves):
        raise _misfit("client_work", "weight", "float32, or a struct of float32", result.weight.fedjax_type)
    if types.type_leaves(member["running"]):
        _check_running(result.running, weights)


def _check_running(running: Placed, weights: types.Type):
    if not isinstance(weights, types.StructType) or "non_trainable" not in weights:
        raise _misfit("client_work", "running state", f"(), since all of {weights} is trained", running.fedjax_type)
    expected = types.to_type(Running(weights["non_trainable"], "float32"))
    _check_fits("client_work", "running state", types.at_clients(expected), running)


def check_noised(result: types.StructType, shared: types.Type, aggregator: Aggregator):
    """Checks what leaves the clients beside an aggregate to which noise is added.

    Running state is an error, since the round itself would average it without noise. Values that only the work uses
    cause a warning, since the work may add noise to them or keep them with their client.

    Args:
      result: the type of a client's `ClientResult`.
      shared: the type of the value that the work shares with its `commit`.
      aggregator: the aggregator, which adds noise if it always releases.

    Raises:
      ProcessCompositionError: there is running state.
    """
    if not aggregator.always_releases:
        return
    if types.type_leaves(result["running"]):
        raise ProcessCompositionError(
            "the client_work does not fit the aggregator: its running state would leave the clients without the noise "
            'that the aggregator adds; write fc.models.from_linen(..., running="freeze"), or running="keep"'
        )
    besides = {"`ClientResult.extra`": result["extra"], "what its `run` shares": shared}
    if unnoised := " and ".join(name for name, type_ in besides.items() if types.type_leaves(type_)):
        warnings.warn(
            f"the aggregator adds noise to the clients' updates, but not to what else the client_work takes from them, "
            f"{unnoised}: no privacy guarantee covers a state or a metric that is computed from it; add noise to it in "
            "the client_work, or use it only for values that stay with their client, and filter this warning",
            UserWarning,
            stacklevel=2,
        )


def _called(slot: str, fn: Callable, args: tuple, **named: Any):
    try:
        return fn(*args, **named)
    except TypeError as error:
        message = f"the {slot} does not fit its arguments: {error}"
        raise_if_own(error, message)
        raise ProcessCompositionError(message) from error


def _one_value(slot: str, what: str, value: Any, placement: Placement, member: types.Type | None) -> Placed:
    typed = None if member is None else types.FederatedType(member, placement)
    expected = f"a value at {placement}" if typed is None else typed
    try:
        one = placed(value, placement)
    except TypeError:
        raise _misfit(slot, what, expected, _described(value)) from None
    if types.of_kind(one.fedjax_type, types.FederatedType).placement is not placement:
        raise _misfit(slot, what, expected, one.fedjax_type)
    if typed is not None:
        _check_fits(slot, what, typed, one)
    return one


def _check_fits(slot: str, what: str, expected: types.FederatedType, value: Placed):
    found = types.of_kind(value.fedjax_type, types.FederatedType)
    if not expected.member.is_equivalent_to(found.member):
        raise _misfit(slot, what, expected, found)
    containers, others = (jax.tree.structure(types.tree_of_types(t.member)) for t in (expected, found))
    if containers != others:
        raise _misfit(slot, what, f"{expected} in the containers {containers}", f"{others}")


def _misfit(slot: str, what: str, expected, found) -> ProcessCompositionError:
    return ProcessCompositionError(
        f"the {slot} does not fit: its {what} must be {expected}, got {found}; convert it with fc.federated_map "
        f"inside the {slot}"
    )


def _described(value) -> str:
    try:
        return str(types.type_of(value))
    except TypeError:
        return repr(value)
