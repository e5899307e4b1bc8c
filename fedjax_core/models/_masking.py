"""The mask of a batch's examples, for normalizations that a module calls without it.

An adapter calls a module as it is, and the module's own calls of `BatchNorm` know nothing about padding. Around such a
call the adapter stores the mask here, and it passes the mask to each `BatchNorm` that is called inside.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.language.rows import MASKED


class _Call(NamedTuple):
    """A call of a module.

    Attributes:
      mask: bool `[B]`; None in the trace that only finds the axes.
      axes: the axis of the batch's rows, by normalization and rank of its input.
      size: the number of rows in the trace that finds the axes; otherwise 0.
    """

    mask: jax.Array | None
    axes: dict[tuple[Hashable, int], int | None]
    size: int


_current: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("fedjax_core_mask", default=None)
_numbers = itertools.count(1)
# The number is part of the cache key of every `jit`: a jitted part of a module is traced again in each call, instead
# of keeping the mask of the call in which it was first traced.
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

    A trace with a number of rows that no other dimension has finds the axis of the rows in each normalization's input.
    This axis need not be the first: in a module that maps over examples, the first dimension may be one of an image.

    Args:
      run: `(mask, weights, batch, key) -> anything`, which calls each normalization through `with_mask`.
      batch_type: the type of a batch.

    Returns:
      A function like `run`; its mask may be None if every row is an example.

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
            # A module may take one batch size only, or fail; its real call then gives the better error, and the trace
            # is tried again in the next call.
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
    """Calls a normalization with the mask of its input's rows.

    Args:
      method: the call; it takes `args`, `kwargs` and, if there is a mask, `mask`: bool, in a shape that broadcasts to
        that of `x`.
      name: identifies the normalization within the module.
      x: the input of the normalization.
      given: the mask that the module itself passes, or None.
      args, kwargs: the arguments of the normalization.

    Returns:
      What `method` returns.

    Example:

    >>> with_mask(lambda x, mask=None: mask, "norm", jnp.ones((2, 3)), None, (jnp.ones((2, 3)),), {}) is None
    True
    """
    axis = _axis_of(name, x)
    if axis is None:
        return method(*args, **kwargs, **({} if given is None else {"mask": given}))
    call = _current.get()
    assert call is not None and call.mask is not None  # otherwise there would be no axis
    with jax.named_scope(MASKED):
        rows = _rows(call.mask, x, axis)
        mask = rows if given is None else rows & jnp.asarray(given, bool)
        return method(*args, **kwargs, mask=mask)


def _axis_of(name: Hashable, x: jax.Array) -> int | None:
    """The axis of the batch's rows in a normalization's input; recorded in the trace that finds the axes."""
    call = _current.get()
    if call is None:
        return None
    if call.mask is not None:
        return call.axes.get((name, x.ndim))
    axes = [axis for axis, length in enumerate(x.shape) if length and length % call.size == 0]
    axis = axes[0] if len(axes) == 1 else None
    # A normalization that is called twice with rows along different axes gets no mask.
    call.axes[name, x.ndim] = axis if call.axes.get((name, x.ndim), axis) == axis else None
    return None


def _rows(mask: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    # If no row is an example, all rows count: the mean over none is NaN, and the NaN would stay in the gradient even
    # if the result is not selected afterwards.
    rows = mask | ~jnp.any(mask)
    if x.shape[axis] != rows.shape[0]:  # each row was split into several, for example `[B, T, C]` into `[B * T, C]`
        rows = jnp.repeat(rows, x.shape[axis] // rows.shape[0])
    return jnp.expand_dims(rows, [i for i in range(x.ndim) if i != axis])
