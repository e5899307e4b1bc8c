"""Python values in the containers and dtypes that a type declares."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks, types
from fedjax_core.language.graph import batch_dimension, strong


def as_member(value: Any, type_: types.Type, what: str) -> Any:
    """`value` in the containers and dtypes of `type_`.

    A Python number takes the declared dtype where JAX would allow it (an int for a float, but not the
    reverse); a list of numbers becomes an array where an array is declared.

    Args:
      value: a pytree of arrays and numbers.
      type_: a type of tensors and structs.
      what: the name of the value in error messages.

    Raises:
      TypeError: the value has another type; the message has both types and the field.
      ValueError: a number does not fit its dtype.

    Example: a dict is matched by name, and its numbers take the declared dtypes.

    >>> as_member({"n": 2, "w": [1, 2]}, types.to_type({"w": "float32[2]", "n": "int32"}), "argument 'x'")
    {'n': array(2, dtype=int32), 'w': array([1., 2.], dtype=float32)}
    """
    if isinstance(type_, types.StructType):
        try:
            children = type_.unpack(value)
        except TypeError as error:
            raise TypeError(f"{what}: {error}") from None
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


def conform(type_: types.Type, value: Any) -> Any:
    """An assignable value, which may hold tracers and sequences, in the containers of `type_`; dicts match by name.

    Example:

    >>> list(conform(types.to_type("<b=int32,a=int32>"), {"a": 1, "b": 2}))
    ['b', 'a']
    """
    if isinstance(type_, types.StructType):
        return type_.pack([conform(t, v) for t, v in zip(type_.children, type_.unpack(value))])
    if isinstance(type_, types.SequenceType):
        # The engine packs batches as narrow as the data allow, and a function of a declared size must see that size.
        size = (*batch_dimension(type_.element), None)[0]
        value = dataclasses.replace(value, declared_size=size) if size is not None else value
        if not _same_containers(type_.element, value.fedjax_type.element):
            return value.map(functools.partial(conform, type_.element))
    return value


def _same_containers(a: types.Type, b: types.Type) -> bool:
    return jax.tree.structure(types.tree_of_types(a)) == jax.tree.structure(types.tree_of_types(b))


def _repair(target: types.TensorType, found) -> str:
    if jnp.issubdtype(target.dtype, jax.dtypes.prng_key):
        return "; make a key with jax.random.key(seed)"
    if isinstance(found, types.TensorType) and found.dtype != target.dtype:
        return f"; convert it with .astype({str(types.TensorType(target.dtype))!r})"
    return "; the shapes must agree (`?` takes any size)"


def _as_array(value, type_: types.TensorType, what: str):
    _checks.check_not_masked(what, value)
    if isinstance(value, list | tuple) and type_.shape != ():
        return _array_of_list(value, type_, what)
    if isinstance(value, np.ndarray | np.generic):
        value = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
        return value if value.dtype == type_.dtype else _canonical(value, type_, what)
    if isinstance(value, jax.Array):
        return strong(value)
    if isinstance(value, bool | int | float | complex):
        return _number(value, type_, what)
    repair = "; convert it with np.asarray(value)" if hasattr(value, "__array__") else ""
    raise TypeError(f"{what}: expected {type_}, got {_found(value)}{repair}")


def _array_of_list(value, type_: types.TensorType, what: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError(f"{what}: expected {type_}, got a list of unequal lengths") from None
    numbers = array.dtype in (np.int64, np.float64)
    if array.shape == (0,) and type_.shape and not type_.shape[0]:  # `[]` does not show the shape of a row
        array = array.reshape(0, *(size or 0 for size in type_.shape[1:]))
    if array.size == 0 or (numbers and jnp.issubdtype(type_.dtype, np.floating)):
        return _narrowed(array, type_.dtype, what)
    if array.dtype == np.int64 and jnp.issubdtype(type_.dtype, np.integer):
        return _checked_integers(array, type_.dtype, what)
    return _canonical(array, type_, what)


def _number(value: bool | int | float | complex, type_: types.TensorType, what: str):
    # bool comes first, since True is an int for Python.
    kinds = ((bool, np.bool_), (int, np.number), (float, np.inexact), (complex, np.complexfloating))
    kind = next(dtype for python, dtype in kinds if isinstance(value, python))
    if type_.shape != () or not jnp.issubdtype(type_.dtype, kind):
        raise TypeError(f"{what}: expected {type_}, got the {type(value).__name__} {_checks.shown(value)}")
    if isinstance(value, int) and jnp.issubdtype(type_.dtype, np.integer):
        limits = jax.numpy.iinfo(type_.dtype)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{what}: {_checks.shown(value)} does not fit {type_}")
    if isinstance(value, int) and jnp.issubdtype(type_.dtype, np.inexact):
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{what}: {_checks.shown(value)} does not fit {type_}") from None
    return _narrowed(np.asarray(value), type_.dtype, what)


def _canonical(array, type_: types.TensorType, what: str) -> np.ndarray:
    """The array in the dtype that JAX gives it: 64-bit numbers become 32-bit ones unless x64 is on."""
    # bfloat16 and other dtypes of ml_dtypes have the kind "V" too; only `isbuiltin`, which is 2, distinguishes them.
    if array.dtype.kind in "OSUMmV" and array.dtype.isbuiltin != 2:
        raise TypeError(f"{what}: expected {type_}, got an array of {array.dtype}; convert it to numbers")
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if np.issubdtype(array.dtype, np.integer):
        return _checked_integers(array, dtype, what)
    return _narrowed(np.asarray(array), dtype, what)


def _narrowed(array: np.ndarray, dtype, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if (place := _checks.first_overflow(array, narrow)) is not None:
        raise ValueError(f"{what}: {array[place]} does not fit {narrow.dtype}; divide the values by their scale")
    return narrow


def _checked_integers(array, dtype, what: str) -> np.ndarray:
    converted = np.asarray(array).astype(dtype)
    if not np.array_equal(converted, array):
        raise ValueError(f"{what}: an integer of {array.dtype} does not fit {dtype}")
    return converted


def _found(value) -> str:
    try:
        return str(types.type_of(value))
    except (TypeError, ValueError):
        return _checks.shown(value)
