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
from fedjax_core.model_calls import MASKED


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
      run: `(mask, weights, batch, key) -> anything`; in it each normalization is called by `with_mask`.
      batch_type: the type of a batch.

    Returns:
      A function like `run`; its mask may be None, where every row is an example.

    Example: the mean of a batch, as a module would compute it.

    >>> def run(mask, weights, batch, key):
    ...     x = batch["x"]
    ...     return with_mask(lambda mask=None: jnp.mean(x, axis=0, where=mask), "mean", x, None, (), {})
    >>> batch = {"x": jnp.array([[1.0], [3.0], [9.0]])}
    >>> print(masked(run, types.to_type({"x": "float32[?,1]"}))(jnp.array([True, True, False]), (), batch, None))
    [2.]
    """
    known = []

    def call(mask, weights, batch, key):
        if mask is None:
            return run(mask, weights, batch, key)
        if not known:
            # A module of one batch size, or one that fails, which its real call tells better: the next is looked at.
            with contextlib.suppress(Exception):
                known.append(_row_axes(run, batch_type, weights, key))
        if not known or not known[0]:
            return run(mask, weights, batch, key)
        with _calling(_Call(mask, known[0], 0)):
            return run(mask, weights, batch, key)

    return call


def _row_axes(run: Callable, batch_type: types.Type, weights: Any, key: jax.Array | None) -> dict:
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), weights)
    size = trees.distinct_size((weights, _abstract(batch_type, 1)))
    found = {}
    with _calling(_Call(None, found, size)):
        jax.eval_shape(run, jax.ShapeDtypeStruct((size,), bool), weights, _abstract(batch_type, size), key)
    return {name: axis for name, axis in found.items() if axis is not None}


def _abstract(batch_type: types.Type, size: int) -> Any:
    def sized(tensor):
        return jax.ShapeDtypeStruct((size, *(3 if d is None else d for d in tensor.shape[1:])), tensor.dtype)

    return jax.tree.map(sized, types.tree_of_types(batch_type))


def with_mask(method: Callable, name: Hashable, x: jax.Array, given: jax.Array | None, args, kwargs) -> Any:
    """Calls a normalization, with the mask of its input's rows.

    Args:
      method: takes `args`, `kwargs` and, unless there is none, `mask`: bool, of a shape that broadcasts to `x`.
      name: tells the normalization from the module's others.
      x: its input.
      given: the mask that the module gives itself, or None.
      args, kwargs: its other arguments.

    Returns:
      What the method gives.

    Example:

    >>> with_mask(lambda x, mask=None: mask, "norm", jnp.ones((2, 3)), None, (jnp.ones((2, 3)),), {}) is None
    True
    """
    axis = _axis_of(name, x)
    if axis is None:
        return method(*args, **kwargs, **({} if given is None else {"mask": given}))
    call = _current.get()
    assert call is not None and call.mask is not None  # else there is no axis
    with jax.named_scope(MASKED):
        rows = _rows(call.mask, x, axis)
        mask = rows if given is None else rows & jnp.asarray(given, bool)
        return method(*args, **kwargs, mask=mask)


def _axis_of(name: Hashable, x: jax.Array) -> int | None:
    """The axis of the batch's rows in the input of a normalization; notes it while the module is looked at."""
    call = _current.get()
    if call is None:
        return None
    if call.mask is not None:
        return call.axes.get((name, x.ndim))
    axes = [axis for axis, length in enumerate(x.shape) if length and length % call.size == 0]
    axis = axes[0] if len(axes) == 1 else None
    # Called twice with rows along different axes, it is left alone.
    call.axes[name, x.ndim] = axis if call.axes.get((name, x.ndim), axis) == axis else None
    return None


def _rows(mask: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    # Where no row is an example all of them count: the mean over nothing is NaN, also in the gradient of what is
    # selected from afterwards.
    rows = mask | ~jnp.any(mask)
    if x.shape[axis] != rows.shape[0]:  # rows that were split, as `[B, T, C]` to `[B * T, C]`
        rows = jnp.repeat(rows, x.shape[axis] // rows.shape[0])
    return jnp.expand_dims(rows, [i for i in range(x.ndim) if i != axis])
