"""The dtypes and shapes of tensor types: their names, their checks, and the dtypes that JAX gives to values."""

import functools
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NAMES = (
    *("bool_", "int2", "int4", "int8", "int16", "int32", "int64"),
    *("uint2", "uint4", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
    *("float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
_DTYPES = [np.dtype(getattr(jnp, name)) for name in _NAMES if hasattr(jnp, name)]
_BY_NAME = {dtype.name: dtype for dtype in _DTYPES}
_WITHOUT_X64 = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}
_KEY_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
_PYTHON_SCALARS = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}


def is_key(dtype: Any) -> bool:
    """Whether `dtype` is the dtype of JAX's typed PRNG keys."""
    if isinstance(dtype, np.dtype) or hasattr(dtype, "dtype"):
        return False
    try:
        return bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))
    except (TypeError, ValueError):
        return False


@functools.cache
def _key_dtypes() -> dict[str, Any]:
    keys = [jax.eval_shape(functools.partial(jax.random.key, impl=impl), 0) for impl in _KEY_IMPLEMENTATIONS]
    return {str(key.dtype): key.dtype for key in keys}


def dtype_named(name: str) -> Any | None:
    """The dtype that prints as `name` (`float32`, `key<fry>`), or None if there is none."""
    if name.startswith("key<"):
        return _key_dtypes().get(name)
    return _BY_NAME.get(name)


def as_dtype(spec: Any) -> Any:
    """The dtype that a dtype, a scalar type or a dtype's name stands for.

    Python's `bool`, `int`, `float` and `complex` stand for the dtypes that JAX gives to such values.

    Raises:
      TypeError: `spec` does not stand for a dtype of JAX.
    """
    if isinstance(spec, str):
        dtype = dtype_named(spec)
    elif isinstance(spec, type) and spec in _PYTHON_SCALARS:
        dtype = canonical(_BY_NAME[_PYTHON_SCALARS[spec]])
    else:
        dtype = _supported(spec) if is_dtype_like(spec) else None
    if dtype is None:
        raise TypeError(
            f"a tensor's dtype must be a dtype of JAX or its name, got {spec!r}; "
            f"write for example 'float32', jnp.int32 or 'key<fry>'"
        )
    return dtype


def _supported(spec: Any) -> Any | None:
    if is_key(spec):
        return spec
    try:
        dtype = np.dtype(spec).newbyteorder("=")  # a file's byte order is no part of a type
    except TypeError:
        return None
    return dtype if dtype == _BY_NAME.get(dtype.name) else None


@functools.cache
def _limits(dtype: Any) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def fits(value: int) -> bool:
    """Whether `value` fits the dtype that JAX gives to Python integers (int32 unless x64 is enabled)."""
    smallest, largest = _limits(canonical(_BY_NAME["int64"]))
    return smallest <= value <= largest


def canonical(dtype: Any) -> Any:
    """The dtype that JAX uses for `dtype`: 64-bit dtypes become 32-bit while `jax_enable_x64` is off."""
    # JAX adds its flags to the class at run time, where no type checker sees them.
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    if x64 or dtype.name not in _WITHOUT_X64:
        return dtype
    return _BY_NAME[_WITHOUT_X64[dtype.name]]


def is_dtype_like(spec: Any) -> bool:
    """Whether `spec` is a dtype or a scalar type (and not a value that has a dtype)."""
    return isinstance(spec, type | np.dtype | type(jnp.float32)) or is_key(spec)


def as_shape(shape: Any) -> tuple[int | None, ...] | None:
    """`shape` as a tuple of sizes and None, or None for an unknown rank.

    Raises:
      TypeError: `shape` is neither None nor an iterable of integers and None.
      ValueError: a dimension is negative.
    """
    if shape is None:
        return None
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(f"a tensor's shape must be a tuple of sizes, got {shape!r}; write ({shape!r},) or None")
    return tuple(None if dim is None else _as_dim(dim, shape) for dim in shape)


def _as_dim(dim: Any, shape: Any) -> int:
    try:
        if isinstance(dim, bool):
            raise TypeError
        size = operator.index(dim)
    except TypeError:
        raise TypeError(
            f"a dimension must be an integer, or None if it is unknown, got {dim!r} in the shape {shape!r}"
        ) from None
    if size < 0:
        raise ValueError(
            f"a dimension cannot be negative, got {dim} in the shape {shape!r}; write None if it is unknown"
        )
    return size
