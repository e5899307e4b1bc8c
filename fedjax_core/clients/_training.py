"""Local training as the work of a round."""

import jax
import optax

from fedjax_core.clients._accumulator import accumulator
from fedjax_core.clients._local_optimizer import LocalOptimizer, local_optimizer
from fedjax_core.clients._measuring import trainable_of
from fedjax_core.clients._trainer import local_trainer
from fedjax_core.clients._weighting import Weighting, check_weighting, client_weight
from fedjax_core.clients._work import client_work
from fedjax_core.contracts import ClientResult, ClientWork, Model
from fedjax_core.templates import AggregationProcess


def local_training(
    model: Model,
    optimizer: optax.GradientTransformation | LocalOptimizer,
    metrics_process: AggregationProcess,
    *,
    weighting: Weighting = "examples",
) -> ClientWork:
    """A client trains on its batches, one optimizer step each, and answers initial minus trained weights.

    The gradient is that of the mean loss over a batch's examples. Metrics are those of the training
    predictions, each batch measured before its step.

    Args:
      model: the model.
      optimizer: any optax transformation, or a `LocalOptimizer` without auxiliary variables; every client starts with
        a fresh state. Optax's extended transformations get `value`, `grad` and `value_fn` of the batch's mean loss.
      metrics_process: combines the clients' statistics.
      weighting: "examples" (the number processed: 4 examples for 3 epochs weigh 12), "uniform", or
        a function of the client's finalized metrics, a dict by name, that gives a scalar. A client
        without examples weighs zero.

    Returns:
      A `ClientWork`.

    Raises:
      TypeError: the optimizer is neither, or `weighting` is of a wrong kind.
      ValueError: the optimizer exchanges auxiliary variables, or `weighting` is another string.

    Example:

    >>> import optax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 3)
    >>> work = local_training(model, optax.sgd(0.1), fc.algorithms.metrics_process(model), weighting="uniform")
    >>> type(work).__name__
    'ClientWork'

    References:
      McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
      algorithm 1 (ClientUpdate).
    """
    optimizer = local_optimizer(optimizer, "client_optimizer")
    check_weighting(weighting)
    _check_exchanges_nothing(optimizer, model)
    train, metrics = local_trainer(model, optimizer), accumulator(model)

    def work(weights, data, key):
        trained = train(weights, data, key)
        weight = client_weight(weighting, metrics, trained.statistics, trained.num_examples)
        return ClientResult(trained.update, weight, trained.statistics, running=trained.running)

    return client_work(work, metrics_process)


def _check_exchanges_nothing(optimizer: LocalOptimizer, model: Model):
    """A client of a round has no place for the auxiliary variables of the next one."""

    def collected(key):
        return optimizer.collect(optimizer.init(trainable_of(model.init(key))))

    names = sorted(jax.eval_shape(collected, jax.eval_shape(lambda: jax.random.key(0))))
    if names:
        raise ValueError(
            f"local_training takes an optimizer without auxiliary variables, got one that exchanges {names} with the "
            "server, which keeps no variables of a client here; write a ClientWork whose `run` keeps them and gives "
            "each client its own: fc.clients.local_trainer(model, optimizer)(weights, data, key, aux_var)"
        )
