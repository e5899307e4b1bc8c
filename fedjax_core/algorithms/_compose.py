"""The round of federated learning, written once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.algorithms._checks import check_client_result, check_key, check_kinds, first_state, run_slot
from fedjax_core.algorithms._metrics import by_name, report
from fedjax_core.algorithms._process import learning_process
from fedjax_core.clients import trainable_of, weights_type, with_trainable
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import Aggregator, ClientResult, ClientWork, Distributor, Finalizer, Model
from fedjax_core.language import (
    federated_eval,
    federated_map,
    federated_split_key,
    federated_sum,
    federated_value,
    federated_zip,
)
from fedjax_core.templates import LearningProcess, LearningProcessOutput
from fedjax_core.types import CLIENTS, SERVER


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
    *,
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
      A `LearningProcess` over `LearningState`. Metrics: `distributor`, `client_work.train` (the metrics, what
      their aggregation measures besides, and `num_non_finite_clients`, the clients that were left out of the
      round), `aggregator`, `finalizer`. `report` gives `round_num` and `weights_norm`, the L2 norm of the
      trainable weights.

    Raises:
      ProcessCompositionError: a slot does not fit; the message names the first one, in the order above.
      TypeError: something is of a wrong kind.

    Example: federated averaging, from its parts.

    >>> import jax, numpy as np, optax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> work = fc.clients.local_training(model, optax.sgd(0.1), fc.algorithms.metrics_process(model))
    >>> server = fc.algorithms.apply_optimizer(optax.sgd(1.0))
    >>> mean = fc.aggregators.mean()
    >>> process = compose(model, fc.algorithms.broadcast(), work, mean, server, key=jax.random.key(0))
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}]
    >>> state, metrics = process.next(process.initialize(), clients)
    >>> print(process.get_model_weights(state)["kernel"])
    [[ 0.025 -0.025]
     [-0.025  0.025]]

    References:
      Reddi et al. 2021, Adaptive Federated Optimization, algorithm 1.
    """
    check_key("compose", key)
    slots = {
        "distributor": distributor,
        "client_work": client_work,
        "aggregator": aggregator,
        "finalizer": finalizer,
    }
    check_kinds("compose", model=model, **slots)
    whole = weights_type(model)
    update_type = types.type_of(trainable_of(types.tree_of_types(whole)))
    init_key, round_key = jax.random.split(key)

    @federated_computation()
    def initialize():
        weights = federated_eval(lambda: model.init(init_key), SERVER)
        given = (weights, weights, update_type, _trainable(weights))
        states = {name: first_state(name, slot.init, g) for (name, slot), g in zip(slots.items(), given)}
        key = federated_value(round_key, SERVER)
        return federated_zip(LearningState(weights, **states, round_num=federated_value(0, SERVER), key=key))

    @federated_computation(initialize.type_signature.result, types.at_clients(types.SequenceType(model.batch_type)))
    def next(state, data):
        keys = federated_split_key(federated_map(jax.random.fold_in, state.key, state.round_num))
        sent = run_slot("distributor", distributor.next, (state.distributor, state.weights), CLIENTS, whole)
        worked = run_slot("client_work", client_work.next, (state.client_work, sent.result, data, keys), CLIENTS)
        check_client_result(worked.result, update_type)
        result, non_finite = federated_map(_guard, worked.result)
        args = (state.aggregator, result.update, result.weight)
        summed = run_slot("aggregator", aggregator.next, args, SERVER, update_type)
        summary = run_slot("client_work", client_work.summarize, (worked.state, result.metrics), SERVER)
        args = (state.finalizer, _trainable(state.weights), summed.result)
        moved = run_slot("finalizer", finalizer.next, args, SERVER, update_type)
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
        train = report(by_name, summary.result, summary.measurements, num_non_finite_clients=counts.non_finite)
        metrics = {
            "distributor": sent.measurements,
            "client_work": {"train": train},
            "aggregator": summed.measurements,
            "finalizer": moved.measurements,
        }
        return LearningProcessOutput(new, federated_zip(metrics))

    return learning_process(initialize, next, whole)


def _trainable(weights):
    return federated_map(trainable_of, weights)


def _guard(result: ClientResult) -> tuple[ClientResult, jax.Array]:
    """The result, or nothing of it where the update or its weight is not finite."""
    finite = trees.is_finite((result.update, result.weight))
    return trees.where(finite, result, trees.zeros_like(result)), (~finite).astype(jnp.int32)


def _accept(always_releases: bool, state: LearningState, proposed: dict, update, contributing) -> LearningState:
    """The next state: what the slots propose, as far as the round counts."""
    counts = (contributing > 0) | always_releases
    accepted = counts & trees.is_finite(update)
    weights = with_trainable(state.weights, proposed["weights"])
    return LearningState(
        weights=trees.where(accepted, weights, state.weights),
        distributor=trees.where(counts, proposed["distributor"], state.distributor),
        client_work=trees.where(counts, proposed["client_work"], state.client_work),
        aggregator=trees.where(accepted, proposed["aggregator"], state.aggregator),
        finalizer=trees.where(accepted, proposed["finalizer"], state.finalizer),
        round_num=state.round_num + 1,
        key=state.key,
    )
