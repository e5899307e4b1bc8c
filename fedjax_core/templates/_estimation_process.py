"""The estimation process, an iterative process with an estimate that can be reported from every state."""

from fedjax_core.computations import Computation, computation, federated_computation
from fedjax_core.templates import _checks, errors
from fedjax_core.templates._iterative_process import IterativeProcess


class EstimationProcess(IterativeProcess):
    """An iterative process with an estimate that can be reported from every state.

    `initialize: ( -> S)`, `next: (<S,...> -> <S,...>)` and `report: (S -> E)`. The first argument of
    `next` is the state.

    Attributes:
      initialize: the Computation passed as `initialize_fn`.
      next: the Computation passed as `next_fn`.
      report: the Computation passed as `report_fn`.
      state_type: the type of the state as `next` takes it.

    Example:
      >>> from fedjax_core.computations import computation
      >>> clock = EstimationProcess(
      ...     initialize_fn=computation(lambda: 0),
      ...     next_fn=computation(lambda seconds: seconds + 96, "int32"),
      ...     report_fn=computation(lambda seconds: seconds / 64, "int32"),
      ... )
      >>> state = clock.next(clock.initialize())
      >>> float(clock.report(state))
      1.5
    """

    _takes_data = True

    def __init__(self, initialize_fn: Computation, next_fn: Computation, report_fn: Computation):
        """Checks that the three computations fit together.

        Args:
          initialize_fn: a Computation without arguments that returns the initial state.
          next_fn: a Computation whose first argument is the state, and whose whole result or
            first result is the next state.
          report_fn: a Computation of the state that returns the estimate.

        Raises:
          TypeError: if `initialize_fn` is not a Computation.
          TemplateInitFnParamNotEmptyError: if it takes an argument.
          TypeError: if `next_fn` is not a Computation.
          TemplateNextFnNumArgsError: if it takes no argument.
          TemplateStateNotAssignableError: if the initial state is not assignable to the first
            argument of `next_fn`, or neither the whole result of `next_fn` nor its first
            element is assignable to that argument.
          TypeError: if `report_fn` is not a Computation.
          TemplateStateNotAssignableError: if it does not take exactly the state.
        """
        super().__init__(initialize_fn, next_fn)
        _checks.check_is_computation("report_fn", report_fn)
        if not _checks.takes(report_fn, self.state_type):
            raise errors.TemplateStateNotAssignableError(
                f"`report_fn` must take the state, {self.state_type}, as its only argument, got the type "
                f"{report_fn.type_signature}; declare it: `fc.computation(report, state_type)`"
            )
        self._report = report_fn

    @property
    def report(self) -> Computation:
        """Returns the estimate of a state, `(S -> E)`."""
        return self._report

    def _computations(self) -> dict[str, Computation]:
        return {**super()._computations(), "report": self.report}

    def map(self, fn: Computation) -> "EstimationProcess":
        """The same process with another estimate: `fn` applied to the estimate of this one.

        Args:
          fn: a Computation of the estimate, with the placement that the estimate has.

        Returns:
          A new process with the same `initialize` and `next`, whose `report(state)` is
          `fn(self.report(state))`.

        Raises:
          TypeError: if `fn` is not a Computation.
          EstimateNotAssignableError: if `fn` does not take exactly the result of `report`.

        Example:
          >>> from fedjax_core.computations import computation
          >>> count = EstimationProcess(
          ...     initialize_fn=computation(lambda: 0),
          ...     next_fn=computation(lambda state: state + 1, "int32"),
          ...     report_fn=computation(lambda state: state, "int32"),
          ... )
          >>> squares = count.map(computation(lambda estimate: estimate * estimate, "int32"))
          >>> int(squares.report(3))
          9
        """
        _checks.check_is_computation("fn", fn)
        estimate_type = self.report.type_signature.result
        if not _checks.takes(fn, estimate_type):
            raise errors.EstimateNotAssignableError(
                f"`fn` must take the estimate, {estimate_type}, as its only argument, got the type "
                f"{fn.type_signature}; declare it: `fc.computation(fn, process.report.type_signature.result)`"
            )
        return EstimationProcess(self.initialize, self.next, _composed(fn, self.report))


def _composed(outer: Computation, inner: Computation) -> Computation:
    signatures = (inner.type_signature, outer.type_signature)
    if any(signature.contains("federated") for signature in signatures):
        decorate, first, second = federated_computation, inner, outer
    else:
        decorate, first, second = computation, inner.as_function(), outer.as_function()

    def report(state):
        return second(first(state))

    return decorate(report, signatures[0].parameter)
