"""The dtypes of tensor types: their names, and what JAX makes of a value's dtype."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NAMES = """
bool int2 int4 int8 int16 int32 int64 uint2 uint4 uint8 uint16 uint32 uint64
float16 float32 float64 bfloat16 complex64 complex128
float4_e2m1fn float8_e3m4 float8_e4m3 float8_e4m3fn float8_e4m3fnuz float8_e4m3b11fnuz
float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
""".split()
_BY_NAME = {np.dtype(getattr(jnp, name)).name: np.dtype(getattr(jnp, name)) for name in _NAMES if hasattr(jnp, name)}
_KEY_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
_PYTHON_SCALARS = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}


def is_key(dtype: Any) -> bool:
    """Whether `dtype` is the dtype of JAX's typed PRNG keys."""
    if isinstance(dtype, np.dtype):
        return False
    try:
        return bool(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key))
    except TypeError:
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

    Python's `bool`, `int`, `float` and `complex` are what JAX makes of them.

    Raises:
      TypeError: `spec` stands for no dtype of JAX.
    """
    if isinstance(spec, str):
        dtype = dtype_named(spec)
    elif isinstance(spec, type) and spec in _PYTHON_SCALARS:
        dtype = canonical(_BY_NAME[_PYTHON_SCALARS[spec]])
    else:
        dtype = _supported(spec) if is_dtype_like(spec) else None
    if dtype is None:
        raise TypeError(
            f"a tensor's dtype is one of JAX's, or its name, got {spec!r}; "
            f"write for example 'float32', jnp.int32 or 'key<fry>'"
        )
    return dtype


def _supported(spec: Any) -> Any | None:
    if is_key(spec):
        return spec
    try:
        dtype = np.dtype(spec)
    except TypeError:
        return None
    return dtype if dtype == _BY_NAME.get(dtype.name) else None


def canonical(dtype: Any) -> Any:
    """`dtype` as JAX holds it: the 64-bit dtypes become 32-bit while `jax_enable_x64` is off."""
    return jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)


def is_dtype_like(spec: Any) -> bool:
    """Whether `spec` is a dtype or a scalar type (and not a value that has a dtype)."""
    return isinstance(spec, type | np.dtype | type(jnp.float32)) or is_key(spec)
