"""A plan in words."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import jax

from fedjax_core import types
from fedjax_core.engine._communication import (
    Array,
    Communication,
    Exchange,
    Size,
    client_roots,
    equal_results,
    exchanges,
    size_of,
    values_at_clients,
)
from fedjax_core.engine._plan import Pass, Plan, ServerPhase, is_pass_result, is_structural
from fedjax_core.language.graph import Aggregate, ClientIndex, ClientValue, Collect, Map, Node, Parameter
from fedjax_core.types import CLIENTS, shortened

_Names = Mapping[types.Type, str]


def describe(plan: Plan, names: _Names, num_leaves: int) -> str:
    """The phases and passes of a plan: what is computed where, what is communicated, and how large it is.

    Args:
      plan: the plan.
      names: the names to write in place of some types.
      num_leaves: the number of virtual shards, `V`.
    """
    lines = []
    *of_passes, at_the_end = exchanges(plan)
    computed_before: set[Node] = set()
    brought_before: set[str] = set()
    for phase, pass_, exchange in itertools.zip_longest(plan.phases, plan.passes, of_passes):
        lines += _phase_lines(phase, names)
        if pass_ is not None:
            work = _work(client_roots(pass_))
            shards = f" ({num_leaves} virtual shard{'s' * (num_leaves > 1)})" if pass_.aggregates else ""
            lines.append(f"pass {plan.passes.index(pass_) + 1} over the clients{shards}")
            lines += _brought_lines(pass_, brought_before, names)
            lines += _pass_lines(pass_, exchange, work, computed_before, names)
            computed_before |= set(work)
    results = [*_received_lines(at_the_end, _work(equal_results(plan)), computed_before, names)]
    lines += ["results at the clients", *results] if results else []
    return "\n".join([*lines, *_total_lines(of_passes, at_the_end)])


def _phase_lines(phase: ServerPhase, names: _Names) -> list[str]:
    computed = [n for n in phase.outputs if not is_pass_result(n) and n.placement is not CLIENTS]
    work = [n for n in computed if jax.tree.leaves(n.abstract)]
    return ["server", *(f"  computes {_named(n, names)}" for n in work)] if work else []


def _pass_lines(pass_: Pass, exchange: Exchange, work, computed_before: set, names: _Names) -> Iterator[str]:
    yield from _received_lines(exchange, work, computed_before, names)
    for communication in exchange.sent:
        node = communication.node
        operator = node.operation.name if isinstance(node.operation, Aggregate) else "federated_collect"
        yield f"  sends {_line(communication, node.inputs[0].member_type, names, operator + ' of ')}"
    collected = {node.inputs[0] for node in pass_.collected}
    for node in pass_.materialized:
        if node not in collected:
            yield f"  keeps {shortened(node.member_type, names)}"


def _brought_lines(pass_: Pass, brought_before: set[str], names: _Names) -> Iterator[str]:
    """The values that accompany the clients' data in the cohort, once for each name."""
    for node in values_at_clients(client_roots(pass_)):
        if isinstance(node.operation, ClientValue) and node.operation.name not in brought_before:
            brought_before.add(node.operation.name)
            size = Size(math.prod(node.abstract.shape) * node.abstract.dtype.itemsize, False)
            yield f"  brings {_bytes(size)}: {shortened(node.member_type, names)} ({node.operation.name})"


def _received_lines(exchange: Exchange, work, computed_before: set, names: _Names) -> Iterator[str]:
    for communication in exchange.received:
        yield f"  receives {_line(communication, communication.node.member_type, names)}"
    for node in work:
        yield f"  computes {_named(node, names)}" + (", again" if node in computed_before else "")


def _work(roots: list[Node]) -> list[Node]:
    """The values that the clients compute for `roots`, without constants, which are there before."""
    maps = [n for n in values_at_clients(roots) if isinstance(n.operation, Map) and not is_structural(n)]
    return [n for n in maps if (n.inputs or n.per_client) and jax.tree.leaves(n.abstract)]


def _total_lines(of_passes: list[Exchange], at_the_end: Exchange) -> list[str]:
    named = [(f"pass {k + 1}", exchange) for k, exchange in enumerate(of_passes)]
    named += [("results", at_the_end)] if at_the_end.received else []
    if not named:
        return ["nothing is communicated"]
    received, sent = zip(*(exchange for _, exchange in named))
    total = Exchange(tuple(itertools.chain(*received)), tuple(itertools.chain(*sent)))
    if len(named) == 1:
        return [f"per client: {_traffic(total)}"]
    return ["per client", *(f"  {name}: {_traffic(e)}" for name, e in [*named, ("in all", total)])]


def _traffic(exchange: Exchange) -> str:
    received, sent = size_of(exchange.received), size_of(exchange.sent)
    return f"receives {_bytes(received)}{_exact(received)}, sends {_bytes(sent)}{_exact(sent)}"


def _line(communication: Communication, type_: types.Type, names: _Names, operator: str = "") -> str:
    origin = _origin(communication.arrays)
    rest = "" if communication.is_complete else ", the rest is there" if communication.arrays else ", there already"
    size = _bytes(size_of([communication]))
    return f"{size}: {operator}{shortened(type_, names)}{f' ({origin})' if origin else ''}{rest}"


def _origin(arrays: Iterable[Array]) -> str:
    """Where arrays come from, in Python's notation, such as `state.weights`; empty if they come from several values."""
    nodes = {array.node for array in arrays}
    if len(nodes) != 1:
        return ""
    (node,) = nodes
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(node.abstract)[0]]
    places = zip(*(paths[array.position] for array in arrays))
    common = tuple(keys[0] for keys in itertools.takewhile(lambda keys: len(set(keys)) == 1, places))
    return _made_by(node) + jax.tree_util.keystr(common)


def _made_by(node: Node) -> str:
    """The name of the argument, function or operator that makes a value."""
    match node.operation:
        case Parameter(name) | Aggregate(name):
            return name
        case Map(fn):
            while isinstance(fn, functools.partial):
                fn = fn.func
            name = getattr(fn, "__name__", "a function")
            return "a constant" if name == "<lambda>" and not node.inputs else name
        case Collect():
            return "federated_collect"
        case ClientIndex():
            return "federated_client_index"
        case ClientValue(name):
            return name
    raise AssertionError(f"nothing is communicated that is made by {node.operation}")


def _named(node: Node, names: _Names) -> str:
    return f"{_made_by(node)} -> {shortened(node.member_type, names)}"


_EXACT_BELOW = 10_000


def _bytes(size: Size) -> str:
    """A size in words, with three digits and units of 1000."""
    number, unit = float(size.num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if number < (_EXACT_BELOW if unit == "B" else 999.5):
            break
        number, unit = number / 1000, larger
    digits = 0 if unit == "B" or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{'at least ' if size.is_open else ''}{number:,.{digits}f} {unit}"


def _exact(size: Size) -> str:
    """The exact number in parentheses where `_bytes` rounds it, otherwise empty."""
    return f" ({size.num_bytes:,} B)" if size.num_bytes >= _EXACT_BELOW else ""
