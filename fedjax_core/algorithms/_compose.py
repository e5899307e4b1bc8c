"""The round of federated learning, written once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.clients import join_weights, split_weights, weights_type
from fedjax_core.computation import computation, federated_computation
from fedjax_core.contracts import Aggregator, ClientResult, ClientWork, Distributor, Finalizer, Model
from fedjax_core.language import (
    federated_eval,
    federated_map,
    federated_split_key,
    federated_sum,
    federated_value,
    federated_zip,
)
from fedjax_core.templates import LearningProcess, LearningProcessOutput, ProcessCompositionError
from fedjax_core.types import SERVER


class LearningState(NamedTuple):
    """The server's state between two rounds.

    Attributes:
      weights: the model's weights.
      distributor, client_work, aggregator, finalizer: the states of the four slots.
      round_num: int32 `[]`, rounds so far.
      key: never changes; a round's key is folded from it and `round_num`.
    """

    weights: Any
    distributor: Any
    client_work: Any
    aggregator: Any
    finalizer: Any
    round_num: Any
    key: Any


def compose(
    model: Model,
    distributor: Distributor,
    client_work: ClientWork,
    aggregator: Aggregator,
    finalizer: Finalizer,
    key: jax.Array,
) -> LearningProcess:
    """A learning process from its four slots.

    ```
    weights --distributor--> clients --client_work--> update, weight --aggregator--> server --finalizer--> weights
    ```

    The round is guarded. A client whose update or weight holds a NaN or infinity contributes zero with
    weight zero, its metrics too, and is counted. Where nobody contributes, the whole state but the
    round number stays as it was, unless the aggregator always releases. Where the aggregate is not
    finite, weights, aggregator and finalizer stay as they were.

    Args:
      model: the model.
      distributor: sends the weights out.
      client_work: what each client does.
      aggregator: combines the clients' updates.
      finalizer: moves the weights.
      key: a JAX key, consumed: the initial weights and all rounds draw from it.

    Returns:
      A `LearningProcess` over `LearningState`. Metrics: `distributor`, `client_work.train` (the metrics
      and `num_non_finite_clients`), `aggregator`, `finalizer`. `report` gives `round_num` and
      `weights_norm`.

    Raises:
      ProcessCompositionError: a slot does not fit the one before it; the message names it.
      TypeError: something is of a wrong kind.

    References:
      Reddi et al. 2021, Adaptive Federated Optimization, algorithm 1.
    """
    check_key(key, "compose")
    _check_kinds(model, distributor, client_work, aggregator, finalizer)
    whole = weights_type(model)
    update_type = types.type_of(split_weights(types.tree_of_types(whole))[0])
    init_key, round_key = jax.random.split(key)

    @federated_computation()
    def initialize():
        weights = federated_eval(lambda: model.init(init_key), SERVER)
        return federated_zip(
            LearningState(
                weights=weights,
                distributor=distributor.init(weights),
                client_work=client_work.init(weights),
                aggregator=aggregator.init(update_type),
                finalizer=finalizer.init(_trainable(weights)),
                round_num=federated_value(0, SERVER),
                key=federated_value(round_key, SERVER),
            )
        )

    @federated_computation(initialize.type_signature.result, types.at_clients(types.SequenceType(model.batch_type)))
    def next(state, data):
        keys = federated_split_key(federated_map(jax.random.fold_in, state.key, state.round_num))
        sent = distributor.next(state.distributor, state.weights)
        _check_slot("distributor", types.at_clients(whole), sent.result)
        worked = client_work.next(state.client_work, sent.result, data, keys)
        _check_slot("client_work", types.at_clients(update_type), worked.result.update)
        result, non_finite = federated_map(_guard, worked.result)
        summed = aggregator.next(state.aggregator, result.update, result.weight)
        _check_slot("aggregator", types.at_server(update_type), summed.result)
        summary = client_work.summarize(worked.state, result.metrics)
        moved = finalizer.next(state.finalizer, _trainable(state.weights), summed.result)
        _check_slot("finalizer", types.at_server(update_type), moved.result)
        contributing = federated_map(lambda weight: (weight > 0).astype(jnp.int32), result.weight)
        counts = federated_sum({"contributing": contributing, "non_finite": non_finite})
        proposed = {
            "weights": moved.result,
            "distributor": sent.state,
            "client_work": summary.state,
            "aggregator": summed.state,
            "finalizer": moved.state,
        }
        new = federated_map(
            lambda *args: _accept(aggregator.always_releases, *args),
            state, federated_zip(proposed), summed.result, counts.contributing,
        )  # fmt: skip
        metrics = {
            "distributor": sent.measurements,
            "client_work": {"train": federated_map(_with_count, summary.result, counts.non_finite)},
            "aggregator": summed.measurements,
            "finalizer": moved.measurements,
        }
        return LearningProcessOutput(new, federated_zip(metrics))

    state_type = initialize.type_signature.result.member
    return LearningProcess(
        initialize,
        next,
        computation(_report, state_type),
        computation(lambda state: state.weights, state_type),
        computation(lambda state, weights: state._replace(weights=weights), state_type, whole),
    )


def _trainable(weights):
    return federated_map(lambda w: split_weights(w)[0], weights)


def _guard(result: ClientResult) -> tuple[ClientResult, jax.Array]:
    """The result, or nothing of it where the update or its weight is not finite."""
    finite = trees.is_finite((result.update, result.weight))
    return trees.where(finite, result, trees.zeros_like(result)), (~finite).astype(jnp.int32)


def _accept(always_releases: bool, state: LearningState, proposed: dict, update, contributing) -> LearningState:
    """The next state: what the slots propose, as far as the round counts."""
    counts = (contributing > 0) | always_releases
    accepted = counts & trees.is_finite(update)
    _, non_trainable = split_weights(state.weights)
    weights = join_weights(proposed["weights"], non_trainable)
    return LearningState(
        weights=trees.where(accepted, weights, state.weights),
        distributor=trees.where(counts, proposed["distributor"], state.distributor),
        client_work=trees.where(counts, proposed["client_work"], state.client_work),
        aggregator=trees.where(accepted, proposed["aggregator"], state.aggregator),
        finalizer=trees.where(accepted, proposed["finalizer"], state.finalizer),
        round_num=state.round_num + 1,
        key=state.key,
    )


def _with_count(metrics, non_finite):
    metrics = metrics if isinstance(metrics, dict) else {"metrics": metrics}
    return {**metrics, "num_non_finite_clients": non_finite}


def _report(state: LearningState) -> dict:
    return {"round_num": state.round_num, "weights_norm": trees.norm(state.weights)}


def check_key(key, name: str):
    """Refuses what is no single JAX key.

    Raises:
      TypeError: with the repaired call.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        raise TypeError(f"{name}(key=...) is one JAX key, got {key!r}; write key=jax.random.key(0)")


def _check_kinds(model, distributor, client_work, aggregator, finalizer):
    slots = dict(model=model, distributor=distributor, client_work=client_work, aggregator=aggregator)
    slots["finalizer"] = finalizer
    for (name, value), kind in zip(slots.items(), (Model, Distributor, ClientWork, Aggregator, Finalizer)):
        if not isinstance(value, kind):
            called = "; call it to get one" if callable(value) else ""
            raise TypeError(f"compose({name}=...) is a fedjax_core.contracts.{kind.__name__}, got {value!r}{called}")


def _check_slot(name: str, expected: types.FederatedType, value):
    found = value.fedjax_type
    fits = isinstance(found, types.FederatedType) and found.placement is expected.placement
    if not (fits and expected.member.is_equivalent_to(found.member)):
        raise ProcessCompositionError(
            f"the {name} does not fit the model: its result must be {expected}, got {found}; convert it with "
            f"federated_map inside the {name}'s `next`"
        )
