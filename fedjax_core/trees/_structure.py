"""The structure of pytrees: their parts, sizes and containers, and one key for each leaf."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


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
    if not is_of_kind(key, jax.dtypes.prng_key):
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
    return sum(math.prod(jnp.shape(leaf)) * dtype_of(leaf).itemsize for leaf in jax.tree.leaves(tree))


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
    return f"{dtype_of(leaf)}{list(jnp.shape(leaf))}"


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


def dtype_of(leaf: Any) -> Any:
    """The dtype of an array, or the one that JAX gives a Python number."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def is_of_kind(leaf: Any, kind: Any) -> bool:
    """Whether the dtype of a leaf belongs to a kind, such as `jnp.floating`."""
    return jnp.issubdtype(dtype_of(leaf), kind)
