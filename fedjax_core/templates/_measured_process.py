"""The measured process, whose step returns a result and measurements along with the next state."""

from typing import Any, NamedTuple

from fedjax_core.computations import Computation
from fedjax_core.templates import _checks, errors
from fedjax_core.templates._iterative_process import IterativeProcess


class MeasuredProcessOutput(NamedTuple):
    """What the `next` of a measured process returns.

    Each field has its own placement; an output that is placed as a whole has another type.

    Attributes:
      state: the next state.
      result: the result of the step.
      measurements: what the step reports in addition, to monitor it.

    Example:
      >>> output = MeasuredProcessOutput(state=1, result=2.5, measurements={"num_clipped": 0})
      >>> state, result, measurements = output
      >>> output.result
      2.5
    """

    state: Any
    result: Any
    measurements: Any


class MeasuredProcess(IterativeProcess):
    """An iterative process whose step returns state, result and measurements.

    `initialize: ( -> S)` and `next: (<S,...> -> <state=S,result=R,measurements=M>)`. The first
    argument of `next` is the state.

    Attributes:
      initialize: the Computation passed as `initialize_fn`.
      next: the Computation passed as `next_fn`.
      state_type: the type of the state as `next` takes it.

    Example:
      >>> from fedjax_core.computations import computation
      >>> def add(total, value):
      ...     return MeasuredProcessOutput(total + value, value, {"total": total})
      >>> adder = MeasuredProcess(computation(lambda: 0), computation(add, "int32", "int32"))
      >>> state, result, measurements = adder.next(adder.initialize(), 5)
      >>> int(state), int(result), int(measurements["total"])
      (5, 5, 0)
    """

    _takes_data = True

    def __init__(self, initialize_fn: Computation, next_fn: Computation):
        """Checks that the two computations fit together.

        Args:
          initialize_fn: a Computation without arguments that returns the initial state.
          next_fn: a Computation whose first argument is the state and that returns a
            `MeasuredProcessOutput`.

        Raises:
          TypeError: if `initialize_fn` is not a Computation.
          TemplateInitFnParamNotEmptyError: if it takes an argument.
          TypeError: if `next_fn` is not a Computation.
          TemplateNextFnNumArgsError: if it takes no argument.
          TemplateStateNotAssignableError: if the initial state is not assignable to the first
            argument of `next_fn`, or neither the whole result of `next_fn` nor its first
            element is assignable to that argument.
          TemplateNotMeasuredProcessOutputError: if `next_fn` does not return exactly a
            `MeasuredProcessOutput`: not a tuple, a dict or another NamedTuple with its fields.
          TemplateStateNotAssignableError: if the field `state` of the result is not assignable
            to the first argument of `next_fn`.
        """
        super().__init__(initialize_fn, next_fn)
        _check_returns_output(next_fn)
        _checks.check_next_state(self.state_type, _checks.result_fields(next_fn)["state"])


def _check_returns_output(next_fn: Computation) -> None:
    if not _checks.returns_exactly(next_fn, MeasuredProcessOutput):
        raise errors.TemplateNotMeasuredProcessOutputError(
            f"`next_fn` must return a `MeasuredProcessOutput` itself, got {next_fn.type_signature.result}; "
            "write `return fc.templates.MeasuredProcessOutput(state, result, measurements)`"
        )
