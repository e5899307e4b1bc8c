"""Arithmetic, norms and casts on pytrees of arrays."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core.trees._joining import are_many, is_small
from fedjax_core.trees._structure import dtype_of, is_of_kind

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
        dtype = None if is_of_kind(leaf, jax.dtypes.prng_key) else dtype_of(leaf)
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


def norm(tree: Tree, order: float = 2) -> jax.Array:
    r"""The L2 norm :math:`\sqrt{\sum_i |x_i|^2}` of all entries of all leaves together, or another one.

    Unlike that of `optax.tree.norm`, its gradient at zero is zero, not NaN, and it sums bfloat16 in float32.

    Args:
      tree: a pytree of arrays.
      order: 2; 1 for the L1 norm :math:`\sum_i |x_i|`; `math.inf` for the largest entry :math:`\max_i |x_i|`.

    Returns:
      float32 `[]`; 0 for an empty tree. Its gradient at zero is zero, not NaN. From 1.8e19 on the L2 norm is inf,
      since it is the root of a sum in float32.

    Raises:
      ValueError: `order` is none of these.

    Example:
      >>> tree = {"w": jnp.array([3.0]), "b": jnp.array(-4.0)}
      >>> print(norm(tree), norm(tree, order=1), norm(tree, order=math.inf))
      5.0 7.0 4.0
    """
    if order == 1:
        return sum(map(jnp.sum, _magnitudes(tree)), jnp.zeros((), jnp.float32))
    if order == math.inf:
        return jnp.max(jnp.array([0.0, *(jnp.max(each, initial=0.0) for each in _magnitudes(tree))], jnp.float32))
    if order != 2:
        raise ValueError(f"`norm(tree, order)` needs an order of 1, 2 or math.inf, got {order!r}")
    total = squared_norm(tree)
    is_zero = total == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, total)))


def clip_by_norm(max_norm: jax.typing.ArrayLike, tree: Tree, order: float = 2) -> Tree:
    r"""`tree` scaled down to a norm of at most `max_norm`: :math:`x \min(1, c / \|x\|)`.

    The tree is the second argument, so that `functools.partial(clip_by_norm, max_norm)` is a function of the tree.

    Args:
      max_norm: a positive scalar.
      tree: a pytree of arrays; each leaf keeps its dtype. A single NaN makes every entry NaN.
      order: which norm, see `norm`.

    Raises:
      ValueError: `max_norm` is not a scalar, or it is a Python number that is not positive; or there is no such norm.

    Example:
      >>> print(clip_by_norm(1.0, {"w": jnp.array([3.0, 4.0])})["w"])
      [0.6 0.8]
    """
    _check_scalar("clip_by_norm(max_norm, tree)", max_norm)
    if isinstance(max_norm, int | float) and not max_norm > 0:
        raise ValueError(f"`clip_by_norm(max_norm, tree)` needs a positive norm, got {max_norm}")
    return scale(tree, max_norm / jnp.maximum(norm(tree, order), max_norm))


def is_finite(tree: Tree) -> jax.Array:
    """Whether no entry of any leaf is NaN or infinite.

    Returns:
      bool `[]`; integers and keys count as finite, and so does an empty tree.

    Example:
      >>> print(is_finite({"w": jnp.array([1.0, jnp.nan])}), is_finite({"n": 3}))
      False True
    """
    inexact = [leaf for leaf in jax.tree.leaves(tree) if is_of_kind(leaf, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(part)) for part in _few_parts(inexact)]
    return jnp.stack(finite).all() if finite else jnp.array(True)


def any_positive(tree: Tree) -> jax.Array:
    """Whether any entry of any leaf is greater than zero.

    Returns:
      bool `[]`; False for an empty tree and for NaN.

    Example:
      >>> print(any_positive({"w": jnp.array([0.0, 2.0])}), any_positive(-1.0))
      True False
    """
    return jnp.stack([jnp.array(False), *(jnp.any(jnp.asarray(leaf) > 0) for leaf in jax.tree.leaves(tree))]).any()


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
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if is_of_kind(leaf, jnp.floating) else leaf, tree)


def widen(tree: Tree) -> Tree:
    """`tree` with its leaves in at least float32, for sums of many values: in bfloat16 256 + 1 is 256.

    Args:
      tree: a pytree of numbers.

    Example:
      >>> print({k: v.dtype.name for k, v in widen({"w": jnp.ones(2, "bfloat16"), "n": jnp.array(3)}).items()})
      {'n': 'float32', 'w': 'float32'}
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.promote_types(dtype_of(leaf), jnp.float32)), tree)


def _map(name: str, fn: Callable[[Any, Any], Any], a: Tree, b: Tree) -> Tree:
    structure, other = jax.tree.structure(a), jax.tree.structure(b)
    if structure != other:
        raise ValueError(
            f"`{name}` takes two trees of the same structure, got\n  {structure}\nand\n  {other}\n"
            f"use jax.tree.map(lambda leaf: ..., tree) to convert one to the structure of the other"
        )
    return jax.tree.map(fn, a, b)


def _few_parts(leaves: list) -> list:
    """The entries of `leaves` in few arrays: where there are many small leaves, those of one dtype are joined.

    XLA compiles a kernel for the reduction of each array. Where every leaf is selected by the result, as in the guard
    of a round, it also repeats the combination of all these reductions in the kernel of each leaf, so the time to
    compile would grow with the square of the number of leaves.
    """
    groups: dict[Any, list] = {}
    for i, leaf in enumerate(leaves):
        groups.setdefault(dtype_of(leaf) if is_small(leaf) else i, []).append(leaf)
    parts = []
    for group in groups.values():
        parts += [jnp.concatenate([jnp.ravel(leaf) for leaf in group])] if are_many(group) else group
    return parts


def _check_scalar(call: str, value: Any) -> None:
    if jnp.shape(value) != ():
        raise ValueError(
            f"`{call}` takes one scalar for all leaves, got the shape {jnp.shape(value)}; "
            f"for a factor per leaf write jax.tree.map(jnp.multiply, tree, factors)"
        )


def _magnitudes(tree: Tree) -> list[jax.Array]:
    """The absolute values of each leaf in float32, where the lowest integer has one too."""
    return [_magnitude(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]


def _magnitude(leaf: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(leaf):
        return jnp.abs(leaf)
    wide = leaf.astype(jnp.float32)
    return wide * jax.lax.stop_gradient(jnp.sign(wide))  # the gradient of `jnp.abs` is 1 at zero


def _sum_of_squares(leaf: Any) -> jax.Array:
    if is_of_kind(leaf, jnp.complexfloating):
        return _sum_of_squares(jnp.real(leaf)) + _sum_of_squares(jnp.imag(leaf))
    return jnp.sum(jnp.square(jnp.asarray(leaf, jnp.float32)))
