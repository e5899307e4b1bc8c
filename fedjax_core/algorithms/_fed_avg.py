"""Federated averaging, its adaptive variants, and federated SGD."""

from typing import Any

import jax
import optax

from fedjax_core import _checks
from fedjax_core.aggregators import mean
from fedjax_core.algorithms._compose import compose
from fedjax_core.algorithms._metrics import metrics_process
from fedjax_core.algorithms._slots import as_finalizer, broadcast
from fedjax_core.clients import ClientOptimizer, Weighting, local_gradient, local_training
from fedjax_core.contracts import Aggregator, Finalizer, Model
from fedjax_core.templates import LearningProcess


def fed_avg(
    model: Model,
    client_optimizer: ClientOptimizer,
    *,
    server_optimizer: optax.GradientTransformation | Finalizer | None = None,
    aggregator: Aggregator | None = None,
    weighting: Weighting = "examples",
    metrics_aggregation: Any = None,
    key: jax.Array,
) -> LearningProcess:
    r"""Generalized federated averaging.

    Each client takes optimizer steps on its own batches, from the server's weights :math:`x` to :math:`x_k`. The
    server uses the weighted mean of :math:`x - x_k` as a gradient.

    The default server optimizer, SGD with learning rate 1.0, gives FedAvg. Other algorithms need one argument:

    * FedAvgM: `server_optimizer=optax.sgd(1.0, momentum=0.9)`
    * FedAdam: `server_optimizer=optax.adam(0.01, eps=1e-3)`
    * FedYogi: `server_optimizer=optax.chain(optax.scale_by_yogi(eps=1e-3, initial_accumulator_value=0.0),
      optax.scale_by_learning_rate(0.01))`; in `optax.yogi` the first moment begins at 1e-6, so that weights whose
      gradient is zero move
    * FedAdagrad: `server_optimizer=optax.adagrad(0.1, eps=1e-3)`

    Args:
      model: the model.
      client_optimizer: any optax transformation, fresh for every client and round, a `clients.LocalOptimizer`
        without auxiliary variables, or a function of `round_num` that returns one. See `clients.local_training` for
        rates that change from round to round.
      server_optimizer: an optax transformation, see `apply_optimizer`, or a `Finalizer`, such as
        `apply_optimizer(optax.sgd(1.0), should_reject_update=...)`; None is `optax.sgd(1.0)`.
      aggregator: combines the updates; None is `aggregators.mean()`.
      weighting: "examples" (the number of examples processed), "uniform", or a function of the client's finalized
        metrics that returns a scalar. A client without examples has weight zero.
      metrics_aggregation: None sums and finalizes the training metrics. Otherwise a federated computation from the
        clients' statistics to metrics at SERVER, a `MetricsAggregation` or an `AggregationProcess`.
      key: a JAX key, consumed: the initial weights and all rounds draw from it.

    Returns:
      A `LearningProcess`, see `compose`.

    Raises:
      TypeError: an argument has the wrong type, or `key` is not a typed key.
      ValueError: `weighting` is an unknown string, or the client optimizer exchanges auxiliary variables.
      ProcessCompositionError: the aggregator does not fit the model.

    Example:

    >>> import jax, numpy as np, optax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> process = fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}] * 3
    >>> state = process.initialize()
    >>> state, first = process.next(state, clients)
    >>> state, second = process.next(state, clients)
    >>> bool(second["client_work"]["train"]["loss"] < first["client_work"]["train"]["loss"])
    True

    References:
      McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
      algorithm 1. Reddi et al. 2021, Adaptive Federated Optimization, algorithms 1 and 2. Hsu et al.
      2019, Measuring the Effects of Non-Identical Data Distribution (FedAvgM).
    """
    _checks.check_key("fed_avg(key=...)", key)
    metrics = metrics_process(model, metrics_aggregation)
    work = local_training(model, client_optimizer, metrics, weighting=weighting)
    finalizer = as_finalizer(optax.sgd(1.0) if server_optimizer is None else server_optimizer)
    return compose(model, broadcast(), work, mean() if aggregator is None else aggregator, finalizer, key=key)


def fed_sgd(
    model: Model,
    *,
    server_optimizer: optax.GradientTransformation | Finalizer,
    aggregator: Aggregator | None = None,
    weighting: Weighting = "examples",
    metrics_aggregation: Any = None,
    key: jax.Array,
) -> LearningProcess:
    """Federated SGD: the server takes one step with the weighted mean of the clients' gradients.

    Args:
      model: the model.
      server_optimizer: as in `fed_avg`. There is no client optimizer, since clients take no steps.
      aggregator: as in `fed_avg`.
      weighting: as in `fed_avg`.
      metrics_aggregation: as in `fed_avg`.
      key: a JAX key, consumed: the initial weights and all rounds draw from it.

    Returns:
      A `LearningProcess`, see `compose`.

    Raises:
      TypeError: an argument has the wrong type, or `key` is not a typed key.
      ValueError: `weighting` is an unknown string.
      ProcessCompositionError: the aggregator does not fit the model.

    Example:

    >>> import jax, numpy as np, optax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> process = fed_sgd(model, server_optimizer=optax.sgd(0.1), key=jax.random.key(0))
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}]
    >>> state, metrics = process.next(process.initialize(), clients)
    >>> print(process.get_model_weights(state)["kernel"])
    [[ 0.025 -0.025]
     [-0.025  0.025]]

    References:
      McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
      section 2.
    """
    _checks.check_key("fed_sgd(key=...)", key)
    work = local_gradient(model, metrics_process(model, metrics_aggregation), weighting=weighting)
    aggregator = mean() if aggregator is None else aggregator
    return compose(model, broadcast(), work, aggregator, as_finalizer(server_optimizer), key=key)
