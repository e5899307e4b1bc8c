"""Evaluation on clients' data, as a stateless computation and as a process."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import _checks, trees, types
from fedjax_core.algorithms._metrics import by_name, by_rounds, metrics_process, report
from fedjax_core.algorithms._process import learning_process
from fedjax_core.clients import integer_ranges, local_evaluation, weights_type
from fedjax_core.computations import Computation, federated_computation
from fedjax_core.contracts import Model
from fedjax_core.language import (
    federated_broadcast,
    federated_eval,
    federated_map,
    federated_value,
    federated_zip,
)
from fedjax_core.language.graph import in_ranges
from fedjax_core.language.sums import count_sum
from fedjax_core.metrics import sum_then_finalize
from fedjax_core.templates import LearningProcess, LearningProcessOutput
from fedjax_core.types import SERVER


class EvaluationState(NamedTuple):
    """The state of `fed_eval`.

    Attributes:
      weights: the model's weights; set them with `set_model_weights`.
      client_work: the state of the metrics' aggregation.
      round_num: int32 `[]`, the number of rounds so far.
    """

    weights: Any
    client_work: Any
    round_num: Any


def federated_evaluation(model: Model, metrics_aggregation: Any = None) -> Computation:
    """Makes the computation that measures a model's weights on clients' data.

    Args:
      model: the model.
      metrics_aggregation: None sums the clients' statistics and finalizes the sums; a client whose statistics are not
        finite is left out and counted as `num_non_finite`. Otherwise a federated computation from the statistics at
        CLIENTS to metrics at SERVER, a `MetricsAggregation` such as `metrics.finalize_then_sample(key=key)`, or an
        `AggregationProcess`; of the last two, the first round is used.

    Returns:
      A `Computation` `(<weights=W@SERVER,data={D*}@CLIENTS> -> <eval=M>@SERVER)`. Without examples, the metrics are
      NaN.

    Raises:
      TypeError: an argument has the wrong type, or the aggregation does not take the statistics.

    Example:

    >>> import numpy as np, jax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2, metrics={"accuracy": fc.metrics.accuracy()})
    >>> evaluation = federated_evaluation(model)
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}]
    >>> weights = {"bias": np.zeros(2, np.float32), "kernel": np.eye(2, dtype=np.float32)}
    >>> print(evaluation(weights, clients)["eval"]["accuracy"])
    1.0
    """
    process = metrics_process(model, metrics_aggregation)
    evaluate, ranges = local_evaluation(model), integer_ranges(model)

    @federated_computation(types.at_server(weights_type(model)), _data_type(model))
    def evaluation(weights, data):
        unfinalized = federated_map(evaluate, federated_broadcast(weights), in_ranges(data, ranges))
        _, result, measurements = process.next(process.initialize(), unfinalized)
        return federated_zip({"eval": report(by_name, result, measurements)})

    return evaluation


def fed_eval(model: Model, metrics_aggregation: Any = None, *, key: jax.Array | None = None) -> LearningProcess:
    """Evaluation as a process, whose state holds the weights and the metrics of all rounds so far.

    Args:
      model: the model.
      metrics_aggregation: None is `metrics.sum_then_finalize()`; otherwise as in `federated_evaluation`.
      key: a JAX key for the model's initial weights; with None these are zeros. In either case, set the weights to
        evaluate with `set_model_weights`.

    Returns:
      A `LearningProcess` whose `next` does not change the weights. It reports under `client_work.eval` the
      `current_round_metrics` and, if the aggregation returns both, the `total_rounds_metrics`, together with the
      measurements of the aggregation; if these count clients for each metric, they are named `num_non_finite`.

    Raises:
      TypeError: an argument has the wrong type, or the aggregation does not take the statistics.

    Example:

    >>> import numpy as np, jax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2, metrics={"accuracy": fc.metrics.accuracy()})
    >>> process = fed_eval(model)
    >>> weights = {"bias": np.zeros(2, np.float32), "kernel": np.eye(2, dtype=np.float32)}
    >>> state = process.set_model_weights(process.initialize(), weights)
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 0], np.int32)}]
    >>> state, metrics = process.next(state, clients)
    >>> print(metrics["client_work"]["eval"]["current_round_metrics"]["accuracy"])
    0.5
    """
    if key is not None:
        _checks.check_key("fed_eval(key=...)", key)
    process = metrics_process(model, sum_then_finalize() if metrics_aggregation is None else metrics_aggregation)
    evaluate, whole, ranges = local_evaluation(model), weights_type(model), integer_ranges(model)

    def first_weights():
        weights = model.init(jax.random.key(0) if key is None else key)
        return trees.zeros_like(weights) if key is None else weights

    @federated_computation()
    def initialize():
        weights = federated_eval(first_weights, SERVER)
        return federated_zip(EvaluationState(weights, process.initialize(), federated_value(jnp.int32(0), SERVER)))

    @federated_computation(initialize.type_signature.result, _data_type(model))
    def next(state, data):
        unfinalized = federated_map(evaluate, federated_broadcast(state.weights), in_ranges(data, ranges))
        metrics_state, result, measurements = process.next(state.client_work, unfinalized)
        number = count_sum(federated_map(_has_examples, data))
        metrics_state = federated_map(_unless_nobody, number, metrics_state, state.client_work)
        round_num = federated_map(lambda n: n + 1, state.round_num)
        none = federated_value((), SERVER)
        metrics = {
            "distributor": none,
            "client_work": {"eval": report(by_rounds, result, measurements)},
            "aggregator": none,
            "finalizer": none,
        }
        state = federated_zip(EvaluationState(state.weights, metrics_state, round_num))
        return LearningProcessOutput(state, federated_zip(metrics))

    return learning_process(initialize, next, whole)


def _data_type(model: Model) -> types.FederatedType:
    return types.at_clients(types.SequenceType(model.batch_type))


def _has_examples(data) -> jax.Array:
    return (data.num_batches > 0).astype(jnp.int32)


def _unless_nobody(number, new, old):
    return trees.where(number > 0, new, old)
