"""The types of values, types as pytrees, and values and types matched by name."""

import functools
from typing import Any

import jax
import jax.core
import numpy as np

from fedjax_core import _checks
from fedjax_core.types import _classes, _containers, _dtypes
from fedjax_core.types._base import Placement, Type, of_kind
from fedjax_core.types._classes import FederatedType, SequenceType, StructType, TensorType


def at_server(spec: Any) -> FederatedType:
    """The type of a value of type `spec` (whatever `to_type` takes) at the server.

    Raises:
      ValueError: `spec` contains a federated type or a function type.
      TypeError: `spec` does not describe a type.

    Example:
      >>> str(at_server("float32[3]"))
      'float32[3]@SERVER'
    """
    return FederatedType(spec, Placement.SERVER)


def at_clients(spec: Any, all_equal: bool = False) -> FederatedType:
    """The type of a value of type `spec` (whatever `to_type` takes) at each client.

    Raises:
      ValueError: `spec` contains a federated type or a function type.
      TypeError: `spec` does not describe a type.

    Example:
      >>> str(at_clients("float32[3]")), str(at_clients("int32", all_equal=True))
      ('{float32[3]}@CLIENTS', 'int32@CLIENTS')
    """
    return FederatedType(spec, Placement.CLIENTS, all_equal)


def member_of(type_: Type) -> Type:
    """The type that a federated value has at one place.

    Raises:
      TypeError: the type is not federated.

    Example:
      >>> str(member_of(at_clients("float32[3]")))
      'float32[3]'
    """
    return of_kind(type_, FederatedType).member


def type_of(value: Any) -> Type:
    """The type of a value: a tensor for an array or a number, a struct for a pytree.

    Numbers and arrays have the dtype that JAX gives them. A `jax.ShapeDtypeStruct` or a type may
    stand for a value; symbolic sizes become `?`. If an object has an attribute `fedjax_type` that is
    a Type, that is its type.

    Raises:
      TypeError: a leaf, such as a string, has no type; the message has its path.
      ValueError: an integer does not fit the dtype that JAX gives it.

    Example:
      >>> str(type_of({"w": np.zeros((2, 3)), "n": 3, "pair": (True, 0.5)}))
      '<n=int32,pair=<bool,float32>,w=float32[2,3]>'
    """
    key = _cache_key(value)
    if key is None:
        return _classes.whole_tree(value, _value_leaf)
    found = _cache.get(key)
    if found is None:
        found = _classes.whole_tree(value, _value_leaf)
        if not _any_declared(value):
            if len(_cache) >= _CACHE_SIZE:
                _cache.clear()
            _cache[key] = found
    return found


_CACHE_SIZE = 512
_cache: dict[Any, Type] = {}


def _cache_key(value: Any) -> Any | None:
    """The structure, dtypes and shapes of a pytree of concrete arrays and numbers, None for any other value."""
    try:
        leaves, structure = jax.tree.flatten(value)
        signatures = tuple([_signature(leaf) for leaf in leaves])
        # JAX adds its flags to the class at run time, where no type checker sees them.
        key = (structure, jax.config.jax_enable_x64, signatures)  # pyright: ignore[reportAttributeAccessIssue]
        hash(key)
    except (TypeError, ValueError, *_checks.TOO_DEEP):
        return None
    return None if None in signatures else key


def _signature(leaf: Any) -> Any | None:
    kind = type(leaf)
    if _is_concrete(kind):
        return leaf.dtype, leaf.shape
    if kind is int:
        return int if _dtypes.fits(leaf) else None
    return kind if kind in (bool, float, complex) else None


@functools.lru_cache(maxsize=256)
def _is_concrete(kind: type) -> bool:
    if issubclass(kind, np.ndarray | np.generic):
        return True
    return issubclass(kind, jax.Array) and not issubclass(kind, jax.core.Tracer)


def _is_declared(value: Any) -> bool:
    return isinstance(getattr(value, "fedjax_type", None), Type)


def _any_declared(value: Any) -> bool:
    return any(_is_declared(leaf) for leaf in jax.tree.leaves(value, is_leaf=_is_declared))


def _value_leaf(value: Any) -> Type:
    if hasattr(value, "dtype") and hasattr(value, "shape") and not _is_foreign(value):
        return _classes.abstract_tensor(value)
    for scalar in (bool, int, float, complex):
        if isinstance(value, scalar):
            return _scalar(scalar, value)
    raise TypeError(
        f"a value must be a pytree of arrays, numbers and keys, got {_checks.shown(value)} of type "
        f"{type(value).__name__}; convert it with np.asarray, or encode it as numbers"
    )


def _is_foreign(value: Any) -> bool:
    """Whether an array is one of another library, such as a tensor of torch, which JAX does not take."""
    return hasattr(value, "__array__") and not isinstance(value, np.ndarray | np.generic | jax.Array)


def _scalar(scalar: type, value: Any) -> Type:
    type_ = TensorType(scalar)
    if scalar is int and not _dtypes.fits(value):
        raise ValueError(
            f"the integer {_checks.shown(value)} does not fit {type_}; write it as a float, or enable 64-bit integers "
            f"with jax.config.update('jax_enable_x64', True)"
        )
    return type_


def tree_of_types(type_: Type) -> Any:
    """A type as a pytree: its structs become their containers, all other types are leaves.

    Example:
      >>> from fedjax_core.types import parse_type
      >>> tree_of_types(parse_type("<a=int32,b=<float32@SERVER,bool>>"))
      {'a': parse_type('int32'), 'b': (parse_type('float32@SERVER'), parse_type('bool'))}
    """
    if isinstance(type_, StructType):
        return type_.pack(tree_of_types(child) for child in type_.children)
    return type_


def type_leaves(type_: Type) -> list[tuple[str, Type]]:
    """The types inside a type that are not structs, with their paths.

    Example:
      >>> from fedjax_core.types import parse_type
      >>> type_leaves(parse_type("<a=int32,b=<float32@SERVER,bool>>"))
      [('a', parse_type('int32')), ('b[0]', parse_type('float32@SERVER')), ('b[1]', parse_type('bool'))]
    """
    return list(_leaves(type_, ""))


def _leaves(type_: Type, path: str):
    if not isinstance(type_, StructType):
        yield path, type_
        return
    for position, (name, child) in enumerate(type_.elements):
        yield from _leaves(child, _containers.join(path, name, position))


def matched(type_: Type, value: Any) -> Any:
    """The pytree `value` converted to the containers of `type_`, with dicts matched by name, whatever their order.

    Args:
      type_: the type; where it is not a struct, the value is kept as it is.
      value: a pytree.

    Raises:
      TypeError: a struct in `value` has other names than the type.

    Example:
      >>> import optax
      >>> state = optax.TraceState(trace=(0.0, 0.0))
      >>> matched(type_of(state), {"trace": [1, 2]})
      TraceState(trace=(1, 2))
    """
    if not isinstance(type_, StructType):
        return value
    return type_.pack([matched(child, part) for child, part in zip(type_.children, type_.unpack(value), strict=True)])


def matched_type(target: Type, source: Type) -> Type:
    """`source` with the fields of its dicts in the order of `target`, wherever they have the same names.

    JAX sorts the fields of a dict, so the order of its fields in a type carries no meaning. A value that is known
    only by its type, such as a placed value, therefore fits `target` if `target` is assignable from this type.

    Args:
      target: the required type.
      source: the type of a value, which still has the value's containers.

    Example:
      >>> from fedjax_core.types import parse_type
      >>> target = parse_type("{<y=float32,x=float32>}@CLIENTS")
      >>> str(matched_type(target, at_clients({"x": "int32", "y": "float32"})))
      '{<y=float32,x=int32>}@CLIENTS'
    """
    if target.kind != source.kind or target == source:
        return source
    match target, source:
        case StructType(), StructType():
            return _matched_struct(target, source)
        case SequenceType(), SequenceType():
            return SequenceType(matched_type(target.element, source.element))
        case FederatedType(), FederatedType():
            member = matched_type(target.member, source.member)
            return FederatedType(member, source.placement, source.all_equal)
    return source


def _matched_struct(target: StructType, source: StructType) -> StructType:
    elements, container = dict(source.elements), source.container
    if len(target) != len(source):
        return source
    if _containers.is_dict(container) and target.names != source.names and elements.keys() == set(target.names):
        names, container = target.names, None
        children = [elements[name] for name in names]
    else:
        names, children = source.names, source.children
    pairs = zip(names, target.children, children, strict=True)
    return StructType([(name, matched_type(wanted, found)) for name, wanted, found in pairs], container)
