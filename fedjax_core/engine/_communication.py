"""The communication between the server and a client: each array counts once, however often the program packs it."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax

from fedjax_core.engine._plan import Pass, Plan, is_structural
from fedjax_core.language.graph import Broadcast, Map, Node, ancestors
from fedjax_core.types import CLIENTS


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of the program; values that are only views of another have its arrays.

    Attributes:
      node: the value that the array is computed, or given, as a part of.
      position: which of the value's arrays it is, in JAX's order.
      abstract: its shape and dtype.
    """

    node: Node
    position: int
    abstract: Any = dataclasses.field(compare=False)

    @property
    def is_from_server(self) -> bool:
        """Whether a client has the array only if it is sent."""
        return self.node.placement is not CLIENTS


class Size(NamedTuple):
    """A number of bytes; where a dimension is open, a lower bound."""

    num_bytes: int
    is_open: bool


class Communication(NamedTuple):
    """A value that a client receives or sends.

    Attributes:
      node: the value as the clients receive it, or the aggregate or collected value for which it is sent.
      arrays: those of its arrays that have not been communicated before.
      is_complete: whether these are all of its arrays.
    """

    node: Node
    arrays: tuple[Array, ...]
    is_complete: bool


class Exchange(NamedTuple):
    """What a client receives and sends in a pass, or receives after the last one."""

    received: tuple[Communication, ...]
    sent: tuple[Communication, ...]


def exchanges(plan: Plan) -> tuple[Exchange, ...]:
    """One exchange for every pass, and a last one for the results that all clients receive, which need no pass.

    A client keeps what it received in an earlier pass, and sends an array once for all aggregates of a pass.
    """
    arrays = _arrays(plan)
    at_client: set[Array] = set()

    def received(roots: list[Node]) -> tuple[Communication, ...]:
        return tuple(new for new in _new(_from_server(roots, arrays), at_client) if new.arrays)

    def sent(pass_: Pass) -> tuple[Communication, ...]:
        ends = (*pass_.aggregates, *pass_.collected)
        return tuple(_new([(end, arrays[end.inputs[0]]) for end in ends], set()))

    passes = [Exchange(received(client_roots(pass_)), sent(pass_)) for pass_ in plan.passes]
    return (*passes, Exchange(received(equal_results(plan)), ()))


def size_of(communications: Iterable[Communication]) -> Size:
    """The total size of the arrays of these values."""
    abstracts = [array.abstract for communication in communications for array in communication.arrays]
    known = [a for a in abstracts if all(isinstance(d, int) for d in a.shape)]
    # The item size of a dtype of keys is that of their data.
    return Size(sum(math.prod(a.shape) * a.dtype.itemsize for a in known), len(known) < len(abstracts))


def client_roots(pass_: Pass) -> list[Node]:
    """The clients' values that a pass exists to compute."""
    return [*(node.inputs[0] for node in pass_.aggregates), *pass_.materialized]


def equal_results(plan: Plan) -> list[Node]:
    """The results at CLIENTS that are equal at all clients, for which no pass is needed."""
    return [node for node in plan.outputs if node.placement is CLIENTS and not node.per_client]


def values_at_clients(roots: list[Node]) -> list[Node]:
    """The values at CLIENTS that `roots` are made from without another pass, themselves included, inputs first."""
    stack, seen = list(roots), set()
    while stack:
        node = stack.pop()
        if node not in seen and node.placement is CLIENTS:
            seen.add(node)
            stack.extend(node.inputs)
    return [node for node in ancestors(roots) if node in seen]


def _arrays(plan: Plan) -> dict[Node, list[Array]]:
    """The arrays of every value."""
    trees: dict[Node, Any] = {}
    for node in ancestors(plan.outputs):
        trees[node] = _tree(node, [trees[i] for i in node.inputs])
    return {node: jax.tree.leaves(tree) for node, tree in trees.items()}


def _tree(node: Node, inputs: list):
    match node.operation:
        case Broadcast():
            return inputs[0]
        case Map(fn=fn, structural=True):
            return fn(*inputs)
    leaves, structure = jax.tree.flatten(node.abstract)
    return jax.tree.unflatten(structure, [Array(node, i, leaf) for i, leaf in enumerate(leaves)])


def _from_server(roots: list[Node], arrays: dict) -> Iterator[tuple[Node, list[Array]]]:
    """The server's values that clients' values are made from, each with those of its arrays that are used."""
    stack = [(node, set(arrays[node])) for node in reversed(roots)]
    seen = set()
    while stack:
        node, wanted = stack.pop()
        used = [a for a in arrays[node] if a in wanted]
        if not used:
            continue
        if all(a.is_from_server for a in arrays[node]):
            yield node, used
        elif is_structural(node):
            stack.extend((i, set(used)) for i in reversed(node.inputs))
        elif node not in seen:
            seen.add(node)
            stack.extend((i, set(arrays[i])) for i in reversed(node.inputs))


def _new(values: Iterable[tuple[Node, list[Array]]], known: set[Array]) -> Iterator[Communication]:
    """The arrays of each value that are not `known` yet, which are added to `known`."""
    for node, used in values:
        new = tuple(dict.fromkeys(a for a in used if a not in known))
        known.update(new)
        yield Communication(node, new, len(new) == len(set(used)))
