"""Python values as the members that a type declares."""

from typing import Any

import jax
import numpy as np

from fedjax_core import types


def as_member(value: Any, type_: types.Type, what: str) -> Any:
    """`value` in the containers and dtypes of `type_`.

    Python numbers take the declared dtype where JAX would let them (an int for a float, not the
    reverse); a list of numbers is an array where an array is declared.

    Args:
      value: a pytree of arrays and numbers.
      type_: a type of tensors and structs.
      what: what the value is called in error messages.

    Raises:
      TypeError: another type, with both types and the field.
    """
    if isinstance(type_, types.StructType):
        try:
            children = type_.unpack(value)
        except TypeError as error:
            raise TypeError(f"{what}: expected {type_}: {error}") from None
        labels = [repr(n) if n else str(i) for i, n in enumerate(type_.names)]
        return type_.pack(
            [as_member(c, t, f"{what}, field {label}") for c, t, label in zip(children, type_.children, labels)]
        )
    if not isinstance(type_, types.TensorType):
        raise TypeError(f"{what}: expected {type_}, got {_found(value)}; a sequence is a list of batches")
    array = _as_array(value, type_, what)
    found = types.type_of(array)
    if not type_.is_assignable_from(found):
        raise TypeError(f"{what}: expected {type_}, got {found}{_repair(type_, found)}")
    return array


def _repair(target: types.TensorType, found) -> str:
    if isinstance(found, types.TensorType) and found.dtype != target.dtype:
        return f"; convert it with .astype({str(types.TensorType(target.dtype))!r})"
    return "; the shapes must agree (`?` takes any size)"


def _as_array(value, type_: types.TensorType, what: str):
    if isinstance(value, bool | int | float | complex):
        return _number(value, type_, what)
    if isinstance(value, list | tuple) and type_.shape != ():
        try:
            value = np.asarray(value)
        except ValueError:
            raise TypeError(f"{what}: expected {type_}, got a list of unequal lengths") from None
        if value.dtype == np.float64 and np.issubdtype(type_.dtype, np.floating):
            return value.astype(type_.dtype)
    if isinstance(value, np.ndarray | np.generic) and value.dtype != type_.dtype:
        return _canonical(value, what)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return value
    raise TypeError(f"{what}: expected {type_}, got {_found(value)}")


def _number(value, type_, what):
    kinds = {bool: np.bool_, int: np.number, float: np.inexact, complex: np.complexfloating}
    if type_.shape != () or not jax.dtypes.issubdtype(type_.dtype, kinds[type(value)]):
        raise TypeError(f"{what}: expected {type_}, got the {type(value).__name__} {value!r}")
    if isinstance(value, int) and jax.dtypes.issubdtype(type_.dtype, np.integer):
        limits = np.iinfo(type_.dtype)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{what}: {value} does not fit {type_}")
    return np.asarray(value, type_.dtype)


def _canonical(array, what: str) -> np.ndarray:
    """The array in the dtype that JAX gives it: 64-bit numbers become 32-bit ones unless x64 is on."""
    try:
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    except TypeError:
        raise TypeError(f"{what}: {array.dtype} is no dtype of JAX; convert it to numbers") from None
    converted = np.asarray(array).astype(dtype)
    if np.issubdtype(array.dtype, np.integer) and not np.array_equal(converted, array):
        raise ValueError(f"{what}: an integer of {array.dtype} does not fit {dtype}")
    return converted


def _found(value) -> str:
    try:
        return str(types.type_of(value))
    except (TypeError, ValueError):
        return repr(value)
