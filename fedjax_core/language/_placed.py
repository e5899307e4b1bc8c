"""Placed values: the arguments of a federated computation, as its function sees them."""

import contextlib
from typing import ClassVar, overload

import jax
import numpy as np

from fedjax_core import _checks, types
from fedjax_core.language._abstract import is_trimmed, traced
from fedjax_core.language._graph import Map, Node, raised_at, user_location
from fedjax_core.types import Placement


class Placed:
    """A value at a placement, inside a federated computation.

    It knows its type and gives access to its fields (`state.weights`, `pair["loss"]`, `pair[0]`,
    slices, unpacking); the `federated_*` operators do everything else.

    Attributes:
      fedjax_type: the type, for example `float32[3]@SERVER`.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_server("<total=float32,count=int32>"))
    ... def mean(state):
    ...     print(state, state.count, state["count"], state[-1])
    ...     return fc.federated_map(lambda total, count: total / count, state.total, state.count)
    Placed(<total=float32,count=int32>@SERVER) Placed(int32@SERVER) Placed(int32@SERVER) Placed(int32@SERVER)
    """

    __slots__ = ("_node",)
    # Python sets this to None itself only if `__eq__` is in the class body; here the operators are set after it.
    __hash__: ClassVar[None] = None

    def __init__(self, node: Node):
        object.__setattr__(self, "_node", node)

    @property
    def fedjax_type(self) -> types.Type:
        """The type, with the placement."""
        return self._node.type

    def __repr__(self) -> str:
        return f"Placed({self._node.type})"

    def __getattr__(self, name: str) -> "Placed":
        # Python, NumPy and JAX look up protocols by such names; only an AttributeError means "not supported" to them.
        if name.startswith("__"):
            raise AttributeError(name)
        return self._select(name)

    @overload
    def __getitem__(self, key: int | str) -> "Placed": ...
    @overload
    def __getitem__(self, key: slice) -> tuple["Placed", ...]: ...
    def __getitem__(self, key):
        if isinstance(key, slice):
            struct = self._struct(f"select {key!r}")
            return tuple(self._select(i) for i in range(len(struct))[key])
        return self._select(key)

    def __iter__(self):
        return (self._select(i) for i in range(len(self)))

    def __len__(self) -> int:
        return len(self._struct("unpack it"))

    def __setattr__(self, name, value):
        raise TypeError(f"a placed value cannot be changed; return a new struct with {name!r} from federated_map")

    def _struct(self, action: str) -> types.StructType:
        member = self._node.member_type
        if not isinstance(member, types.StructType):
            raise TypeError(
                f"cannot {action}: {self._node.type} has no fields. To compute with it write "
                "fc.federated_map(lambda value: ..., value)"
            )
        return member

    def _select(self, key) -> "Placed":
        struct = self._struct(f"select {key!r}")
        names = struct.names
        if isinstance(key, str) and key in names:
            position = names.index(key)
        elif isinstance(key, int | np.integer) and -len(names) <= key < len(names):
            position = int(key) % len(names)
        else:
            fields = ", ".join(repr(n) if n else str(i) for i, n in enumerate(names)) or "none"
            error = AttributeError if isinstance(key, str) else IndexError
            raise error(f"{self._node.type} has no field {key!r}; its fields: {fields}")
        operation = Map(lambda value: _children(value)[position], structural=True)
        return Placed(derive(operation, (self._node,), operation.fn(self._node.abstract)))

    def __bool__(self):
        raise _refuse("bool()", "fc.federated_map(lambda value: jnp.where(value, ..., ...), value)")

    def __array__(self, *args, **kwargs):
        raise _refuse("a NumPy function", _USE_MAP)

    def __jax_array__(self):
        raise _refuse("a JAX function", _USE_MAP)


def _children(value) -> list:
    return jax.tree.leaves(value, is_leaf=lambda child: child is not value)


_USE_MAP = "fc.federated_map(lambda value: jnp.sum(value), value)"


def _refuse(what: str, repaired: str, location: str | None = None) -> TypeError:
    return TypeError(
        f"{what} was applied to a placed value at {location or user_location()}: it has no content while the program "
        f"is built. Write {repaired}"
    )


@contextlib.contextmanager
def explained():
    """Replaces the various errors that JAX raises for a placed value by the one of `_refuse`.

    Raises:
      TypeError: a JAX function got a placed value.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if not is_about_placed(error):
            raise
        raise _refuse("a JAX function", _USE_MAP, raised_at(error)) from None


def is_about_placed(error: Exception) -> bool:
    """Whether JAX raised an error because it got a placed value."""
    return any(mark in str(error) for mark in ("_placed.Placed", "__jax_array__"))


def _operator(call: str, operands: int):
    names = "a, b" if operands == 2 else "value"

    def refuse(self, *others):
        raise _refuse(f"`{call}`", f"fc.federated_map(lambda {names}: {call}, {names})")

    return refuse


_BINARY = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
}  # fmt: skip
_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_UNARY = {"neg": "-value", "pos": "+value", "abs": "abs(value)", "invert": "~value", "round": "jnp.round(value)"}
_CONVERSIONS = {"float": "float32", "int": "int32", "complex": "complex64", "index": "int32"}

for _name, _symbol in _BINARY.items():
    setattr(Placed, f"__{_name}__", _operator(f"a {_symbol} b", 2))
    setattr(Placed, f"__r{_name}__", _operator(f"a {_symbol} b", 2))
for _name, _symbol in _COMPARISONS.items():
    setattr(Placed, f"__{_name}__", _operator(f"a {_symbol} b", 2))
for _name, _call in _UNARY.items():
    setattr(Placed, f"__{_name}__", _operator(_call, 1))
for _name, _dtype in _CONVERSIONS.items():
    setattr(Placed, f"__{_name}__", _operator(f"value.astype({_dtype!r})", 1))


def is_placed(value) -> bool:
    """Whether `value` is a placed value."""
    return isinstance(value, Placed)


def node_of(value: Placed) -> Node:
    """The node behind a placed value."""
    return value._node


def derive(operation, inputs: tuple[Node, ...], abstract, **changes) -> Node:
    """A node at the placement of its first input; `changes` replaces fields of the node."""
    fields = {"placement": inputs[0].placement, "all_equal": all(i.all_equal for i in inputs)} | changes
    return Node(operation, inputs, abstract, location=user_location(), **fields)


def placed_argument(value, operator: str, *, at: Placement | None = None, repaired: str) -> Node:
    """The node of an operator's argument; a struct of placed values is zipped.

    Raises:
      TypeError: not every leaf of the argument is placed, its values are at different placements or have none,
        or they are not at the placement `at`.
    """
    try:
        leaves, structure = jax.tree.flatten(value)
    except (ValueError, *_checks.TOO_DEEP):
        types.type_of(value)  # raises an error of our own
        raise
    if is_placed(value):
        node = node_of(value)
    elif leaves and all(is_placed(leaf) for leaf in leaves):
        node = zip_nodes([node_of(leaf) for leaf in leaves], structure, operator)
    else:
        raise TypeError(
            f"{operator} takes placed values, got {_found(value)} at {user_location()}; write {repaired}, "
            "or place a constant with fc.federated_value(value, fc.SERVER)"
        )
    if node.placement is None:
        raise TypeError(
            f"{operator} takes placed values, got {node.type}, which has no placement, at {user_location()}; "
            "declare the argument as fc.at_server(...) or fc.at_clients(...)"
        )
    if at is not None and node.placement is not at:
        raise TypeError(f"{operator} takes a value at {at}, got {node.type} at {user_location()}; write {repaired}")
    return node


def _found(value) -> str:
    try:
        return str(types.type_of(value))
    except TypeError:
        return repr(value)


def zip_nodes(nodes: list[Node], structure, operator: str) -> Node:
    """One node whose member is the pytree `structure` of the members of `nodes`."""
    placements = {node.placement for node in nodes}
    if len(placements) > 1:
        found = ", ".join(str(node.type) for node in nodes)
        raise TypeError(
            f"{operator} takes values at one placement, got {found} at {user_location()}; bring the server's values "
            "to the clients with fc.federated_broadcast(value), or the clients' values to the server with "
            "fc.federated_sum(value)"
        )
    operation = Map(lambda *members: jax.tree.unflatten(structure, members), structural=True)
    abstract = jax.tree.unflatten(structure, [node.abstract for node in nodes])
    return derive(operation, tuple(nodes), abstract)


def map_nodes(fn, inputs: tuple[Node, ...], described: str, **changes) -> Node:
    """The node of `fn` applied to inputs at one placement."""
    return derive(operation := Map(fn), inputs, infer_map(operation, inputs, described), **changes)


def infer_map(operation: Map, inputs: tuple[Node, ...], described: str):
    """The abstract result of a `Map`, which is traced only once for the same abstract inputs."""
    if operation.structural:
        return operation.fn(*(node.abstract for node in inputs))
    refuse_trimmed(described, inputs)
    return traced_map(operation, inputs, described).out_info


def traced_map(operation: Map, inputs: tuple[Node, ...], described: str) -> jax.stages.Traced:
    """The function of a `Map`, traced only once for the same abstract inputs."""
    abstracts = tuple(node.abstract for node in inputs)
    leaves, structure = jax.tree.flatten(abstracts)
    key = (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    if key not in operation.inferred:
        operation.inferred[key] = traced(operation.fn, abstracts, described)
    return operation.inferred[key]


def refuse_trimmed(described: str, nodes: tuple[Node, ...]):
    """Raises TypeError if a value contains trimmed rows, whose number is known only after the program has run."""
    for node in nodes:
        if is_trimmed(node.abstract):
            raise TypeError(
                f"{described} cannot take trimmed rows, whose number is known only after the program has run, got "
                f"{node.type} at {user_location()}; compute before trimming: "
                "fc.federated_trim(fc.federated_map(fn, value), count)"
            )
