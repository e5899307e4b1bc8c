"""The iterative process: an initial state and the step from one state to the next."""

from fedjax_core.computations import Computation, plan_text, signature_text
from fedjax_core.templates import _checks
from fedjax_core.types import FederatedType, Type, laid_out


class IterativeProcess:
    """An initial state and the step from one state to the next.

    `initialize: ( -> S)` returns the initial state, and `next` takes a state and returns the next one.
    `next` may take more arguments after the state, and may return more results after it: `(S -> S)`,
    `(<S,...> -> S)`, `(S -> <S,...>)` or `(<S,...> -> <S,...>)`. A process holds no state itself.

    Attributes:
      initialize: the Computation passed as `initialize_fn`.
      next: the Computation passed as `next_fn`.
      state_type: the type of the state as `next` takes it. It may be more general than the type of
        the initial state, such as `int32[?]` for the initial state `int32[0]`.

    Example:
      >>> from fedjax_core.computations import computation
      >>> count = IterativeProcess(computation(lambda: 0), computation(lambda state: state + 2, "int32"))
      >>> count
      IterativeProcess(initialize=( -> int32), next=(int32 -> int32))
      >>> state = count.initialize()
      >>> for _ in range(3):
      ...     state = count.next(state)
      >>> int(state), str(count.state_type)
      (6, 'int32')
    """

    _takes_data = False

    def __init__(self, initialize_fn: Computation, next_fn: Computation):
        """Checks that the two computations fit together.

        Args:
          initialize_fn: a Computation without arguments that returns the initial state.
          next_fn: a Computation whose whole parameter or first argument is the state, and whose
            whole result or first result is the next state.

        Raises:
          TypeError: if `initialize_fn` is not a Computation.
          TemplateInitFnParamNotEmptyError: if it takes an argument.
          TypeError: if `next_fn` is not a Computation.
          TemplateNextFnNumArgsError: if it takes no argument.
          TemplateStateNotAssignableError: if the initial state is assignable neither to the whole
            parameter of `next_fn` nor to its first element, or neither the whole result of
            `next_fn` nor its first element is assignable to that state.
        """
        self._state_type = _checks.check_iteration(initialize_fn, next_fn, self._takes_data)
        self._initialize = initialize_fn
        self._next = next_fn

    @property
    def initialize(self) -> Computation:
        """Returns the initial state, `( -> S)`."""
        return self._initialize

    @property
    def next(self) -> Computation:
        """Returns the next state, and any further results, from the state and any further arguments."""
        return self._next

    @property
    def state_type(self) -> Type:
        """The type of the state as `next` takes it."""
        return self._state_type

    def describe(self) -> str:
        """A text with the type of each computation and how `next` runs (see `Computation.describe`).

        A letter stands for a long type and is explained below the types: `S` for the state and, in a learning
        process, `W` for the model weights and `M` for the metrics.

        Example:
          >>> from fedjax_core.computations import computation
          >>> count = IterativeProcess(computation(lambda: 0), computation(lambda state: state + 2, "int32"))
          >>> print(count.describe())
          initialize: ( -> int32)
          next: (int32 -> int32)
          <BLANKLINE>
          next
          one function, without placements
        """
        return description(self._computations(), self._letters())

    def _computations(self) -> dict[str, Computation]:
        return {"initialize": self.initialize, "next": self.next}

    def _letters(self) -> dict[str, Type]:
        """The types that have a letter in the description."""
        return {"S": self.state_type}

    def __repr__(self) -> str:
        parts = f"initialize={self.initialize.type_signature}, next={self.next.type_signature}"
        return f"{type(self).__name__}({parts})"


def description(computations: dict[str, Computation], letters: dict[str, Type]) -> str:
    """The types of a process's computations and the plan of its `next`, as a text.

    Args:
      computations: a dict from name to computation; one is `next`.
      letters: the letter of each type, or of the member of a federated type, which replaces it if it is long.
    """
    members = {letter: t.member if isinstance(t, FederatedType) else t for letter, t in letters.items()}
    names = {t: letter for letter, t in reversed(members.items()) if len(str(t)) > 30}
    signatures = [signature_text(name, fn, names) for name, fn in computations.items()]
    definitions = [_definition(t, names) for letter, t in members.items() if names.get(t) == letter]
    plan = plan_text(computations["next"], names)
    return "\n".join([*signatures, *(["where", *definitions] if definitions else []), "", "next", plan])


def _definition(type_: Type, names: dict[Type, str]) -> str:
    others = {t: letter for t, letter in names.items() if t != type_}
    return f"  {names[type_]} = {laid_out(type_, others, start=6, indent=2)}"
