"""Arithmetic, norms and casts on pytrees of arrays, and one key for each leaf.

JAX can trace all functions. A leaf is an array or a number; where a function says so, it may also be
a typed JAX key. Where a function takes two trees, they must have the same structure and leaves of the
same shapes.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core._signposts import signpost

__all__ = [
    "add",
    "any_positive",
    "cast",
    "clip_by_norm",
    "distinct_size",
    "divide",
    "expand",
    "is_finite",
    "match",
    "norm",
    "num_bytes",
    "part",
    "path_entry",
    "scale",
    "size",
    "split_key",
    "squared_norm",
    "subtract",
    "where",
    "widen",
    "with_part",
    "zeros_like",
]

signpost(__name__)

Tree = Any


def add(a: Tree, b: Tree) -> Tree:
    """The sum `a + b`, leaf by leaf, in the dtypes that JAX's promotion gives.

    Args:
      a: a pytree of arrays.
      b: a pytree of the same structure and shapes.

    Raises:
      ValueError: the structures differ.

    Example:
      >>> print(add({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])})["w"])
      [4. 6.]
    """
    return _map("add", jnp.add, a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """The difference `a - b`, leaf by leaf, in the dtypes that JAX's promotion gives.

    Args:
      a: a pytree of arrays.
      b: a pytree of the same structure and shapes.

    Raises:
      ValueError: the structures differ.

    Example:
      >>> print(subtract({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([1.0, 2.0])})["w"])
      [2. 2.]
    """
    return _map("subtract", jnp.subtract, a, b)


def scale(tree: Tree, factor: jax.typing.ArrayLike) -> Tree:
    """The product `factor * tree`; each leaf keeps its dtype, integers are rounded toward zero.

    Unlike in `optax.tree.scale`, an integer leaf does not become a float, nor a bfloat16 leaf a float32.

    Args:
      tree: a pytree of arrays.
      factor: a scalar, the same for all leaves.

    Raises:
      ValueError: `factor` is not a scalar.

    Example:
      >>> print(scale({"w": jnp.array([1.0, 2.0], "bfloat16")}, 0.5)["w"])
      [0.5 1]
    """
    _check_scalar("scale(tree, factor)", factor)
    return jax.tree.map(lambda leaf: jnp.multiply(leaf, factor).astype(jnp.result_type(leaf)), tree)


def divide(tree: Tree, denominator: jax.typing.ArrayLike) -> Tree:
    """The quotient `tree / denominator`: floats keep their dtype, integers become floats.

    The denominator is one number; `optax.tree.div` divides by a tree.

    Zero by zero is NaN, as everywhere in JAX.

    Args:
      tree: a pytree of arrays.
      denominator: a scalar, the same for all leaves.

    Raises:
      ValueError: `denominator` is not a scalar.

    Example:
      >>> print(divide({"n": jnp.array([1, 2]), "w": jnp.array([1.0, 2.0])}, 4))
      {'n': Array([0.25, 0.5 ], dtype=float32), 'w': Array([0.25, 0.5 ], dtype=float32)}
    """
    _check_scalar("divide(tree, denominator)", denominator)

    def quotient(leaf):
        dtype = jnp.result_type(leaf)
        result = jnp.divide(leaf, denominator)
        return result.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else result

    return jax.tree.map(quotient, tree)


def zeros_like(tree: Tree) -> Tree:
    """Zeros of the shapes and dtypes of `tree`, whose leaves may be `jax.ShapeDtypeStruct`.

    Example:
      >>> print(zeros_like({"w": jnp.ones(2), "n": 3}))
      {'n': Array(0, dtype=int32), 'w': Array([0., 0.], dtype=float32)}
    """

    def zeros(leaf):
        dtype = None if _is(leaf, jax.dtypes.prng_key) else _dtype(leaf)
        return jnp.zeros_like(leaf, dtype=dtype)

    return jax.tree.map(zeros, tree)


def where(condition: jax.typing.ArrayLike, a: Tree, b: Tree) -> Tree:
    """`a` if `condition` is true, else `b`; the condition is the same for all leaves, which may be keys.

    Unlike `optax.tree.where`, it takes no array of conditions, which would choose single entries in silence.

    Both are computed, and a NaN in the gradient of the one that is not taken still reaches the result's gradient.

    Args:
      condition: bool `[]`.
      a: a pytree of arrays or keys.
      b: a pytree of the same structure and shapes.

    Raises:
      ValueError: `condition` is not a scalar, or the structures differ.

    Example:
      >>> print(where(True, {"w": jnp.ones(2)}, {"w": jnp.zeros(2)})["w"])
      [1. 1.]
    """
    _check_scalar("where(condition, a, b)", condition)
    return _map("where", lambda x, y: jnp.where(condition, x, y), a, b)


def squared_norm(tree: Tree) -> jax.Array:
    r"""The sum of squares :math:`\sum_i |x_i|^2` over all entries of all leaves.

    Returns:
      float32 `[]`, summed in float32 whatever the leaves' dtypes; 0 for an empty tree. Its
      gradient at zero is zero: prefer it to `norm(tree) ** 2`.

    Example:
      >>> print(squared_norm({"w": jnp.array([3, 4])}))
      25.0
    """
    return sum((_sum_of_squares(leaf) for leaf in jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))


def norm(tree: Tree) -> jax.Array:
    r"""The L2 norm :math:`\sqrt{\sum_i |x_i|^2}` of all entries of all leaves together.

    Unlike that of `optax.tree.norm`, its gradient at zero is zero, not NaN, and it sums bfloat16 in float32.

    Returns:
      float32 `[]`; 0 for an empty tree. Its gradient at zero is zero, not NaN.

    Example:
      >>> print(norm({"w": jnp.array([3.0]), "b": jnp.array(4.0)}))
      5.0
    """
    total = squared_norm(tree)
    is_zero = total == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, total)))


def clip_by_norm(max_norm: jax.typing.ArrayLike, tree: Tree) -> Tree:
    r"""`tree` scaled down to a norm of at most `max_norm`: :math:`x \min(1, c / \|x\|)`.

    The tree is the second argument, so that `functools.partial(clip_by_norm, max_norm)` is a function of the tree.

    Args:
      max_norm: a positive scalar.
      tree: a pytree of arrays; each leaf keeps its dtype. A single NaN makes every entry NaN.

    Raises:
      ValueError: `max_norm` is not a scalar, or it is a Python number that is not positive.

    Example:
      >>> print(clip_by_norm(1.0, {"w": jnp.array([3.0, 4.0])})["w"])
      [0.6 0.8]
    """
    _check_scalar("clip_by_norm(max_norm, tree)", max_norm)
    if isinstance(max_norm, int | float) and not max_norm > 0:
        raise ValueError(f"`clip_by_norm(max_norm, tree)` needs a positive norm, got {max_norm}")
    return scale(tree, max_norm / jnp.maximum(norm(tree), max_norm))


def is_finite(tree: Tree) -> jax.Array:
    """Whether no entry of any leaf is NaN or infinite.

    Returns:
      bool `[]`; integers and keys count as finite, and so does an empty tree.

    Example:
      >>> print(is_finite({"w": jnp.array([1.0, jnp.nan])}), is_finite({"n": 3}))
      False True
    """
    inexact = [leaf for leaf in jax.tree.leaves(tree) if _is(leaf, jnp.inexact)]
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in inexact]).all() if inexact else jnp.array(True)


def any_positive(tree: Tree) -> jax.Array:
    """Whether any entry of any leaf is greater than zero.

    Returns:
      bool `[]`; False for an empty tree and for NaN.

    Example:
      >>> print(any_positive({"w": jnp.array([0.0, 2.0])}), any_positive(-1.0))
      True False
    """
    return jnp.stack([jnp.array(False), *(jnp.any(jnp.asarray(leaf) > 0) for leaf in jax.tree.leaves(tree))]).any()


def expand(prefix: Tree, tree: Tree) -> Tree:
    """A prefix of `tree` expanded to its structure, with shapes that broadcast against its leaves.

    One number then applies to all leaves, a vector to the rows of all leaves, and a dict of numbers to the fields
    of a dict.

    Args:
      prefix: a pytree of arrays whose structure is a prefix of the structure of `tree`. The shape of each leaf must be
        a prefix of the shapes of the leaves of `tree` below it.
      tree: a pytree of arrays or `jax.ShapeDtypeStruct`; its values are not read.

    Returns:
      A tree with the structure of `tree`; each leaf is the leaf of the prefix, with trailing dimensions of size one.

    Raises:
      ValueError: `prefix` is not such a prefix.

    Example:
      >>> rows = expand(jnp.array([1.0, 2.0]), {"b": jnp.ones(2), "w": jnp.ones((2, 3))})
      >>> rows["b"].shape, rows["w"].shape
      ((2,), (2, 1))
    """

    def below(entry, part):
        return jax.tree.map(lambda leaf: _expanded(entry, leaf), part)

    try:
        return jax.tree.map(below, prefix, tree)
    except ValueError as error:
        raise ValueError(
            f"`expand(prefix, tree)` takes one entry for all leaves, for the rows of each, or for each field, got\n  "
            f"{_shapes(prefix)}\nfor\n  {_shapes(tree)}"
        ) from error


def _expanded(entry: Any, leaf: Any) -> Any:
    shape, whole = jnp.shape(entry), jnp.shape(leaf)
    if whole[: len(shape)] != shape:
        raise ValueError(f"{shape} is not a prefix of {whole}")
    return jnp.reshape(entry, (*shape, *(1 for _ in whole[len(shape) :]))) if shape else entry


def _shapes(tree: Tree) -> str:
    return str(jax.tree.map(_described, tree))


def part(predicate: Callable[[str], bool], tree: Tree) -> Tree:
    """The leaves whose paths satisfy a predicate, in the containers of `tree`, with `None` in place of the others.

    Args:
      predicate: a function of a path, whose steps are joined by dots, such as `"head.kernel"`.
      tree: any pytree.

    Example:
      >>> part(lambda path: path.startswith("head."), {"body": 1.0, "head": {"bias": 2.0}})
      {'body': None, 'head': {'bias': 2.0}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if predicate(_named(map(path_entry, path))) else None, tree
    )


def with_part(tree: Tree, part: Tree) -> Tree:
    """`tree` with the leaves of a part of it replaced.

    Args:
      tree: a pytree.
      part: leaves at some of its paths, in any containers.

    Raises:
      ValueError: `part` has a leaf where `tree` has none.

    Example:
      >>> with_part({"body": 1.0, "head": {"bias": 2.0}}, {"head": {"bias": 3.0}})
      {'body': 1.0, 'head': {'bias': 3.0}}
    """
    whole, new = _by_path(tree), _by_path(part)
    if unknown := new.keys() - whole.keys():
        raise ValueError(
            f"`with_part(tree, part)` takes leaves at paths of the tree, {sorted(map(_named, whole))}, got "
            f"{min(map(_named, unknown))!r}"
        )
    return jax.tree.unflatten(jax.tree.structure(tree), list((whole | new).values()))


def cast(tree: Tree, dtype: Any) -> Tree:
    """`tree` with its real floating-point leaves converted to `dtype`; other leaves stay as they are.

    `optax.tree.cast` converts integers too, and a counter in bfloat16 ends at 256.

    Args:
      tree: a pytree of arrays or keys.
      dtype: a floating-point dtype.

    Raises:
      TypeError: `dtype` is not a floating-point dtype.

    Example:
      >>> print({k: v.dtype.name for k, v in cast({"w": jnp.ones(2), "n": jnp.array(3)}, "bfloat16").items()})
      {'n': 'int32', 'w': 'bfloat16'}
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`cast(tree, dtype)` converts floats to floats, got {dtype!r}; "
            f"for others write jax.tree.map(lambda x: x.astype(dtype), tree)"
        )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if _is(leaf, jnp.floating) else leaf, tree)


def widen(tree: Tree) -> Tree:
    """`tree` with its leaves in at least float32, for sums of many values: in bfloat16 256 + 1 is 256.

    Args:
      tree: a pytree of numbers.

    Example:
      >>> print({k: v.dtype.name for k, v in widen({"w": jnp.ones(2, "bfloat16"), "n": jnp.array(3)}).items()})
      {'n': 'float32', 'w': 'float32'}
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.promote_types(_dtype(leaf), jnp.float32)), tree)


def split_key(key: jax.Array, tree: Tree) -> Tree:
    """One independent key for each leaf: `key` with the index of the leaf folded in.

    Args:
      key: a typed key `[]`, consumed by this call.
      tree: any pytree; only its structure matters.

    Returns:
      A tree with the structure of `tree` whose leaves are keys.

    Raises:
      TypeError: `key` is not a typed key.

    Example:
      >>> keys = split_key(jax.random.key(0), {"w": 0, "b": 0})
      >>> print(jax.random.uniform(keys["w"]) == jax.random.uniform(keys["b"]))
      False
    """
    if not _is(key, jax.dtypes.prng_key):
        raise TypeError(f"`split_key(key, tree)` takes a typed key, got {key!r}; write jax.random.key(seed)")
    structure = jax.tree.structure(tree)
    return structure.unflatten([jax.random.fold_in(key, i) for i in range(structure.num_leaves)])


def size(tree: Tree) -> int:
    """The number of scalars in all leaves (arrays, keys or `jax.ShapeDtypeStruct`).

    Example:
      >>> size({"w": jnp.ones((2, 3)), "b": 1.0})
      7
    """
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Tree) -> int:
    """The number of bytes of all leaves (arrays, keys or `jax.ShapeDtypeStruct`).

    Example:
      >>> num_bytes({"w": jnp.ones((2, 3)), "b": jnp.ones(2, "bfloat16")})
      28
    """
    return sum(math.prod(jnp.shape(leaf)) * _dtype(leaf).itemsize for leaf in jax.tree.leaves(tree))


def match(tree: Tree, like: Tree) -> Tree:
    """The leaves of `tree` in the containers of `like`, matched by their paths.

    Use it for a tree that comes from a file or a message, where a NamedTuple has become a dict of its fields, or a
    tuple has become a list.

    Args:
      tree: a pytree of arrays or numbers.
      like: a pytree whose leaves have a shape and a dtype (arrays or `jax.ShapeDtypeStruct`); its values are
        not read.

    Raises:
      ValueError: `tree` lacks a leaf, has one too many, or has one of another shape or dtype.

    Example:
      >>> print(match({0: jnp.ones(2), 1: jnp.zeros(())}, like=(jnp.zeros(2), jnp.ones(()))))
      (Array([1., 1.], dtype=float32), Array(0., dtype=float32))
    """
    given, expected = _by_path(tree), _by_path(like)
    for name, paths in {"no leaf": expected.keys() - given.keys(), "an unknown leaf": given.keys() - expected}.items():
        if paths:
            raise ValueError(
                f"`match(tree, like)` takes leaves at the same paths, got {name} {min(map(_named, paths))!r}; "
                f"`like` has {sorted(map(_named, expected))}"
            )
    for path, leaf in expected.items():
        if (found := _described(given[path])) != (wanted := _described(leaf)):
            raise ValueError(
                f"`match(tree, like)` takes leaves of the same shapes and dtypes, {_named(path)!r} must be {wanted}, "
                f"got {found}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [given[path] for path in expected])


def _by_path(tree: Tree) -> dict[tuple, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(map(path_entry, path)): leaf for path, leaf in leaves}


def path_entry(step: Any) -> str | int:
    """The name of one step of a JAX key path: a dict's key, an index, or the name of a field.

    Example:
      >>> path, _ = jax.tree_util.tree_leaves_with_path({"layers": [0.5]})[0]
      >>> [path_entry(step) for step in path]
      ['layers', 0]
    """
    names = (getattr(step, attribute, None) for attribute in ("key", "idx", "name"))
    return next((name for name in names if name is not None), str(step))


def _named(path: Iterable) -> str:
    return ".".join(map(str, path))


def _described(leaf: Any) -> str:
    if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
        return repr(leaf)
    return f"{_dtype(leaf)}{list(jnp.shape(leaf))}"


def _map(name: str, fn: Callable[[Any, Any], Any], a: Tree, b: Tree) -> Tree:
    structure, other = jax.tree.structure(a), jax.tree.structure(b)
    if structure != other:
        raise ValueError(
            f"`{name}` takes two trees of the same structure, got\n  {structure}\nand\n  {other}\n"
            f"use jax.tree.map(lambda leaf: ..., tree) to convert one to the structure of the other"
        )
    return jax.tree.map(fn, a, b)


def _check_scalar(call: str, value: Any) -> None:
    if jnp.shape(value) != ():
        raise ValueError(
            f"`{call}` takes one scalar for all leaves, got the shape {jnp.shape(value)}; "
            f"for a factor per leaf write jax.tree.map(jnp.multiply, tree, factors)"
        )


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _is(leaf: Any, kind: Any) -> bool:
    return jnp.issubdtype(_dtype(leaf), kind)


def _sum_of_squares(leaf: Any) -> jax.Array:
    if _is(leaf, jnp.complexfloating):
        return _sum_of_squares(jnp.real(leaf)) + _sum_of_squares(jnp.imag(leaf))
    return jnp.sum(jnp.square(jnp.asarray(leaf, jnp.float32)))


def distinct_size(tree: Any) -> int:
    """A prime that divides no dimension of a tree's arrays, so that a dimension of that size reveals its origin.

    Args:
      tree: a pytree whose leaves have a `shape`.

    Returns:
      A prime of at least 67.

    Example:
      >>> distinct_size({"w": jnp.zeros((67, 10))})
      71
    """
    sizes = {size for leaf in jax.tree.leaves(tree) for size in leaf.shape if size}
    primes = (n for n in itertools.count(67) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1)))
    return next(prime for prime in primes if all(size % prime for size in sizes))
