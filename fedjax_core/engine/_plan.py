"""The plan: a graph cut into as few passes over the clients as possible.

A value at the server has a *level*: the number of passes that must have run before it exists. An
argument has level 0; a value computed from an aggregate of clients' values of level `k` has level
`k + 1`. Pass `k` feeds every aggregate of that level at once. If a pass needs a client's value of an
earlier level, it computes that value again, since functions are pure.
"""

import dataclasses
import functools

import jax

from fedjax_core import types
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.language.graph import (
    Aggregate,
    Check,
    ClientIndex,
    ClientValue,
    Collect,
    IntegerRange,
    Map,
    Node,
    Parameter,
    ancestors,
    is_made_by,
    joint_sums,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """One pass over the clients.

    Attributes:
      aggregates: the nodes that the pass reduces.
      collected: the nodes at the server that stack a value of all clients.
      materialized: the client values that the pass keeps, one row per client: those to be collected, and
        the results at CLIENTS.
      server_inputs: the server's values that its clients read.
    """

    aggregates: tuple[Node[Aggregate], ...]
    collected: tuple[Node[Collect], ...]
    materialized: tuple[Node, ...]
    server_inputs: tuple[Node, ...]

    @functools.cached_property
    def reductions(self) -> tuple[tuple[Aggregate, tuple[Node[Aggregate], ...]], ...]:
        """The aggregates as they are computed: all sums as one reduction, of the tuple of their values.

        Each is `(operation, nodes)`; the operation takes and reports a tuple with an entry for each node.
        """
        sums = tuple(n for n in self.aggregates if n.operation.sums is not None)
        others = tuple((_of_tuple(n.operation), (n,)) for n in self.aggregates if n not in sums)
        return ((joint_sums(tuple(n.operation for n in sums)), sums), *others) if sums else others


@dataclasses.dataclass(frozen=True, eq=False)
class ServerPhase:
    """The server's work between two passes, one program.

    Attributes:
      inputs: the values it reads: arguments, results of earlier phases, and aggregates and collected
        values of the pass before it.
      outputs: the values that are read later.
      is_read: per output, which of its leaves are read later.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    is_read: tuple[tuple[bool, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Phases and passes in turn: `phases[0], passes[0], phases[1], ..., phases[-1]`.

    Attributes:
      parameters: the arguments, in order.
      outputs: the results.
      checks: the counts that the host refuses unless they are zero.
      phases: the server's work.
      passes: the clients' work.
    """

    parameters: tuple[Node[Parameter], ...]
    outputs: tuple[Node, ...]
    checks: tuple[Check, ...]
    phases: tuple[ServerPhase, ...]
    passes: tuple[Pass, ...]

    @functools.cached_property
    def client_parameters(self) -> tuple[Node[Parameter], ...]:
        """The arguments of which every client has its own value."""
        return tuple(p for p in self.parameters if p.per_client)

    @functools.cached_property
    def client_values(self) -> tuple[Node[ClientValue], ...]:
        """What the program reads from the clients besides the arguments, in order; a name may occur more than once."""
        return tuple(n for n in ancestors(self.outputs) if is_made_by(n, ClientValue))

    @functools.cached_property
    def client_indices(self) -> tuple[Node[ClientIndex], ...]:
        """The nodes where the program reads the clients' rows in the population."""
        return tuple(n for n in ancestors(self.outputs) if is_made_by(n, ClientIndex))

    @functools.cached_property
    def ranges(self) -> tuple[tuple[IntegerRange, ...], ...]:
        """For each of `client_parameters`, the integers that its fields may hold."""
        checked = [n for n in ancestors(self.outputs) if is_made_by(n, Map) and n.operation.ranges]

        def of(parameter: Node) -> tuple[IntegerRange, ...]:
            ranges = [r for n in checked if _same_value(n.inputs[0]) is parameter for r in n.operation.ranges]
            return tuple(dict.fromkeys(ranges))

        return tuple(map(of, self.client_parameters))

    @functools.cached_property
    def extra(self) -> tuple[str, ...]:
        """The names of `client_values`, each once."""
        return tuple(dict.fromkeys(n.operation.name for n in self.client_values))


def _same_value(node: Node) -> Node:
    """The node whose value this one has, perhaps in other containers."""
    while is_made_by(node, Map) and node.operation.structural and len(node.inputs) == 1:
        if not isinstance(node.inputs[0].member_type, types.SequenceType):
            break  # a field of a struct is another value
        (node,) = node.inputs
    return node


def _of_tuple(operation: Aggregate) -> Aggregate:
    """The same reduction of a tuple of one value."""
    return dataclasses.replace(
        operation,
        zero=lambda values: operation.zero(*values),
        accumulate=lambda running, values, valid: operation.accumulate(running, *values, valid),
        report=lambda accumulator: (operation.report(accumulator),),
    )


def plan_of(parameters: tuple[Node[Parameter], ...], outputs: tuple[Node, ...]) -> Plan:
    """Cuts the graph of `outputs` into phases and passes."""
    nodes = tuple(ancestors(outputs))
    checks = tuple(node.check for node in nodes if node.check is not None)
    levels = _levels(nodes)
    wanted = (*outputs, *(check.count for check in checks))
    number = max((_passes_needed(n, levels) for n in nodes if is_pass_result(n) or n in outputs), default=0)
    passes = tuple(_pass(k, nodes, levels, outputs) for k in range(number))
    read_later = _read_later(nodes, levels, wanted, passes)
    phases = tuple(_phase(k, levels, read_later) for k in range(number + 1))
    return Plan(parameters, outputs, checks, phases, passes)


def _levels(nodes) -> dict[Node, int]:
    levels = {}
    for node in nodes:
        level = max((levels[i] for i in node.inputs), default=0)
        levels[node] = level + 1 if is_pass_result(node) else level
    return levels


def is_pass_result(node: Node) -> bool:
    """Whether a node at the server is the result of a pass: an aggregate or a collected value."""
    return isinstance(node.operation, Aggregate | Collect)


def _passes_needed(node: Node, levels) -> int:
    return levels[node] + 1 if node.per_client else levels[node]


def _pass(k: int, nodes, levels, outputs) -> Pass:
    ending = [n for n in nodes if is_pass_result(n) and levels[n] == k + 1]
    aggregates = tuple(n for n in ending if is_made_by(n, Aggregate))
    collected = tuple(n for n in ending if is_made_by(n, Collect))
    results = [n for n in outputs if n.per_client and levels[n] == k]
    materialized = tuple(dict.fromkeys([*(n.inputs[0] for n in collected), *results]))
    roots = [*(n.inputs[0] for n in aggregates), *materialized]
    return Pass(aggregates, collected, materialized, tuple(dict.fromkeys(_server_inputs(roots))))


def _server_inputs(roots):
    """The values, at the server or equal at all clients, from which the client values `roots` are computed."""
    stack, seen = list(reversed(roots)), set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.per_client:
            stack.extend(reversed(node.inputs))
        else:
            yield node


def is_structural(node: Node) -> bool:
    """Whether a value is only another view of its inputs, which costs nothing to make."""
    return not isinstance(node.operation, Aggregate | Collect | Parameter) and (
        not isinstance(node.operation, Map) or node.operation.structural
    )


def _available(node: Node):
    """The computed nodes, arguments included, of which a server value is a view."""
    stack, seen = [node], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_structural(node):
            stack.extend(reversed(node.inputs))
        else:
            yield node


def _read_later(nodes, levels, wanted, passes) -> dict[Node, tuple[bool, ...]]:
    """The server's values that must outlive their phase, in order, and which leaves of each are read."""
    roots = [*(n for n in wanted if not n.per_client), *(n for p in passes for n in p.server_inputs)]
    read = dict.fromkeys(a for root in roots for a in _available(root))
    for node in nodes:
        if not (node.per_client or is_pass_result(node) or is_structural(node)):
            for i in node.inputs:
                earlier = [a for a in _available(i) if levels[a] < levels[node]]
                read.update(dict.fromkeys(earlier))
                roots += [i] if earlier else []
    return _leaves_read(roots, read)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """Stands for one leaf of a node's value."""

    node: Node
    position: int


def _leaves_read(roots, read) -> dict[Node, tuple[bool, ...]]:
    """Which leaves of the nodes `read` the values `roots` are views of."""
    available = {n for root in roots for n in _available(root)}
    structures = {n: jax.tree.structure(n.abstract) for n in available}
    places = {n: s.unflatten([_Leaf(n, i) for i in range(s.num_leaves)]) for n, s in structures.items()}
    leaves = set(jax.tree.leaves(evaluate(tuple(roots), places)))
    return {n: tuple(_Leaf(n, i) in leaves for i in range(structures[n].num_leaves)) for n in read}


def _phase(k: int, levels, read_later) -> ServerPhase:
    # Rows of clients are there already, and a program that passed them on would be compiled for each number of them.
    computed = [n for n in read_later if levels[n] == k and not isinstance(n.operation, Parameter | Collect)]
    inputs = {}
    stack, seen = list(reversed(computed)), set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.operation, Parameter) or levels[node] < k or is_pass_result(node):
            inputs.update(dict.fromkeys(_available(node) if levels[node] < k else [node]))
        else:
            stack.extend(reversed(node.inputs))
    return ServerPhase(tuple(inputs), tuple(computed), tuple(read_later[n] for n in computed))
