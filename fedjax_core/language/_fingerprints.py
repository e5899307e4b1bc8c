"""Fingerprints of the functions of a program, by which two processes compare what they compute."""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fedjax_core.language._graph import Aggregate, Map, Node, ancestors, is_made_by
from fedjax_core.language._placed import traced_map

_OPERATORS = "operators"


def fingerprints(nodes: Iterable[Node]) -> dict[str, str]:
    """Digests of what a program computes, by the names of its functions.

    Two programs have the same fingerprints if they are traced to the same operations with the same constants, such as
    learning rates. The digests depend on the version of JAX.

    Args:
      nodes: the results of the program.

    Returns:
      A digest for each name; that of "operators" is of how the functions are connected.

    Example:

    >>> import fedjax_core as fc
    >>> def scaled(factor):
    ...     def scale(x):
    ...         return factor * x
    ...     @fc.federated_computation(fc.at_clients("float32"))
    ...     def total(values):
    ...         return fc.federated_sum(fc.federated_map(scale, values))
    ...     return total.fingerprints()
    >>> scaled(1.0) == scaled(1.0), scaled(1.0) == scaled(2.0)
    (True, False)
    """
    numbers: dict[Node, int] = {}
    constants: dict[Node, bytes] = {}  # they belong to the functions that take them: a bound to what clips by it
    parts: dict[str, list[bytes]] = {_OPERATORS: []}
    for node in ancestors(nodes):
        numbers[node] = len(numbers)
        operator, taken = _operator(node), [constants[i] for i in node.inputs if i in constants]
        parts[_OPERATORS].append(f"{operator} {[numbers[i] for i in node.inputs]} {node.placement}".encode())
        if is_made_by(node, Map) and not node.operation.structural:
            name = _name(node.operation.fn)
            content = _content(traced_map(node.operation, node.inputs, name).jaxpr)
            if node.inputs:
                parts.setdefault(name, []).append(b"".join([content, *taken]))
            else:
                constants[node] = content
        elif node.inputs and len(taken) == len(node.inputs):
            constants[node] = b"".join([operator.encode(), *taken])
    return {name: _digest(*of) for name, of in parts.items()}


def fingerprint(traced: jax.stages.Traced) -> str:
    """The digest of one function as it was traced."""
    return _digest(_content(traced.jaxpr))


def _digest(*contents: bytes) -> str:
    return hashlib.blake2b(b"\n".join(contents), digest_size=8).hexdigest()


def _name(fn: Any) -> str:
    """The function's name; with its room, if it is one of this package."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", type(fn).__name__)
    package, *rooms = (getattr(fn, "__module__", None) or "").split(".")  # None: a doctest has made it, or `exec`
    return f"{name} ({rooms[0]})" if package == "fedjax_core" and rooms else name


def _operator(node: Node) -> str:
    match node.operation:
        case Map(structural=False):
            return "map"
        case Map() as operation:  # its function selects or combines fields
            return _content(jax.make_jaxpr(operation.fn)(*(i.abstract for i in node.inputs))).hex()
        case Aggregate() as operation:
            functions = jax.make_jaxpr(_two_clients(operation))(node.inputs[0].abstract)
            return f"{operation.name} {_content(functions).hex()}"
        case operation:
            return repr(operation)


def _two_clients(operation: Aggregate):
    """All functions of a reduction in one."""

    def reduce(value):
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], value)
        total = operation.close(operation.accumulate(operation.zero(value), one, None))
        return operation.report(operation.merge(total, total))

    return reduce


def _content(jaxpr: core.ClosedJaxpr) -> bytes:
    """The operations of a function as text, followed by the arrays that it captures, which the text leaves out."""
    text = _without_addresses(str(jaxpr))
    return hashlib.blake2b(b"".join([text.encode(), *map(_bytes, _constants(jaxpr))]), digest_size=16).digest()


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


def _bytes(array: Any) -> bytes:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array).tobytes()


def _constants(jaxpr: Any) -> Iterator[Any]:
    """The arrays in a function and in the functions that it calls."""
    if isinstance(jaxpr, core.ClosedJaxpr):
        yield from jaxpr.consts
        jaxpr = jaxpr.jaxpr
    for equation in jaxpr.eqns:
        yield from (v.val for v in equation.invars if isinstance(v, core.Literal) and np.ndim(v.val))
        for part in jax.tree.leaves(list(equation.params.values())):
            if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
                yield from _constants(part)
