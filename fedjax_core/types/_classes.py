"""The type classes, and the two ways to write a type: as text and as a pytree of specs."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from fedjax_core import _checks
from fedjax_core.types import _containers, _dtypes, _notation
from fedjax_core.types._base import SERVER, Placement, Type


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TensorType(Type):
    """An array: a dtype and a shape.

    Attributes:
      dtype: a NumPy dtype, or the dtype of a JAX key (`key<fry>`). The constructor also takes a
        scalar type or a dtype's name.
      shape: a tuple of sizes, with None for an unknown size; or None if the rank is unknown.

    Raises:
      TypeError: `dtype` is not a dtype of JAX, or `shape` is not a sequence of integers and None.
      ValueError: a dimension is negative.

    Example:
      >>> str(TensorType("float32", (None, 784))), str(TensorType("int32")), str(TensorType("bool", None))
      ('float32[?,784]', 'int32', 'bool[...]')
    """

    dtype: Any
    shape: tuple[int | None, ...] | None = ()

    kind = "tensor"

    if TYPE_CHECKING:  # the constructors accept more types than the fields have

        def __init__(self, dtype: Any, shape: Iterable[int | None] | None = ()) -> None: ...

    def __post_init__(self):
        object.__setattr__(self, "dtype", _dtypes.as_dtype(self.dtype))
        object.__setattr__(self, "shape", _dtypes.as_shape(self.shape))

    def _render(self, indent: int | None) -> str:
        if self.shape is None:
            return f"{self.dtype}[...]"
        dims = ",".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.dtype}[{dims}]" if dims else str(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StructType(Type):
    """A struct: any registered pytree, with its elements in the order in which JAX flattens it.

    Elements are selected by name or position: `t["w"]`, `t[0]`, or `t.w` if the class itself has no
    attribute of that name. `len(t)` is the number of elements.

    Attributes:
      elements: pairs `(name, type)`; the name is None for an element that has only a position.
        The constructor takes pairs, bare types, or a dict, and accepts as a type whatever `to_type` does.
      container: the one-level `PyTreeDef` that rebuilds a value from its children. By default it is that
        of a dict (of an `OrderedDict` if the names are not sorted), or of a tuple if an element has no
        name or there are no elements.

    Raises:
      ValueError: two elements have the same name, or `container` has another number of children.
      TypeError: an element is not a type, or a name is not a string.

    Example:
      >>> batch = StructType([("x", "float32[?,784]"), ("y", "int32[?]")])
      >>> str(batch), str(batch.y), batch.names
      ('<x=float32[?,784],y=int32[?]>', 'int32[?]', ('x', 'y'))
      >>> batch.pack([1.0, 2])
      {'x': 1.0, 'y': 2}
    """

    elements: tuple[tuple[str | None, Type], ...]
    container: Any = None

    kind = "struct"

    if TYPE_CHECKING:

        def __init__(self, elements: Iterable[Any], container: Any = None) -> None: ...

    def __post_init__(self):
        elements, container = self.elements, self.container
        if isinstance(elements, Mapping):
            names, children, found = _containers.flatten(elements)
            elements, container = list(zip(names, children, strict=True)), container or found
        elif isinstance(elements, str) or not isinstance(elements, Iterable):
            raise TypeError(
                f"a struct's elements must be pairs (name, type), got {elements!r}; "
                f"write StructType([('x', 'float32'), ('y', 'int32')])"
            )
        elements = tuple(_as_element(element) for element in elements)
        _containers.check_names([name for name, _ in elements])
        if container is None:
            container = _containers.default_container(tuple(name for name, _ in elements))
        elif container.num_leaves != len(elements):
            raise ValueError(f"the container {container} has {container.num_leaves} children, not {len(elements)}")
        object.__setattr__(self, "elements", elements)
        object.__setattr__(self, "container", container)

    @functools.cached_property
    def names(self) -> tuple[str | None, ...]:
        """The elements' names, None for an element that has only a position."""
        return tuple(name for name, _ in self.elements)

    @functools.cached_property
    def children(self) -> tuple[Type, ...]:
        """The elements' types."""
        return tuple(child for _, child in self.elements)

    @functools.cached_property
    def _by_name(self) -> dict[str, Type]:
        return {name: child for name, child in self.elements if name is not None}

    def __len__(self) -> int:
        return len(self.elements)

    def __iter__(self):
        return iter(self.children)

    def __contains__(self, name: Any) -> bool:
        return name in self._by_name

    def __getitem__(self, key: str | int) -> Type:
        if isinstance(key, str):
            if key not in self._by_name:
                raise KeyError(f"{self} has no element {key!r}, only {list(self._by_name)}")
            return self._by_name[key]
        return self.children[key]

    def __getattr__(self, name: str) -> Type:
        if name.startswith("__") or "elements" not in self.__dict__ or name not in self._by_name:
            names = list(self._by_name) if "elements" in self.__dict__ else []
            raise AttributeError(f"a struct type with the elements {names} has no {name!r}")
        return self._by_name[name]

    def pack(self, children: Iterable[Any]) -> Any:
        """The Python value with `children`, one for each element, in this type's container.

        Raises:
          ValueError: the number of children is not the number of elements.

        Example:
          >>> type_ = to_type({"a": "int32", "b": "int32"})
          >>> type_.pack([1, 2])
          {'a': 1, 'b': 2}
        """
        children = list(children)
        if len(children) != len(self.elements):
            raise ValueError(f"{self} has {len(self.elements)} elements, got {len(children)} children to pack")
        return self.container.unflatten(children)

    def unpack(self, value: Any) -> list[Any]:
        """The children of `value`, one for each element, whatever its container is.

        A dict is matched by name, whatever its order. The children of any other container keep their own
        order, and names are compared as in assignability: position by position, a child must have the element's
        name or none.

        Raises:
          TypeError: `value` is not a struct with these names, or it is an instance of the container's own class
            with other values of static fields.

        Example:
          >>> to_type({"a": "int32", "b": "int32"}).unpack((1, 2))
          [1, 2]
          >>> parse_type("<b=int32,a=int32>").unpack({"a": 1, "b": 2})
          [2, 1]
        """
        children, container = _containers.flatten_unnamed(value)
        # Two containers are equal only if their names and the order of the names are equal.
        return children if container == self.container else self._unpack_other(value)

    def _check_static(self, value: Any, children: list[Any], container: Any) -> None:
        """Raises TypeError for an instance of the type's own class with static fields that `pack` would replace."""
        if _containers.is_of_one_class(self.container, container) and not isinstance(value, Mapping):
            wanted, found = _containers.static_texts(self.pack(children), value)
            raise TypeError(
                f"a value of type {self} must be a {_containers.describe(container)} with the static fields {wanted}, "
                f"got {found}; static fields are part of the type: give them the same values, or declare the type "
                "again with the new values"
            )

    def _unpack_other(self, value: Any) -> list[Any]:
        """The children of a value in another container than the type's."""
        names, children, container = _containers.flatten(value)
        if len(children) == 1 and children[0] is value:
            raise TypeError(f"a value of type {self} must be a struct, got {value!r} of type {type(value).__name__}")
        if names == self.names:
            self._check_static(value, children, container)
            return children
        if isinstance(value, Mapping):
            names, children = _containers.in_order(self.names, names, children, value)
            reason = _containers.dict_reason(self.names, names)
        else:
            reason = _containers.names_reason(self.names, names, "; a dict is matched by name, in any order")
        if reason:
            raise TypeError(
                f"a value of type {self} must have the elements {_containers.listed(self.names)}, got a "
                f"{_containers.describe(container)} with {_containers.listed(names)}: {reason}"
            )
        return children

    def _parts(self) -> tuple[Type, ...]:
        return self.children

    def _render(self, indent: int | None) -> str:
        deeper = None if indent is None else indent + 1
        parts = [
            ("" if name is None else f"{_notation.name_text(name)}=") + child._render(deeper)
            for name, child in self.elements
        ]
        if indent is None or not parts:
            return f"<{','.join(parts)}>"
        inner = "\n" + "  " * (indent + 1)
        return "<" + inner + f",{inner}".join(parts) + "\n" + "  " * indent + ">"


def _as_element(element: Any) -> tuple[str | None, Type]:
    name = None
    if type(element) is tuple and len(element) == 2 and not isinstance(element[0], Type):
        name, element = element
    if name is not None and not isinstance(name, str):
        raise TypeError(f"an element's name must be a string or None, got {name!r}; write {str(name)!r}")
    return name, _part(element, "a struct's element")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SequenceType(Type):
    """A sequence, such as one client's batches: any number of elements of one type.

    Raises:
      ValueError: `element` contains a federated type, a function type or a sequence type.
      TypeError: `element` is not a type.

    Example:
      >>> str(SequenceType(to_type({"x": "float32[?,784]", "y": "int32[?]"})))
      '<x=float32[?,784],y=int32[?]>*'
    """

    element: Type

    kind = "sequence"

    if TYPE_CHECKING:

        def __init__(self, element: Any) -> None: ...

    def __post_init__(self):
        object.__setattr__(self, "element", _part(self.element, "a sequence's element"))
        _refuse(self.element, ("federated", "function", "sequence"), "a sequence")

    def _parts(self) -> tuple[Type, ...]:
        return (self.element,)

    def _render(self, indent: int | None) -> str:
        return f"{self.element._render(indent)}*"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FunctionType(Type):
    """A function; its parameter is None if it has none.

    Raises:
      TypeError: the parameter or the result is not a type.

    Example:
      >>> str(FunctionType(None, "int32")), str(FunctionType("int32", "float32"))
      ('( -> int32)', '(int32 -> float32)')
    """

    parameter: Type | None
    result: Type

    kind = "function"

    if TYPE_CHECKING:

        def __init__(self, parameter: Any, result: Any) -> None: ...

    def __post_init__(self):
        if self.parameter is not None:
            object.__setattr__(self, "parameter", _part(self.parameter, "a function's parameter"))
        object.__setattr__(self, "result", _part(self.result, "a function's result"))

    def _parts(self) -> tuple[Type, ...]:
        return (self.result,) if self.parameter is None else (self.parameter, self.result)

    def _render(self, indent: int | None) -> str:
        parameter = "" if self.parameter is None else self.parameter._render(indent)
        return f"({parameter} -> {self.result._render(indent)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FederatedType(Type):
    """A value at a placement: one at the server, or one at each client.

    Attributes:
      member: the type of the value at one place.
      placement: `SERVER` or `CLIENTS`.
      all_equal: whether the value is the same at all places. None means the default of the
        placement, True at the server and False at the clients.

    Raises:
      ValueError: the member contains a federated type or a function type.
      TypeError: the member is not a type, the placement is not a `Placement`, or `all_equal` is not a bool.

    Example:
      >>> from fedjax_core.types import CLIENTS, SERVER
      >>> str(FederatedType("float32", SERVER)), str(FederatedType("float32", CLIENTS))
      ('float32@SERVER', '{float32}@CLIENTS')
    """

    member: Type
    placement: Placement
    all_equal: bool | None = None

    kind = "federated"

    if TYPE_CHECKING:

        def __init__(self, member: Any, placement: Placement, all_equal: bool | None = None) -> None: ...

    def __post_init__(self):
        object.__setattr__(self, "member", _part(self.member, "a federated value's member"))
        if not isinstance(self.placement, Placement):
            raise TypeError(
                f"a placement must be SERVER or CLIENTS, got {self.placement!r}; import it from fedjax_core"
            )
        if self.all_equal is None:
            object.__setattr__(self, "all_equal", self.placement is SERVER)
        else:
            equal = _checks.checked_switch(
                "FederatedType(all_equal=...)", self.all_equal, "leave it out for the default"
            )
            object.__setattr__(self, "all_equal", equal)
        _refuse(self.member, ("federated", "function"), "a federated value")

    def _parts(self) -> tuple[Type, ...]:
        return (self.member,)

    def _render(self, indent: int | None) -> str:
        member = self.member._render(indent)
        return f"{member}@{self.placement}" if self.all_equal else f"{{{member}}}@{self.placement}"


def _part(spec: Any, role: str) -> Type:
    if isinstance(spec, Type):
        return spec
    if spec is None:
        raise TypeError(f"{role} must be a type, got None; the type of an empty struct is parse_type('<>')")
    return to_type(spec)


def _refuse(part: Type, kinds: tuple[str, ...], whole: str) -> None:
    found = [kind for kind in kinds if kind in part._kinds]
    if found:
        repair = "; federated_zip makes one federated value of a struct of them" if "federated" in found else ""
        raise ValueError(f"{whole} cannot contain a {found[0]} type, got {part}{repair}")


def parse_type(text: str) -> Type:
    """The type whose notation is `text`, compact or over several lines.

    `parse_type(str(t))` prints the same as `t`. The notation does not contain the Python containers,
    so structs get the default container (see `StructType`).

    Raises:
      TypeError: `text` is not a string.
      ValueError: `text` is not a well-formed notation, or the type it denotes is not well formed.

    Example:
      >>> parse_type("(<w=float32[3]>@SERVER -> {float32}@CLIENTS)").result.placement
      CLIENTS
      >>> str(parse_type('<"a-b"=key<fry>,n=int32[...]>'))
      '<"a-b"=key<fry>,n=int32[...]>'
    """
    if not isinstance(text, str):
        raise TypeError(f"a notation must be a string, got {text!r}; use to_type for other descriptions of a type")
    node = _notation.read(text)
    try:
        return _build(node)
    except RecursionError:
        raise ValueError(f"a type has at most some hundred levels, got {text[:60]!r}...; use fewer") from None


def _build(node: tuple) -> Type:
    match node:
        case ("tensor", dtype, shape):
            return TensorType(dtype, shape)
        case ("struct", elements):
            return StructType([(name, _build(child)) for name, child in elements])
        case ("sequence", element):
            return SequenceType(_build(element))
        case ("function", parameter, result):
            return FunctionType(None if parameter is None else _build(parameter), _build(result))
        case ("federated", member, placement, all_equal):
            return FederatedType(_build(member), Placement(placement), all_equal)
    raise AssertionError(f"the notation has no {node[0]}")


def to_type(spec: Any) -> Type:
    """The type that a description stands for.

    Args:
      spec: a Type, a notation (`"float32[?,784]"`), a dtype or scalar type, a
        `jax.ShapeDtypeStruct`, or any pytree of these, which describes a struct with that container.

    Raises:
      TypeError: a leaf of `spec` is not one of these.
      ValueError: a notation is not well formed.

    Example:
      >>> str(to_type({"x": "float32[?,784]", "y": int, "z": ("bool", "int8@SERVER")}))
      '<x=float32[?,784],y=int32,z=<bool,int8@SERVER>>'
    """
    return whole_tree(spec, _spec_leaf)


def _spec_leaf(spec: Any) -> Type:
    if isinstance(spec, str):
        return parse_type(spec)
    if _dtypes.is_dtype_like(spec):
        return TensorType(spec)
    if isinstance(spec, jax.ShapeDtypeStruct):
        return abstract_tensor(spec)
    raise TypeError(
        f"a type must be a Type, a notation, a dtype, a jax.ShapeDtypeStruct or a pytree of these, got {spec!r} "
        f"of type {type(spec).__name__}; use type_of(value) for the type of a value"
    )


def abstract_tensor(value: Any) -> TensorType:
    """The type of anything with a shape and a dtype; symbolic sizes become `?`."""
    shape = tuple(dim if isinstance(dim, int) else None for dim in value.shape)
    dtype = _dtypes.as_dtype(value.dtype)
    return TensorType(_dtypes.canonical(dtype), shape)


def whole_tree(tree: Any, leaf_type: Callable[[Any], Type]) -> Type:
    """The type of a pytree from its root, see `of_tree`.

    Raises:
      ValueError: it has too many levels for Python's recursion.
    """
    try:
        return of_tree(tree, leaf_type)
    except _checks.TOO_DEEP:
        raise _checks.too_deep("a value or a type") from None


def of_tree(tree: Any, leaf_type: Callable[[Any], Type], path: str = "") -> Type:
    """The type of a pytree: a struct for a node, `leaf_type(leaf)` for a leaf.

    If a node or leaf has an attribute `fedjax_type` that is a Type, as types themselves do, that is its type.
    """
    declared = getattr(tree, "fedjax_type", None)
    if isinstance(declared, Type):
        return declared
    try:
        names, children, container = _containers.flatten(tree)
        if len(children) == 1 and children[0] is tree:
            return leaf_type(tree)
    except (TypeError, ValueError) as error:
        if not path:
            raise
        raise type(error)(f"at {path}: {error}") from None
    elements = []
    for position, (name, child) in enumerate(zip(names, children, strict=True)):
        elements.append((name, of_tree(child, leaf_type, _containers.join(path, name, position))))
    return StructType(elements, container)
