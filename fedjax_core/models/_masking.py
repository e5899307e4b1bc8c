"""The mask of a batch's examples, where a module calls its normalization without it.

A module is called as it is, and its own calls of `BatchNorm` know nothing of padding. The adapters put the mask
here around such a call, and hand it to each `BatchNorm` on the way in.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import trees, types


class _Call(NamedTuple):
    """A call of a module.

    Attributes:
      mask: bool `[B]`; None while the module is only looked at.
      axes: of each normalization, and the rank of its input, the axis of the batch's rows.
      size: the number of rows while the module is looked at; else 0.
    """

    mask: jax.Array | None
    axes: dict[tuple[Hashable, int], int | None]
    size: int


_current: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("fedjax_core_mask", default=None)
_numbers = itertools.count(1)
# Part of the cache key of every `jit`: a jitted part of a module is traced anew in each call, and does not go on
# with the mask of the call that it was first traced in.
_number = jax.make_user_context(0)


@contextlib.contextmanager
def _calling(call: _Call) -> Iterator[None]:
    token = _current.set(call)
    try:
        with _number(next(_numbers)):
            yield
    finally:
        _current.reset(token)


def masked(run: Callable, batch_type: types.Type) -> Callable:
    """A function that calls a module, with the mask for its normalizations.

    Where the rows of a normalization's input are is found by a trace with a number of rows that no other
    dimension has: in a module that maps over examples the first dimension may be one of an image.

    Args:
      run: `(mask, weights, batch, key) -> anything`; in it each normalization asks for `row_mask`.
      batch_type: the type of a batch.

    Returns:
      A function like `run`; its mask may be None, where every row is an example.

    Example: the mean of a batch, as a module would compute it.

    >>> def run(mask, weights, batch, key):
    ...     return jnp.mean(batch["x"], axis=0, where=row_mask("mean", batch["x"], None))
    >>> batch = {"x": jnp.array([[1.0], [3.0], [9.0]])}
    >>> print(masked(run, types.to_type({"x": "float32[?,1]"}))(jnp.array([True, True, False]), (), batch, None))
    [2.]
    """
    known = []

    def call(mask, weights, batch, key):
        if mask is None:
            return run(mask, weights, batch, key)
        if not known:
            known.append(_row_axes(run, batch_type, weights, key))
        (axes,) = known
        if not axes:
            return run(mask, weights, batch, key)
        with _calling(_Call(mask, axes, 0)):
            return run(mask, weights, batch, key)

    return call


def _row_axes(run: Callable, batch_type: types.Type, weights: Any, key: jax.Array | None) -> dict:
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), weights)
    size = trees.distinct_size((weights, _abstract(batch_type, 1)))
    found = {}
    with _calling(_Call(None, found, size)):
        try:
            mask = jax.ShapeDtypeStruct((size,), bool)
            jax.eval_shape(run, mask, weights, _abstract(batch_type, size), key)
        except Exception:  # a module of one batch size, or one that fails, which its real call tells better
            return {}
    return {name: axis for name, axis in found.items() if axis is not None}


def _abstract(batch_type: types.Type, size: int) -> Any:
    def sized(tensor):
        return jax.ShapeDtypeStruct((size, *(3 if d is None else d for d in tensor.shape[1:])), tensor.dtype)

    return jax.tree.map(sized, types.tree_of_types(batch_type))


def row_mask(name: Hashable, x: jax.Array, given: jax.Array | None) -> jax.Array | None:
    """The mask of `x`, the input of a normalization.

    Where no row is an example all of them count, since the mean over nothing is NaN, also in the gradient of what
    is selected from afterwards.

    Args:
      name: tells the normalization from the module's others.
      x: its input, with the batch's rows along one axis.
      given: the mask that the module gives itself, of a shape that broadcasts to `x`; or None.

    Returns:
      Bool, of a shape that broadcasts to `x`; `given` where there is no mask, or `x` has no axis of rows.

    Example:

    >>> print(row_mask("norm", jnp.ones((2, 3)), None))
    None
    """
    call = _current.get()
    if call is None:
        return given
    if call.mask is None:
        axis = _row_axis(x, call.size)
        # Called twice with rows at different places, it is left alone.
        call.axes[name, x.ndim] = axis if call.axes.get((name, x.ndim), axis) == axis else None
        return given
    axis = call.axes.get((name, x.ndim))
    if axis is None:
        return given
    rows = call.mask | ~jnp.any(call.mask)
    if x.shape[axis] != rows.shape[0]:  # rows that were split, as `[B, T, C]` to `[B * T, C]`
        rows = jnp.repeat(rows, x.shape[axis] // rows.shape[0])
    rows = jnp.expand_dims(rows, [i for i in range(x.ndim) if i != axis])
    return rows if given is None else rows & jnp.asarray(given, bool)


def _row_axis(x: jax.Array, size: int) -> int | None:
    axes = [axis for axis, length in enumerate(x.shape) if length and length % size == 0]
    return axes[0] if len(axes) == 1 else None
