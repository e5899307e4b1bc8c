"""The graph of a federated program: nodes with a placement, and the operations that make them."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeGuard, TypeVar

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.types import CLIENTS, Placement

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# With the separator: without it a user's own folder `fedjax_core_experiments` would count as part of this package.
_FOLDERS = tuple(folder + os.sep for folder in (_PACKAGE, *map(os.path.dirname, (jax.__file__, np.__file__))))


@dataclasses.dataclass(frozen=True, eq=False)
class Parameter:
    """An argument of the computation (or one placed leaf of an argument that is a struct)."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Map:
    """A pure function of the inputs, applied where they are.

    Attributes:
      fn: the function, with one argument per input.
      structural: whether it only takes pytrees apart or puts them together (there is nothing to compile).
      ranges: of the identity of `in_ranges`, the integers that the fields of its input may hold.
      inferred: the function as it was traced, by abstract inputs, so that inlining a computation does not
        trace its functions again.
    """

    fn: Callable
    structural: bool = False
    ranges: tuple = ()
    inferred: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Broadcast:
    """The server's value at every client."""


@dataclasses.dataclass(frozen=True, eq=False)
class Aggregate:
    """A reduction over the clients, in a form that can be split between any two groups of clients.

    Attributes:
      name: the operator, for error messages and descriptions.
      zero: `value -> running`, what no client has added to, for client values of these shapes (it reads no entry).
      accumulate: `(running, values [L, ...], valid bool [L] | None) -> running`, takes
        the values of `L` lanes in order; a lane whose `valid` is False is empty.
      merge: `(accumulator, accumulator) -> accumulator`, associative.
      report: `accumulator -> result`.
      close: `running -> accumulator`, after a few clients; the accumulator may be a more exact form.
      sums: what `joint_sums` needs of a sum of every leaf; None for other reductions.
    """

    name: str
    zero: Callable
    accumulate: Callable
    merge: Callable
    report: Callable
    close: Callable = lambda running: running
    sums: tuple | None = None

    def empty(self, value):
        """The accumulator of no clients, for client values of these shapes."""
        return self.close(self.zero(value))


@dataclasses.dataclass(frozen=True, eq=False)
class Collect:
    """All clients' values at the server, stacked in cohort order.

    Attributes:
      padded: whether rows of zeros follow, and with them a mask of the rows that are clients.
    """

    padded: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Trim:
    """The first rows of the first input, as many as the second input says. The host trims them, not a program."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClientIdentity:
    """uint32 `[2]` at every client: the two halves of its identity."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClientIndex:
    """int32 at every client: its row in the population.

    Attributes:
      rows: the number of rows of the table that it addresses, one for each client of the population; None if it
        addresses no table.
    """

    rows: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ClientValue:
    """Side information of every client, at every client.

    Attributes:
      name: the name of the value in the cohort's `extra`.
    """

    name: str


Operation = Parameter | Map | Broadcast | Aggregate | Collect | Trim | ClientIdentity | ClientIndex | ClientValue
Made = TypeVar("Made", bound=Operation)


@dataclasses.dataclass(frozen=True, eq=False)
class Check:
    """A count that a pass computes; the host raises an error unless it is zero.

    Attributes:
      count: the node (int32 at the server) that counts what broke the rule, such as clients.
      message: `count -> str`, the text of the error.
      reported: whether `as_function`, which cannot raise an error, returns a `CheckedResult` because of this check.
    """

    count: "Node"
    message: Callable[[int], str]
    reported: bool = True


# Equal by identity: a comparison or `repr` by fields would walk the whole graph below, and a shared node once per path.
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Node(Generic[Made]):
    """One value of a federated program.

    Attributes:
      operation: the operation that makes it.
      inputs: the nodes that the operation takes.
      abstract: the member as a pytree of `ShapeDtypeStruct` and abstract `ClientBatches`.
      placement: `SERVER`, `CLIENTS`, or None for an argument without a placement.
      all_equal: whether all members are known to be the same value.
      location: the user's `file:line`.
      check: the check that this value must pass, if any.
    """

    operation: Made
    inputs: tuple["Node", ...]
    abstract: Any
    placement: Placement | None
    all_equal: bool
    location: str
    check: Check | None = None

    @functools.cached_property
    def member_type(self) -> types.Type:
        """The type of the value at one place."""
        return types.type_of(self.abstract)

    @functools.cached_property
    def type(self) -> types.Type:
        """The type with the placement."""
        member = self.member_type
        return member if self.placement is None else types.FederatedType(member, self.placement, self.all_equal)

    @property
    def per_client(self) -> bool:
        """Whether the value may differ between clients; such a value exists only inside a pass."""
        return self.placement is CLIENTS and not self.all_equal


def ancestors(nodes) -> Iterator[Node]:
    """All nodes that `nodes` depend on, and `nodes` themselves, each after its inputs.

    Example: the graph of a mean, whose weight is 1.

    >>> import fedjax_core as fc
    >>> from fedjax_core.language.graph import node_of
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def mean(values):
    ...     result = fc.federated_mean(values)
    ...     print([type(node.operation).__name__ for node in ancestors([node_of(result)])])
    ...     return result
    ['Parameter', 'Map', 'Map', 'Aggregate', 'Map']
    """
    # Without recursion, since a chain of operators may be longer than Python's recursion limit.
    seen = set()
    stack = [(node, False) for node in reversed(list(nodes))]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((i, False) for i in reversed(dependencies(node)) if i not in seen)


def is_made_by(node: Node, operation: type[Made]) -> TypeGuard[Node[Made]]:
    """Whether a node is made by an operation of this class."""
    return isinstance(node.operation, operation)


def dependencies(node: Node) -> tuple[Node, ...]:
    """The inputs of a node and the count of its check."""
    return node.inputs if node.check is None else (*node.inputs, node.check.count)


def user_location() -> str:
    """`file:line` (in a notebook `cell:line`) of the innermost frame outside this package, JAX and NumPy."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_FOLDERS):
        frame = frame.f_back
    return _location(frame.f_code.co_filename, frame.f_lineno)


def raised_at(error: Exception) -> str:
    """Like `user_location`, for the place where an error was raised."""
    lines = [(t.tb_frame.f_code.co_filename, t.tb_lineno) for t in _tracebacks(error.__traceback__)]
    return _location(*next((line for line in reversed(lines) if not line[0].startswith(_FOLDERS)), lines[-1]))


def _tracebacks(traceback):
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _location(file: str, line: int) -> str:
    return f"{'cell' if 'ipykernel_' in file else file}:{line}"
