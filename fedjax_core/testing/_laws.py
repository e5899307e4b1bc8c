"""Laws as functions: how they are selected, checked and reported."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def sentences(laws: Mapping[str, Callable]) -> dict[str, str]:
    """The sentence of each law, which is its docstring."""
    return {name: " ".join((law.__doc__ or "").split()) for name, law in laws.items()}


def chosen(caller: str, laws: Iterable[str] | str, known: Mapping[str, Any]) -> list[str]:
    """The selected names, in the order of the known laws.

    Raises:
      ValueError: a name is not that of a law, or no law was selected.

    Example:

    >>> chosen("check_metric", ["width", "additive"], {"additive": ..., "padding": ..., "width": ...})
    ['additive', 'width']
    """
    names = [laws] if isinstance(laws, str) else list(laws)
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise ValueError(f"{caller}(laws=...) must be one or several of {', '.join(known)}, got {unknown or names}")
    return [name for name in known if name in names]


def hold(what: str, laws: Mapping[str, Callable], names: list[str], subject: Any) -> None:
    """Raises AssertionError unless the subject keeps all the named laws.

    Args:
      what: the name of the subject in the message.
      laws: a dict from name to law; a law takes the subject and raises an error if it is broken.
      names: the names of the laws to check.
      subject: the subject of the laws.

    Raises:
      AssertionError: a law is broken. The message has the name, the sentence and the difference of every broken law.

    Example:

    >>> def even(number):
    ...     '''The number is even.'''
    ...     compare(0, number % 2)
    >>> hold("the number", {"even": even}, ["even"], 3)
    Traceback (most recent call last):
    AssertionError: the number breaks 1 of 1 laws
    even: The number is even.
      expected 0, found 1
    """
    broken = {}
    for name in names:
        try:
            laws[name](subject)
        except Exception as error:
            broken[name] = error
    if broken:
        said = sentences(laws)
        lines = [f"{name}: {said[name]}\n  {described(error)}" for name, error in broken.items()]
        first = next((error for error in broken.values() if not isinstance(error, AssertionError)), None)
        raise AssertionError("\n".join([f"{what} breaks {len(broken)} of {len(names)} laws", *lines])) from first


def described(error: Exception) -> str:
    """The text of an error that a law raised; for an unexpected error its type and first line."""
    if isinstance(error, AssertionError):
        return str(error)
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def compare(expected: Any, found: Any, tolerance: float | None = None) -> None:
    """Raises AssertionError, with both values, at the first difference between two pytrees.

    Args:
      expected: a pytree of arrays, keys or numbers.
      found: the pytree to compare with it.
      tolerance: the relative and absolute tolerance of floats; None if they must be equal bit for bit.

    Raises:
      AssertionError: they differ in structure, shape, dtype or value.

    Example:

    >>> compare({"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, 2.5])})
    Traceback (most recent call last):
    AssertionError: ['w'][1]: expected 2.0, found 2.5
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(expected)
    leaves, other = jax.tree.flatten(found)
    if structure != other:
        raise AssertionError(f"expected the structure {structure}, found {other}")
    for (path, leaf), other in zip(paths, leaves):
        _compare_leaf(jax.tree_util.keystr(path), as_numpy(leaf), as_numpy(other), tolerance)


def as_numpy(leaf: Any) -> np.ndarray:
    """A leaf as a NumPy array, a key as its data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _compare_leaf(path: str, expected: np.ndarray, found: np.ndarray, tolerance: float | None):
    at = f"{path}: " if path else ""
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        kinds = [f"{x.dtype}{list(x.shape)}" for x in (expected, found)]
        raise AssertionError(f"{at}expected {kinds[0]}, found {kinds[1]}")
    differ = np.argwhere(_differ(expected, found, tolerance))
    if not len(differ):
        return
    first = tuple(differ[0].tolist())
    at = f"{path}[{', '.join(map(str, first))}]: " if first else at
    more = f", and {len(differ) - 1} more of {expected.size} entries" if len(differ) > 1 else ""
    raise AssertionError(f"{at}expected {expected[first]!s}, found {found[first]!s}{more}")


def _differ(a: np.ndarray, b: np.ndarray, tolerance: float | None) -> np.ndarray:
    """Whether two arrays of one shape and dtype differ, entry by entry; NaN equals NaN."""
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return a != b
    wide = np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
    a, b = a.astype(wide), b.astype(wide)
    if tolerance is None:
        return ~((a == b) & (np.signbit(np.real(a)) == np.signbit(np.real(b))) | np.isnan(a) & np.isnan(b))
    return ~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
