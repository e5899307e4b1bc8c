"""Local training as the work of a round."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard, TypeVar

import jax
import optax

from fedjax_core.clients._evaluation import accumulator
from fedjax_core.clients._local_optimizer import LocalOptimizer, local_optimizer
from fedjax_core.clients._measuring import trainable_of
from fedjax_core.clients._slope import with_finite_slope
from fedjax_core.clients._trainer import Trained, local_trainer
from fedjax_core.clients._weighting import Weighting, check_weighting, client_weight
from fedjax_core.clients._work import client_work
from fedjax_core.contracts import ClientResult, ClientWork, Model
from fedjax_core.language import federated_broadcast, federated_map, federated_zip
from fedjax_core.templates import AggregationProcess, hyperparams

ClientOptimizer = optax.GradientTransformation | LocalOptimizer | Callable[[jax.Array], Any]
"""An optimizer, or a function of `round_num` that returns one."""
Made = TypeVar("Made")


class TrainingState(NamedTuple):
    """The server's state for local training if the client optimizer has hyperparameters in its state.

    Attributes:
      metrics: the state of the metrics' aggregation.
      hyperparams: the hyperparameters by name that every client's optimizer starts with; see `templates.hyperparams`.
    """

    metrics: Any
    hyperparams: Any


def local_training(
    model: Model,
    optimizer: ClientOptimizer,
    metrics_process: AggregationProcess,
    *,
    weighting: Weighting = "examples",
) -> ClientWork:
    """Client work that trains on a client's batches, one optimizer step each, and sends initial minus trained weights.

    Each step takes the gradient of the mean loss over a batch's examples. Metrics are measured on the training
    predictions, for each batch before its step. Every client starts with a fresh optimizer, and therefore at the
    beginning of the optimizer's schedules. There are two ways to change a rate from round to round:

    * `optimizer=lambda round_num: optax.sgd(0.1 * 0.99**round_num)`: a function whose parameter is named `round_num`,
      int32 `[]`, the number of rounds before this one.
    * `optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)`: a rate in the state, which the learning
      process reads and sets with `get_hparams` and `set_hparams`.

    Args:
      model: the model.
      optimizer: any optax transformation, a `LocalOptimizer` without auxiliary variables, or a function of `round_num`
        that returns one. Optax's extended transformations get `value`, `grad` and `value_fn` of the batch's mean loss.
      metrics_process: combines the clients' statistics.
      weighting: "examples" (the number of examples processed: 4 examples in 3 epochs count as 12), "uniform", or a
        function of the client's finalized metrics, a dict by name, that returns a scalar. A client without examples
        has weight zero.

    Returns:
      A `ClientWork`. Its state is that of `metrics_process`, or a `TrainingState` that contains it if the optimizer
      has hyperparameters in its state.

    Raises:
      TypeError: `optimizer` or `weighting` has the wrong type.
      ValueError: the optimizer exchanges auxiliary variables, or `weighting` is a string other than "examples" and
        "uniform".

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
    check_weighting(weighting)
    metrics = accumulator(model)

    def answer(trained: Trained) -> ClientResult:
        weight = client_weight(weighting, metrics, trained.statistics, trained.num_examples)
        return ClientResult(trained.update, weight, trained.statistics, running=trained.running)

    if _is_function_of_the_round(optimizer):
        return client_work(_training_by_round(model, optimizer, answer), metrics_process)

    optimizer = _checked(optimizer, model)
    trainer = local_trainer(model, optimizer)

    def train(weights, data, key, values=None):  # a named function, since `describe` shows the name
        return answer(trainer(weights, data, key, hyperparams=values or {}))

    if not hyperparams(_abstract_state(optimizer, model)):
        return client_work(train, metrics_process)
    return _with_hyperparams(train, lambda weights: hyperparams(optimizer.init(trainable_of(weights))), metrics_process)


def _training_by_round(
    model: Model, optimizer: Callable[[jax.Array], Any], answer: Callable[[Trained], ClientResult]
) -> Callable[..., ClientResult]:
    """The training of a client with the optimizer of the round."""

    def train(weights, data, key, round_num):
        trainer = local_trainer(model, _checked(optimizer(round_num), model))
        return answer(trainer(weights, data, key))

    return train


def map_optimizer(
    transform: Callable[[Any], Made], optimizer: ClientOptimizer, argument: str = "client_optimizer"
) -> Made | Callable[[jax.Array], Made]:
    """Applies `transform` to an optimizer, or to what a function of the round number returns in each round.

    Args:
      transform: a function of an optimizer.
      optimizer: an optimizer, or a function whose parameter is named `round_num`.
      argument: how an error names the argument.

    Returns:
      `transform(optimizer)`, or a function of `round_num` that returns it.

    Raises:
      TypeError: `optimizer` is a function with other parameters.

    Example:

    >>> import optax
    >>> clipped = map_optimizer(lambda o: optax.chain(optax.clip(1.0), o), lambda round_num: optax.sgd(0.5**round_num))
    >>> type(clipped(3)).__name__
    'GradientTransformationExtraArgs'
    """
    if _is_function_of_the_round(optimizer, argument):
        return lambda round_num: transform(optimizer(round_num))
    return transform(optimizer)


def _with_hyperparams(work: Callable, first: Callable, metrics_process: AggregationProcess) -> ClientWork:
    """Client work that takes the optimizer's hyperparameters from its state.

    Args:
      work: `(weights, data, key, hyperparams) -> ClientResult`.
      first: `weights -> hyperparams`, for the first state.
      metrics_process: combines the clients' statistics.
    """

    of_client = with_finite_slope(work)

    def init(weights):
        return federated_zip(TrainingState(metrics_process.initialize(), federated_map(first, weights)))

    def run(state, weights, data, key):
        return federated_map(of_client, weights, data, key, federated_broadcast(state.hyperparams)), ()

    def commit(state, result, included, shared):
        output = metrics_process.next(state.metrics, result.metrics)
        return output._replace(state=federated_zip(TrainingState(output.state, state.hyperparams)))

    return ClientWork(init, run, commit)


def _is_function_of_the_round(
    optimizer: Any, argument: str = "client_optimizer"
) -> TypeGuard[Callable[[jax.Array], Any]]:
    if isinstance(optimizer, LocalOptimizer) or hasattr(optimizer, "update") or not callable(optimizer):
        return False
    # The parameter's name decides: `optax.sgd` itself is a function too, and would take the round number for its rate.
    names = list(inspect.signature(optimizer).parameters)
    if names != ["round_num"]:
        name = getattr(optimizer, "__name__", repr(optimizer))
        raise TypeError(
            f"{argument} must be an optax.GradientTransformation or a function of `round_num` that returns one, got "
            f"the function {name}({', '.join(names)}); write optax.sgd(0.02), or for rates that depend on the round "
            "lambda round_num: optax.sgd(0.02 * 0.99**round_num)"
        )
    return True


def _checked(optimizer: Any, model: Model) -> LocalOptimizer:
    """The optimizer as a `LocalOptimizer`; raises ValueError if it exchanges variables, which no server would keep."""
    optimizer = local_optimizer(optimizer, "client_optimizer")
    names = sorted(jax.eval_shape(optimizer.collect, _abstract_state(optimizer, model)))
    if names:
        raise ValueError(
            f"local_training takes an optimizer without auxiliary variables, got one that exchanges {names} with the "
            "server, which keeps no variables for each client here; write a ClientWork whose `run` keeps them and "
            "gives each client its own: fc.clients.local_trainer(model, optimizer)(weights, data, key, aux_var)"
        )
    return optimizer


def _abstract_state(optimizer: LocalOptimizer, model: Model) -> Any:
    def state(key):
        return optimizer.init(trainable_of(model.init(key)))

    return jax.eval_shape(state, jax.eval_shape(lambda: jax.random.key(0)))
