"""Evaluation: the values of nodes from the values of other nodes."""

import jax

from fedjax_core.language import TrimmedRows
from fedjax_core.language.graph import Map, Node, Trim, strong


def evaluate(roots: tuple[Node, ...], known: dict[Node, object]) -> list:
    """The values of `roots`.

    Args:
      roots: nodes.
      known: the values of the nodes where the evaluation starts. It is not changed.

    Returns:
      One value per root.
    """
    values = dict(known)
    return [_value(root, values) for root in roots]


def _value(root: Node, values: dict):
    stack = [root]
    while stack:
        node = stack[-1]
        if node in values:
            stack.pop()
            continue
        missing = [i for i in node.inputs if i not in values]
        if missing:
            stack.extend(reversed(missing))
            continue
        values[node] = _apply(node, [values[i] for i in node.inputs])
        stack.pop()
    return values[root]


def _apply(node: Node, inputs: list):
    if isinstance(node.operation, Map):
        # Strong, as in the inference of types: a result of a weak dtype would not promote as its type says.
        result = node.operation.fn(*inputs)
        return result if node.operation.structural else strong(result)
    if isinstance(node.operation, Trim):
        value, count = inputs
        return jax.tree.map(lambda rows: TrimmedRows(rows, count), value)
    (value,) = inputs  # a broadcast: the same value, seen from the clients
    return value
