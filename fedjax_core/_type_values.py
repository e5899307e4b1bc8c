"""Types of values, and types as pytrees."""

from typing import Any

import jax
import numpy as np

from fedjax_core import _type_classes, _type_containers, _type_dtypes
from fedjax_core._type_classes import FederatedType, Placement, StructType, TensorType, Type


def at_server(spec: Any) -> FederatedType:
    """The type of a value of type `spec` (whatever `to_type` takes) at the server.

    Raises:
      ValueError: `spec` is federated already, or a function.
      TypeError: `spec` describes no type.

    Example:
      >>> str(at_server("float32[3]"))
      'float32[3]@SERVER'
    """
    return FederatedType(spec, Placement.SERVER)


def at_clients(spec: Any, all_equal: bool = False) -> FederatedType:
    """The type of a value of type `spec` (whatever `to_type` takes) at each client.

    Raises:
      ValueError: `spec` is federated already, or a function.
      TypeError: `spec` describes no type.

    Example:
      >>> str(at_clients("float32[3]")), str(at_clients("int32", all_equal=True))
      ('{float32[3]}@CLIENTS', 'int32@CLIENTS')
    """
    return FederatedType(spec, Placement.CLIENTS, all_equal)


def type_of(value: Any) -> Type:
    """The type of a value: a tensor for an array or a number, a struct for a pytree.

    Numbers and arrays have the dtype that JAX gives them. A `jax.ShapeDtypeStruct` and a type
    stand for a value; symbolic sizes are not known sizes (`?`). An object with an attribute
    `fedjax_type` that is a Type has that type.

    Raises:
      TypeError: a leaf has no type, such as a string; the message names its path.
      ValueError: an integer does not fit the dtype that JAX gives it.

    Example:
      >>> str(type_of({"w": np.zeros((2, 3)), "n": 3, "pair": (True, 0.5)}))
      '<n=int32,pair=<bool,float32>,w=float32[2,3]>'
    """
    return _type_classes.of_tree(value, _value_leaf)


def _value_leaf(value):
    declared = getattr(value, "fedjax_type", None)
    if isinstance(declared, Type):
        return declared
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _type_classes.abstract_tensor(value)
    if isinstance(value, bool | int | float | complex):
        return TensorType(type(value))
    raise TypeError("no type")


def tree_of_types(type_: Type) -> Any:
    """The pytree of a type, its containers kept, whose leaves are the types that are no structs.

    Example:
      >>> tree_of_types(_type_classes.parse_type("<a=int32,b=<float32@SERVER,bool>>"))
      {'a': parse_type('int32'), 'b': (parse_type('float32@SERVER'), parse_type('bool'))}
    """
    if isinstance(type_, StructType):
        return type_.pack(tree_of_types(child) for child in type_.children)
    return type_


def leaves(type_: Type) -> list[tuple[str, Type]]:
    """The types in a type that are no structs, with their paths.

    Example:
      >>> leaves(_type_classes.parse_type("<a=int32,b=<float32@SERVER,bool>>"))
      [('a', parse_type('int32')), ('b[0]', parse_type('float32@SERVER')), ('b[1]', parse_type('bool'))]
    """
    return list(_leaves(type_, ""))


def _leaves(type_: Type, path: str):
    if not isinstance(type_, StructType):
        yield path, type_
        return
    for position, (name, child) in enumerate(type_.elements):
        yield from _leaves(child, _type_containers.join(path, name, position))
