"""Nodes applied to other inputs, by which a computation becomes part of another."""

import dataclasses

from fedjax_core.language._abstract import trimmed
from fedjax_core.language._aggregation import collected
from fedjax_core.language._graph import Aggregate, Broadcast, Collect, Map, Node, Trim
from fedjax_core.language._placed import derive, infer_map, refuse_trimmed
from fedjax_core.language._reductions import aggregated


def replaced(node: Node, nodes: dict[Node, Node]) -> Node:
    """`node` with its inputs replaced.

    Args:
      node: a node that is not a parameter.
      nodes: the replacement of each node that `node` depends on.

    Raises:
      TypeError: a function cannot be applied to the types of the replacements.
    """
    inputs = tuple(nodes[i] for i in node.inputs)
    check = node.check and dataclasses.replace(node.check, count=nodes[node.check.count])
    # A node that does not depend on the arguments stays one node, computed once however often its computation is
    # inlined.
    if inputs == node.inputs:
        return node
    is_map = isinstance(node.operation, Map)
    all_equal = all(i.all_equal for i in inputs) if is_map else node.all_equal
    return derive(
        node.operation, inputs, _abstract(node, inputs), placement=node.placement, all_equal=all_equal, check=check
    )


def _abstract(node: Node, inputs: tuple[Node, ...]):
    match node.operation:
        case Map():
            return infer_map(node.operation, inputs, "federated_map")
        case Aggregate():
            return aggregated(node.operation, inputs[0].abstract)
        case Collect():
            return collected(node.operation, inputs[0].abstract)
        case Broadcast():
            refuse_trimmed("federated_broadcast", inputs)
            return inputs[0].abstract
        case Trim():
            refuse_trimmed("federated_trim", inputs)
            return trimmed(inputs[0].abstract)
    return node.abstract
