"""The round of federated learning, written once."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import _checks, trees, types
from fedjax_core.algorithms._acceptance import accept, weights_by_rows
from fedjax_core.algorithms._checks import check_kinds
from fedjax_core.algorithms._extended import training_loss
from fedjax_core.algorithms._guard import guard
from fedjax_core.algorithms._left_out import by_reason, listed_clients
from fedjax_core.algorithms._metrics import by_name, report
from fedjax_core.algorithms._process import learning_process
from fedjax_core.algorithms._running import averaged_running
from fedjax_core.algorithms._slot_computations import SlotComputations, slot_computations
from fedjax_core.clients import integer_ranges, trainable_of, weights_type, with_trainable
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import Aggregator, ClientWork, Distributor, Finalizer, Model
from fedjax_core.language import (
    Placed,
    federated_eval,
    federated_map,
    federated_split_key,
    federated_value,
    federated_zip,
)
from fedjax_core.language.graph import in_ranges
from fedjax_core.language.sums import count_sum
from fedjax_core.templates import LearningProcess, LearningProcessOutput, MeasuredProcessOutput
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
    *,
    key: jax.Array,
) -> LearningProcess:
    """Builds a learning process from its four slots.

    ```
    weights --distributor--> clients --client_work--> update, weight --aggregator--> server --finalizer--> weights
    ```

    Types flow from slot to slot: a distributor may send a part of the weights, an update need not look like the
    weights, and a weight may be a struct. Only the finalizer has to return the trainable weights.

    The round guards against values that are not finite. A client with a NaN or infinity anywhere in its result is
    left out: its update, weight, metrics, extra and running state count as zero, and no state of the server depends on
    what it computed. Such clients are counted by what was not finite, and up to 20 of them are listed.

    A round counts if some client contributes with a positive weight and the total weight is not zero, or if the
    aggregator always releases; and if both the aggregate and the value that the work shares are finite. Otherwise the
    whole state except the round number stays as it was, bit for bit. If clients have a weight for each row or field of
    the model's weights (a weight `[k]` for leaves `[k, ...]`, one per cluster; or a dict of weights for a dict of
    parts), this holds for each of them separately: a row without weight keeps its values and, in every leaf with as
    many rows, its part of the finalizer's state.

    Args:
      model: the model.
      distributor: sends the weights to the clients.
      client_work: what each client does.
      aggregator: combines the clients' updates.
      finalizer: updates the weights.
      key: a JAX key, consumed: the initial weights and all rounds draw from it.

    Returns:
      A `LearningProcess` with a `LearningState`. Its metrics are `distributor`, `client_work.train`, `aggregator` and
      `finalizer`. `client_work.train` holds the clients' metrics, the measurements of their aggregation, and the
      clients that were left out: `num_non_finite_clients`, int32 by reason, and `non_finite_clients`, see
      `left_out_clients`. `report` returns `round_num` and `weights_norm`, the L2 norm of the trainable weights.
      `client_results` returns the `ClientResult` of each client, before the guard.

    Raises:
      ProcessCompositionError: a slot does not fit; the message names the first one, in the order above.
      TypeError: an argument has the wrong type, or `key` is not a typed key.

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
    _checks.check_key("compose(key=...)", key)
    check_kinds(
        "compose",
        model=model,
        distributor=distributor,
        client_work=client_work,
        aggregator=aggregator,
        finalizer=finalizer,
    )
    init_key, round_key = jax.random.split(key)
    slots = slot_computations(model, distributor, client_work, aggregator, finalizer, types.type_of(round_key))
    accepted = functools.partial(accept, aggregator.always_releases, _by_rows(model, slots))

    @federated_computation()
    def initialize():
        return _first_state(model, slots, init_key, round_key)

    ranges = integer_ranges(model)
    round_types = initialize.type_signature.result, types.at_clients(types.SequenceType(model.batch_type))

    @federated_computation(*round_types)
    def client_results(state, data):
        _, answer, _ = _ask_clients(slots, state, in_ranges(data, ranges))
        return answer

    @federated_computation(*round_types)
    def next(state, data):
        sent, answer, shared = _ask_clients(slots, state, in_ranges(data, ranges))
        result, included, reason = federated_map(guard, answer)
        committed = slots.commit(state.client_work, result, included, shared)
        summed = slots.add(state.aggregator, result.update, result.weight)
        moved = _move(model, slots, state, summed.result, result.metrics)
        outputs = {"distributor": sent, "client_work": committed, "aggregator": summed, "finalizer": moved}
        totals = count_sum(federated_map(_counted, result.weight, reason))
        aggregate = federated_zip((summed.result, shared))
        new = federated_map(accepted, state, _proposed(slots, state, result.running, outputs), totals, aggregate)
        return LearningProcessOutput(new, _metrics(outputs, totals["num_non_finite"], reason))

    return learning_process(initialize, next, weights_type(model), client_results, aggregator.noise_multiplier)


def _by_rows(model: Model, slots: SlotComputations) -> bool:
    trainable = types.type_of(trainable_of(types.tree_of_types(weights_type(model))))
    return weights_by_rows(slots.result_type["weight"], trainable)


def _first_state(model: Model, slots: SlotComputations, init_key: jax.Array, round_key: jax.Array) -> Placed:
    weights = federated_eval(lambda: model.init(init_key), SERVER)
    state = LearningState(
        weights=weights,
        distributor=slots.start_distributor(weights),
        client_work=slots.start_work(weights),
        aggregator=slots.start_aggregator(),
        finalizer=slots.start_finalizer(_trainable(weights)),
        round_num=federated_value(jnp.int32(0), SERVER),  # a Python 0 would be int64 where x64 is on
        key=federated_value(round_key, SERVER),
    )
    return federated_zip(state)


def _ask_clients(slots: SlotComputations, state: Placed, data: Placed) -> tuple[MeasuredProcessOutput, Placed, Placed]:
    """What the distributor sends, the clients' results for it, and the value that the work shares."""
    keys = federated_split_key(federated_map(jax.random.fold_in, state.key, state.round_num))
    sent = slots.send(state.distributor, state.weights)
    return sent, *slots.work(state.client_work, sent.result, data, keys, state.round_num)


def _move(
    model: Model, slots: SlotComputations, state: Placed, update: Placed, metrics: Placed
) -> MeasuredProcessOutput:
    loss = (training_loss(model, metrics),) if slots.moves_by_loss else ()
    return slots.move(state.finalizer, _trainable(state.weights), update, *loss)


def _proposed(
    slots: SlotComputations, state: Placed, running: Placed, outputs: dict[str, MeasuredProcessOutput]
) -> Placed:
    """The weights and the states of the slots after a round that counts."""
    has_running = types.type_leaves(slots.result_type["running"])
    weights = averaged_running(state.weights, running) if has_running else state.weights
    measured = outputs["finalizer"].measurements
    if has_running and "update_rejected" in getattr(types.member_of(measured.fedjax_type), "names", ()):
        weights = federated_map(_unless_rejected, measured["update_rejected"], state.weights, weights)
    moved = federated_map(with_trainable, weights, outputs["finalizer"].result)
    return federated_zip({"weights": moved, **{slot: output.state for slot, output in outputs.items()}})


def _unless_rejected(rejected, old, new):
    return trees.where(rejected != 0, old, new)


def _metrics(outputs: dict[str, MeasuredProcessOutput], num_non_finite: Placed, reason: Placed) -> Placed:
    """The measurements by slot; those of the client work include the clients that were left out."""
    work = outputs["client_work"]
    left_out = {"num_non_finite_clients": num_non_finite, "non_finite_clients": listed_clients(reason)}
    measurements = {slot: output.measurements for slot, output in outputs.items()}
    train = report(by_name, work.result, work.measurements, **left_out)
    return federated_zip({**measurements, "client_work": {"train": train}})


def _trainable(weights: Placed) -> Placed:
    return federated_map(trainable_of, weights)


def _counted(weight, reason) -> dict:
    """What the round sums over clients beside the updates: contributions, weights, and why clients were left out."""
    contributing = jax.tree.map(lambda w: (w > 0).astype(jnp.int32), weight)
    # In floats, since weights that are integers need not be small.
    return {"contributing": contributing, "weight": trees.widen(weight), "num_non_finite": by_reason(reason)}
