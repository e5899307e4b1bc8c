"""The learning process, in which a model in the server's state learns from the clients' data."""

import functools
from typing import Any, NamedTuple

from fedjax_core._checks import NOT_NEGATIVE, checked_number
from fedjax_core.computations import Computation, computation
from fedjax_core.engine import EngineConfig
from fedjax_core.templates import _checks, errors
from fedjax_core.templates._hyperparams import hyperparams, with_hyperparams
from fedjax_core.templates._iterative_process import IterativeProcess
from fedjax_core.types import SequenceType, Type, member_of, type_leaves


class LearningProcessOutput(NamedTuple):
    """What the `next` of a learning process returns.

    Each field has its own placement; an output that is placed as a whole has another type.

    Attributes:
      state: the next state.
      metrics: the metrics of the round.

    Example:
      >>> state, metrics = LearningProcessOutput(state=1, metrics={"loss": 0.5})
      >>> metrics["loss"]
      0.5
    """

    state: Any
    metrics: Any


class LearningProcess(IterativeProcess):
    """A process whose state at the server learns from sequences at the clients.

    `initialize: ( -> S@SERVER)`, `next: (<S@SERVER,{D*}@CLIENTS> -> <state=S@SERVER,metrics=M@SERVER>)`,
    `report: (S -> R)`, `get_model_weights: (S -> W)` and `set_model_weights: (<S,W> -> S)`. The data of a
    client is a sequence `D*` or a struct of sequences.

    A process can be rebuilt from its attributes, for example with another report:
    `LearningProcess(old.initialize, old.next, report, old.get_model_weights, old.set_model_weights,
    client_results=old.client_results, noise_multiplier=old.noise_multiplier)`.

    Hyperparameters in the state, such as learning rates, can change between rounds without another compilation:
    `get_hparams` reads and `set_hparams` sets them. They are those of `hyperparams(state)`, where
    `optax.inject_hyperparams` keeps them. They follow from the type of the state, so a process does not declare them.

    Attributes:
      initialize: the Computation passed as `initialize_fn`.
      next: the Computation passed as `next_fn`.
      report: the Computation passed as `report_fn`.
      get_model_weights: the Computation that was passed, or else the identity.
      set_model_weights: the Computation that was passed, or else one that replaces the whole state.
      get_hparams: a Computation `(S -> H)` of the hyperparameters in an unplaced state; `{}` if it has none.
      set_hparams: a Computation `(<S,H> -> S)` of the unplaced state with other hyperparameters.
      client_results: the Computation that was passed, or else None.
      noise_multiplier: the number that was passed, see `Aggregator`; 0.0 if no noise hides the clients.
      state_type: the type of the state as `next` takes it, placed at SERVER.

    Example: a process that counts the examples it has seen.
      >>> import jax.numpy as jnp
      >>> import fedjax_core as fc
      >>> def count(sequence):
      ...     return sequence.reduce(jnp.int32(0), lambda total, batch, mask: total + mask.sum(dtype="int32"))
      >>> @fc.federated_computation
      ... def initialize():
      ...     return fc.federated_value(0, fc.SERVER)
      >>> @fc.federated_computation("int32@SERVER", fc.at_clients("float32[?]*"))
      ... def next_round(total, data):
      ...     new = fc.federated_sum(fc.federated_map(count, data))
      ...     total = fc.federated_map(jnp.add, total, new)
      ...     return LearningProcessOutput(total, fc.federated_zip({"new": new}))
      >>> process = LearningProcess(initialize, next_round, fc.computation(lambda total: total, "int32"))
      >>> state, metrics = process.next(process.initialize(), [jnp.zeros(3), jnp.zeros(4)])
      >>> int(state), int(metrics["new"]), int(process.get_model_weights(state))
      (7, 7, 7)
      >>> print(process.describe())
      initialize: ( -> int32@SERVER)
      next: (<total=int32@SERVER,data={float32[?]*}@CLIENTS> -> <state=int32@SERVER,metrics=<new=int32>@SERVER>)
      report: (int32 -> int32)
      get_model_weights: (int32 -> int32)
      set_model_weights: (<state=int32,weights=int32> -> int32)
      <BLANKLINE>
      next
      pass 1 over the clients (16 virtual shards)
        computes count -> int32
        sends 4 B: federated_sum of int32 (count)
      server
        computes add -> int32
      per client: receives 0 B, sends 4 B
    """

    _takes_data = True

    def __init__(
        self,
        initialize_fn: Computation,
        next_fn: Computation,
        report_fn: Computation,
        get_model_weights: Computation | None = None,
        set_model_weights: Computation | None = None,
        *,
        client_results: Computation | None = None,
        noise_multiplier: float = 0.0,
    ):
        """Checks that the computations fit together.

        Args:
          initialize_fn: a Computation without arguments that returns the initial state at SERVER.
          next_fn: a Computation of the state at SERVER and the data at CLIENTS that returns a
            `LearningProcessOutput` with both fields at SERVER.
          report_fn: a Computation of the unplaced state that returns a summary of it.
          get_model_weights: a Computation of the unplaced state that returns its model weights;
            None if the whole state is the weights.
          set_model_weights: a Computation of the unplaced state and model weights that returns
            the state with these weights; None if the weights are the whole new state.
          client_results: a Computation of the arguments of `next_fn` that returns the result of each client of
            the round, at CLIENTS, for debugging; None if the process does not provide it.
          noise_multiplier: the noise that a round adds, see `Aggregator`; a run checks its accounting against it.

        Raises:
          TypeError: if `initialize_fn` is not a Computation.
          TemplateInitFnParamNotEmptyError: if it takes an argument.
          TypeError: if `next_fn` is not a Computation.
          TemplateNextFnNumArgsError: if it takes no argument.
          TemplateStateNotAssignableError: if the initial state is not assignable to the first
            argument of `next_fn`, or neither the whole result of `next_fn` nor its first
            element is assignable to that argument.
          LearningProcessPlacementError: if the initial state is not at SERVER as a whole.
          LearningProcessOutputError: if `next_fn` does not return exactly a
            `LearningProcessOutput`: not a tuple, a dict or another NamedTuple with its fields.
          TemplateNextFnNumArgsError: if `next_fn` does not take exactly two arguments.
          LearningProcessPlacementError: if the second is not at CLIENTS as a whole.
          LearningProcessSequenceTypeError: if it is neither a sequence nor a (nested) struct that
            contains only sequences.
          LearningProcessPlacementError: if the metrics are not at SERVER as a whole.
          TypeError: if `report_fn` is not a Computation.
          ReportFnTypeSignatureError: if it does not take exactly the unplaced state.
          TypeError: if `get_model_weights` is not a Computation.
          GetModelWeightsTypeSignatureError: if it does not take exactly the unplaced state.
          TypeError: if `set_model_weights` is not a Computation.
          SetModelWeightsTypeSignatureError: if it does not take exactly the unplaced state and
            what `get_model_weights` returns, or does not return a state.
          TypeError: if `client_results` is not None and not a Computation, or `noise_multiplier` is not a number.
          ValueError: if `noise_multiplier` is negative or not finite.
        """
        super().__init__(initialize_fn, next_fn)
        _check_state_and_output(initialize_fn, next_fn)
        _check_data(next_fn)
        _check_metrics(next_fn)
        state_type = member_of(self.state_type)
        _check_reads_state("report_fn", report_fn, state_type, errors.ReportFnTypeSignatureError)
        if get_model_weights is None:
            get_model_weights = computation(lambda state: state, state_type)
        _check_reads_state("get_model_weights", get_model_weights, state_type, errors.GetModelWeightsTypeSignatureError)
        weights_type = get_model_weights.type_signature.result
        if set_model_weights is None:
            set_model_weights = _replaced_state(state_type, weights_type)
        _check_set_model_weights(set_model_weights, state_type, weights_type)
        if client_results is not None:
            _checks.check_is_computation("client_results", client_results)
        argument, repair = "LearningProcess(noise_multiplier=...)", "write noise_multiplier=aggregator.noise_multiplier"
        self._noise_multiplier = checked_number(argument, noise_multiplier, NOT_NEGATIVE, repair)
        self._report = report_fn
        self._client_results = client_results
        self._get_model_weights = get_model_weights
        self._set_model_weights = set_model_weights

    @property
    def report(self) -> Computation:
        """Returns a summary of an unplaced state, `(S -> R)`."""
        return self._report

    @property
    def get_model_weights(self) -> Computation:
        """Returns the model weights of an unplaced state, `(S -> W)`."""
        return self._get_model_weights

    @property
    def set_model_weights(self) -> Computation:
        """Returns the unplaced state with other model weights, `(<S,W> -> S)`."""
        return self._set_model_weights

    @property
    def get_hparams(self) -> Computation:
        """Returns the hyperparameters in an unplaced state, `(S -> H)`, as dicts by their place in the state.

        Example: the clients' learning rate is halved after each round.

          >>> import jax, numpy as np, optax, fedjax_core as fc
          >>> sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
          >>> process = fc.algorithms.fed_avg(fc.models.logistic_regression(2, 2), sgd, key=jax.random.key(0))
          >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}]
          >>> state = process.initialize()
          >>> for _ in range(2):
          ...     state, _ = process.next(state, clients)
          ...     rate = process.get_hparams(state)["client_work"]["learning_rate"]
          ...     state = process.set_hparams(state, {"client_work": {"learning_rate": rate / 2}})
          >>> print(process.get_hparams(state)["client_work"]["learning_rate"])
          0.125
        """
        return self._hparams[0]

    @property
    def set_hparams(self) -> Computation:
        """Returns the unplaced state with other hyperparameters, `(<S,H> -> S)`; see `get_hparams`."""
        return self._hparams[1]

    @functools.cached_property
    def _hparams(self) -> tuple[Computation, Computation]:
        # Traced at their first use: most states have no hyperparameters, and tracing a large state takes time.
        def get_hparams(state):
            return hyperparams(state)

        def set_hparams(state, hparams):
            return with_hyperparams(state, hparams)

        state_type = member_of(self.state_type)
        get = computation(get_hparams, state_type)
        return get, computation(set_hparams, state_type, get.type_signature.result)

    @property
    def client_results(self) -> Computation | None:
        """Returns the result of each client of a round, `(<S@SERVER,{D*}@CLIENTS> -> {A}@CLIENTS)`; may be None."""
        return self._client_results

    @property
    def noise_multiplier(self) -> float:
        """The noise that a round adds, as a multiple of what one client can add to the sum; 0.0 for none."""
        return self._noise_multiplier

    def with_config(self, config: EngineConfig) -> "LearningProcess":
        """The same process with rounds on other lanes, devices or memory, like `Computation.with_config`.

        Raises:
          TypeError: `config` is not an `EngineConfig`.

        Example:
          >>> import jax, optax, fedjax_core as fc
          >>> process = fc.algorithms.fed_avg(
          ...     fc.models.logistic_regression(2, 3), optax.sgd(0.1), key=jax.random.key(0)
          ... )
          >>> process.with_config(fc.EngineConfig(lanes=4)).next.config.lanes
          4
        """
        return LearningProcess(
            self.initialize,
            self.next.with_config(config),
            self.report,
            self.get_model_weights,
            self.set_model_weights,
            client_results=None if self.client_results is None else self.client_results.with_config(config),
            noise_multiplier=self.noise_multiplier,
        )

    def _computations(self) -> dict[str, Computation]:
        has_hparams = bool(type_leaves(self.get_hparams.type_signature.result))
        return {
            **super()._computations(),
            "report": self.report,
            "get_model_weights": self.get_model_weights,
            "set_model_weights": self.set_model_weights,
            **({"get_hparams": self.get_hparams, "set_hparams": self.set_hparams} if has_hparams else {}),
        }

    def _letters(self) -> dict[str, Type]:
        weights = self.get_model_weights.type_signature.result
        metrics = member_of(_checks.result_fields(self.next)["metrics"])
        return {**super()._letters(), "W": weights, "M": metrics}


def _check_state_and_output(initialize_fn: Computation, next_fn: Computation) -> None:
    _checks.check_at_server(
        "the initial state", initialize_fn.type_signature.result, errors.LearningProcessPlacementError
    )
    if not _checks.returns_exactly(next_fn, LearningProcessOutput):
        raise errors.LearningProcessOutputError(
            f"`next_fn` must return a `LearningProcessOutput` itself, got {next_fn.type_signature.result}; "
            "write `return fc.templates.LearningProcessOutput(state, metrics)`"
        )


def _check_data(next_fn: Computation) -> None:
    arguments = _checks.argument_types(next_fn)
    if len(arguments) != 2:
        raise errors.TemplateNextFnNumArgsError(
            f"`next_fn` must take exactly two arguments, state and data, got {len(arguments)}: "
            f"{next_fn.type_signature}; keep anything else that it needs in the state, or let it close over that"
        )
    data_type = arguments[1]
    _checks.check_at_clients("the data that `next_fn` takes", data_type, errors.LearningProcessPlacementError)
    member = member_of(data_type)
    if not all(isinstance(part, SequenceType) for _, part in type_leaves(member)):
        raise errors.LearningProcessSequenceTypeError(
            "the data of a client must be a sequence or a (nested) struct that contains only sequences, got "
            f"{member}; declare a sequence of batches: `fc.at_clients(fc.types.SequenceType(batch_type))`"
        )


def _check_metrics(next_fn: Computation) -> None:
    metrics_type = _checks.result_fields(next_fn)["metrics"]
    _checks.check_at_server("the metrics", metrics_type, errors.LearningProcessPlacementError)


def _check_reads_state(role: str, fn: Any, state_type: Type, error: type[TypeError]) -> None:
    _checks.check_is_computation(role, fn)
    arguments = _checks.argument_types(fn)
    if len(arguments) != 1 or not arguments[0].is_equivalent_to(state_type):
        raise error(
            f"`{role}` must take the unplaced state, {state_type}, as its only argument, got the type "
            f"{fn.type_signature}; declare it: `fc.computation(fn, state_type.member)`"
        )


def _replaced_state(state_type: Type, weights_type: Type) -> Computation:
    if not state_type.is_assignable_from(weights_type):
        raise errors.SetModelWeightsTypeSignatureError(
            "`set_model_weights=None` replaces the whole state by the weights, so `get_model_weights` must "
            f"return a state, {state_type}, got {weights_type}; pass a computation that puts the weights into a state: "
            "`set_model_weights=fc.computation(lambda state, weights: state._replace(weights=weights), "
            "state_type, weights_type)`"
        )
    return computation(lambda state, weights: weights, state_type, weights_type)


def _check_set_model_weights(fn: Any, state_type: Type, weights_type: Type) -> None:
    _checks.check_is_computation("set_model_weights", fn)
    arguments = _checks.argument_types(fn)
    if (
        len(arguments) != 2
        or not arguments[0].is_equivalent_to(state_type)
        or not arguments[1].is_equivalent_to(weights_type)
        or not state_type.is_assignable_from(fn.type_signature.result)
    ):
        raise errors.SetModelWeightsTypeSignatureError(
            f"`set_model_weights` must take the unplaced state, {state_type}, and the weights that "
            f"`get_model_weights` returns, {weights_type}, and return a state, got the type "
            f"{fn.type_signature}; declare both: "
            "`fc.computation(fn, state_type.member, get_model_weights.type_signature.result)`"
        )
