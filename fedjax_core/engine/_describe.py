"""A plan in words."""

from collections.abc import Iterable

from fedjax_core.engine._plan import Pass, Plan, Stage, is_pass_result, is_structural
from fedjax_core.language._graph import Map, Node, ancestors


def describe(plan: Plan) -> str:
    """The stages and passes of a plan: what crosses the placements and what is computed where."""
    lines = []
    computed_before: set[Node] = set()
    for k, stage in enumerate(plan.stages):
        lines += _stage_lines(stage)
        if k < len(plan.passes):
            lines += [f"pass {k + 1} over the clients", *_pass_lines(plan.passes[k], computed_before)]
            computed_before |= set(_client_work(plan.passes[k]))
    return "\n".join(lines)


def _stage_lines(stage: Stage) -> list[str]:
    work = [n for n in stage.outputs if not is_pass_result(n)]
    return ["server", *(f"  computes {_named(n)}" for n in work)] if work else []


def _pass_lines(pass_: Pass, computed_before: set) -> Iterable[str]:
    yield from (f"  receives {n.member_type}" for n in pass_.server_inputs)
    for node in _client_work(pass_):
        yield f"  computes {_named(node)}" + (", again" if node in computed_before else "")
    for node in pass_.aggregates:
        yield f"  {node.operation.name} of {node.inputs[0].member_type}"
    for node in pass_.materialized:
        yield f"  keeps {node.member_type} of every client"


def _client_work(pass_: Pass) -> list[Node]:
    roots = [*(n.inputs[0] for n in pass_.aggregates), *pass_.materialized]
    return [n for n in ancestors(roots) if n.per_client and isinstance(n.operation, Map) and not is_structural(n)]


def _named(node: Node) -> str:
    name = getattr(node.operation.fn, "__name__", "a function")
    return f"{name} -> {node.member_type}"
