"""The slots of a round as computations, each typed by the results of the slots before it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from fedjax_core import types
from fedjax_core.algorithms._checks import check_noised, first_state, run_client_work, run_slot, takes_argument
from fedjax_core.algorithms._extended import why_no_training_loss
from fedjax_core.clients import trainable_of, weights_type
from fedjax_core.computations import Computation, federated_computation
from fedjax_core.contracts import Aggregator, ClientWork, Distributor, Finalizer, Model
from fedjax_core.types import CLIENTS, SERVER, Placement, Type


class SlotComputations(NamedTuple):
    """The computations of the four slots: one for the first state of each slot, the others for its part in a round.

    Attributes:
      start_distributor: `weights -> state`.
      send: `(state, weights) -> MeasuredProcessOutput`, with the result at CLIENTS.
      start_work: `weights -> state`.
      work: `(state, weights at CLIENTS, data, key, round_num) -> (ClientResult at CLIENTS, shared at SERVER)`.
      commit: `(state, result, included, shared) -> MeasuredProcessOutput`.
      start_aggregator: `() -> state`.
      add: `(state, update, weight) -> MeasuredProcessOutput`.
      start_finalizer: `trainable weights -> state`.
      move: `(state, trainable weights, update) -> MeasuredProcessOutput`; the training loss is a fourth argument if
        `moves_by_loss`.
    """

    start_distributor: Computation
    send: Computation
    start_work: Computation
    work: Computation
    commit: Computation
    start_aggregator: Computation
    add: Computation
    start_finalizer: Computation
    move: Computation

    @property
    def result_type(self) -> types.StructType:
        """The type of one client's `ClientResult`."""
        return types.of_kind(types.member_of(_results(self.work)[0]), types.StructType)

    @property
    def moves_by_loss(self) -> bool:
        """Whether the finalizer takes the training loss."""
        return len(self.move.parameters) > 3


def slot_computations(
    model: Model,
    distributor: Distributor,
    client_work: ClientWork,
    aggregator: Aggregator,
    finalizer: Finalizer,
    key_type: Type,
) -> SlotComputations:
    """Types the slots in the order of the data flow, each by the results of those before it.

    Only the end is fixed: the finalizer must return the trainable weights.

    Args:
      model: determines the types of the weights and the data.
      distributor, client_work, aggregator, finalizer: the slots.
      key_type: the type of a client's key.

    Raises:
      ProcessCompositionError: a slot does not fit its neighbours; the message names the first such slot.
    """
    whole = weights_type(model)
    weights = types.at_server(whole)
    trainable = types.at_server(types.type_of(trainable_of(types.tree_of_types(whole))))
    data = types.at_clients(types.SequenceType(model.batch_type))

    start_distributor = _start("distributor", distributor.init, weights)
    send = _step("distributor", distributor.next, CLIENTS, _result(start_distributor), weights)

    start_work = _start("client_work", client_work.init, weights)
    given = (_results(send)["result"], data, types.at_clients(key_type), types.at_server("int32"))
    work = _work(client_work, whole, _result(start_work), *given)
    result, shared = _results(work)
    answer = types.of_kind(types.member_of(result), types.StructType)
    included = types.at_clients("bool")
    commit = _step("client_work", client_work.commit, SERVER, _result(start_work), result, included, shared)
    check_noised(answer, types.member_of(shared), aggregator)

    update, weight = (types.at_clients(answer[name]) for name in ("update", "weight"))
    start_aggregator = _start("aggregator", functools.partial(aggregator.init, update.member))
    add = _step("aggregator", aggregator.next, SERVER, _result(start_aggregator), update, weight)

    start_finalizer = _start("finalizer", finalizer.init, trainable)
    given = (_result(start_finalizer), trainable, _results(add)["result"])
    no_loss = why_no_training_loss(answer["metrics"], aggregator)
    move = _move(finalizer, no_loss, *given, result=trainable.member)
    return SlotComputations(
        start_distributor, send, start_work, work, commit, start_aggregator, add, start_finalizer, move
    )


def _result(computation: Computation) -> Type:
    return computation.type_signature.result


def _results(computation: Computation) -> types.StructType:
    """The types of the fields of the struct that a slot's function returns."""
    return types.of_kind(computation.type_signature.result, types.StructType)


def _start(slot: str, init: Callable, *given: Type) -> Computation:
    return federated_computation(lambda *values: first_state(slot, init, *values), *given)


def _step(slot: str, next: Callable, placement: Placement, *given: Type, result: Type | None = None) -> Computation:
    return federated_computation(lambda *values: run_slot(slot, next, values, placement, result), *given)


def _move(finalizer: Finalizer, no_loss: str | None, *given: Type, result: Type) -> Computation:
    if not takes_argument(finalizer.next, "value"):
        return _step("finalizer", finalizer.next, SERVER, *given, result=result)

    def move(state, weights, update, *loss):
        def value():
            if no_loss is not None:
                raise TypeError(no_loss)
            return loss[0]

        return run_slot("finalizer", finalizer.next, (state, weights, update), SERVER, result, value=value)

    return federated_computation(move, *given, *(() if no_loss else (types.at_server("float32"),)))


def _work(client_work: ClientWork, weights_type: Type, *given: Type) -> Computation:
    # The parameter must be named `data`, as in the round: unknown dimensions are named after it, and a function that
    # has been traced for dimensions with these names is not traced again.
    def work(state, weights, data, key, round_num):
        return run_client_work(client_work.run, (state, weights, data, key), round_num, weights_type)

    return federated_computation(work, *given)
