"""The aggregation process, which aggregates values at the clients to one result at the server."""

from fedjax_core.computations import Computation
from fedjax_core.templates import _checks, errors
from fedjax_core.templates._measured_process import MeasuredProcess
from fedjax_core.types import FederatedType, type_leaves


class AggregationProcess(MeasuredProcess):
    """A measured process that aggregates values at the clients to a result at the server.

    `initialize: ( -> S@SERVER)` and
    `next: (<S@SERVER,{V}@CLIENTS> -> <state=S@SERVER,result=R@SERVER,measurements=M@SERVER>)`,
    or `next: (<S@SERVER,{V}@CLIENTS,{W}@CLIENTS> -> ...)` with a weight.

    Attributes:
      initialize: the Computation passed as `initialize_fn`.
      next: the Computation passed as `next_fn`.
      state_type: the type of the state as `next` takes it, placed at SERVER.
      is_weighted: whether `next` takes a weight.

    Example:
      >>> import fedjax_core as fc
      >>> from fedjax_core.templates import MeasuredProcessOutput
      >>> @fc.federated_computation
      ... def initialize():
      ...     return fc.federated_value((), fc.SERVER)
      >>> @fc.federated_computation(initialize.type_signature.result, fc.at_clients("float32"))
      ... def sum_next(state, value):
      ...     none = fc.federated_value((), fc.SERVER)
      ...     return MeasuredProcessOutput(state, fc.federated_sum(value), none)
      >>> process = AggregationProcess(initialize, sum_next)
      >>> process.is_weighted
      False
      >>> process.next(process.initialize(), [1.0, 2.0, 4.0]).result
      Array(7., dtype=float32)
    """

    def __init__(self, initialize_fn: Computation, next_fn: Computation):
        """Checks that the two computations fit together.

        Args:
          initialize_fn: a Computation without arguments that returns the initial state at SERVER.
          next_fn: a Computation of the state at SERVER, a value at CLIENTS and optionally a
            weight at CLIENTS. It returns a `MeasuredProcessOutput` with every field at SERVER.

        Raises:
          TypeError: if `initialize_fn` is not a Computation.
          TemplateInitFnParamNotEmptyError: if it takes an argument.
          TypeError: if `next_fn` is not a Computation.
          TemplateNextFnNumArgsError: if it takes no argument.
          TemplateStateNotAssignableError: if the initial state is not assignable to the first
            argument of `next_fn`, or neither the whole result of `next_fn` nor its first
            element is assignable to that argument.
          TemplateNotMeasuredProcessOutputError: if `next_fn` does not return exactly a
            `MeasuredProcessOutput`.
          TemplateStateNotAssignableError: if the field `state` of the result is not assignable
            to the first argument of `next_fn`.
          AggregationNotFederatedError: if the initial state, or a part of an argument or of the
            result of `next_fn`, is not a federated value.
          AggregationPlacementError: if the initial state is not at SERVER.
          TemplateNextFnNumArgsError: if `next_fn` takes neither two nor three arguments.
          AggregationPlacementError: if the value or the weight is not at CLIENTS, or the result
            or the measurements not at SERVER, each as a whole.
        """
        super().__init__(initialize_fn, next_fn)
        _check_is_federated(initialize_fn, next_fn)
        error = errors.AggregationPlacementError
        _checks.check_at_server("the initial state", initialize_fn.type_signature.result, error)
        _check_num_arguments(next_fn)
        for what, argument in zip(("the value", "the weight"), _checks.argument_types(next_fn)[1:]):
            _checks.check_at_clients(f"{what} that `next_fn` aggregates", argument, error)
        for field in ("result", "measurements"):
            _checks.check_at_server(f"`{field}`", _checks.result_fields(next_fn)[field], error)

    @property
    def is_weighted(self) -> bool:
        """Whether `next` takes a weight, as a third argument."""
        return len(self.next.parameters) == 3


def _check_is_federated(initialize_fn: Computation, next_fn: Computation) -> None:
    initial = initialize_fn.type_signature.result
    if not isinstance(initial, FederatedType):
        raise errors.AggregationNotFederatedError(
            f"the initial state must be one federated value, got {initial}; make one from a struct of "
            "federated values with `fc.federated_zip(state)`, from an unplaced value with "
            "`fc.federated_value(state, fc.SERVER)`"
        )
    signature = next_fn.type_signature
    parts = [part for whole in (*_checks.argument_types(next_fn), signature.result) for _, part in type_leaves(whole)]
    unplaced = [str(part) for part in parts if not isinstance(part, FederatedType)]
    if unplaced:
        raise errors.AggregationNotFederatedError(
            f"`next_fn` must take and return federated values only, got {signature} with the unplaced "
            f"{', '.join(unplaced)}; declare arguments with `fc.at_clients`, place results with "
            "`fc.federated_value(result, fc.SERVER)`, make one value from a struct of federated values with "
            "`fc.federated_zip(result)`"
        )


def _check_num_arguments(next_fn: Computation) -> None:
    number = len(next_fn.parameters)
    if number not in (2, 3):
        if number < 2:
            repair = "declare the value too: `fc.federated_computation(fn, state_type, fc.at_clients(value_type))`"
        else:
            repair = "combine several values into one: `fc.federated_zip((first, second))`"
        raise errors.TemplateNextFnNumArgsError(
            "`next_fn` must take two arguments, state and value, or three, state, value and weight, got "
            f"{number}: {next_fn.type_signature}; {repair}"
        )
