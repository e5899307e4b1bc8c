"""What a function does with the rows of a batch: an analysis of its jaxpr, and batches on which it is tried.

Padding is left out of a result by a mask, which is of no use for what a function has already mixed into other rows.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

MASKED = "fedjax_core.masked"
"""The `jax.named_scope` of operations that combine the rows of a batch and leave padding out."""

# Eight rows, since some models only take batches of an even number.
_MASK = (True, False, True, True, False, True, True, False)
_NUM_EXAMPLES = 4  # of a batch with and without padding
_OPAQUE = ("pallas_call", "ffi_call", "pure_callback", "io_callback")


def takes_mask(function: Callable) -> bool:
    """Whether a function has a parameter `mask`.

    Example:

    >>> takes_mask(lambda batch, mask: batch), takes_mask(lambda batch: batch)
    (True, False)
    """
    try:
        return "mask" in inspect.signature(function).parameters
    except ValueError:  # some callables written in C have no signature
        return False


def combines_rows(jaxpr, num_rows: int) -> bool:
    """Whether an operation removes the dimension of rows, duplicates it, or works along it."""
    return any(_eqn_combines(eqn, num_rows) for eqn in jaxpr.eqns if MASKED not in str(eqn.source_info.name_stack))


def _eqn_combines(eqn, num_rows: int) -> bool:
    inputs = [_row_dims(variable, num_rows) for variable in eqn.invars]
    most = max(map(len, inputs), default=0)
    if eqn.primitive.name in _OPAQUE:  # checked before its inner jaxprs: a kernel's blocks have other dimensions
        return most > 0
    if eqn.primitive.name == "scan" and _carries_over_rows(eqn, inputs):
        return True
    inner = list(core.jaxprs_in_params(eqn.params))
    if inner:
        return any(combines_rows(jaxpr, num_rows) for jaxpr in inner)
    if not most:
        return False
    if eqn.primitive.name == "reshape" and _mixes(eqn, num_rows):
        return True
    kept = [len(_row_dims(variable, num_rows)) for variable in eqn.outvars]
    return any(not number or number > most for number in kept) or any(
        dim in dims for dims, worked in zip(inputs, _along(eqn)) for dim in worked
    )


def _mixes(reshape, num_rows: int) -> bool:
    """Whether a reshape spreads what was one row over several rows, as `[B, T]` to `[T, B]` does.

    For a dimension that holds more than the rows, `[B * T]`, the sizes do not say which of the two comes first.
    """
    before, after = (
        {math.prod(shape[:dim]) for dim, size in enumerate(shape) if size == num_rows}
        for shape in (reshape.invars[0].aval.shape, reshape.outvars[0].aval.shape)
    )
    return bool(before and after) and before != after


def _carries_over_rows(eqn, inputs: list[list[int]]) -> bool:
    """Whether a scan over rows carries something from one row to the next."""
    # Judged by ranks, since the parameters that count constants and carries have other names from JAX 0.12 on.
    body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    is_scanned = [outer.aval.ndim > inner.aval.ndim for outer, inner in zip(eqn.invars, body.invars)]
    is_carried = [outer.aval.ndim == inner.aval.ndim for outer, inner in zip(eqn.outvars, body.outvars)]
    return any(is_carried) and any(scanned and 0 in dims for scanned, dims in zip(is_scanned, inputs))


def _row_dims(variable, num_rows: int) -> list[int]:
    """The dimensions of a value that hold the batch's rows; a dimension that holds their square is in it twice."""
    dims = []
    for dim, size in enumerate(getattr(variable.aval, "shape", ())):
        while size and size % num_rows == 0:
            dims.append(dim)
            size //= num_rows
    return dims


def _along(eqn) -> list[tuple[int, ...]]:
    """The dimensions of each input along which an operation works, for operations that keep the shape."""
    name, params = eqn.primitive.name, eqn.params
    if name.startswith("cum") or name == "top_k":
        return [(params["axis"],)]
    if name in ("sort", "concatenate"):
        return [(params["dimension"],)] * len(eqn.invars)
    if name == "rev":
        return [params["dimensions"]]
    if name == "pad":
        return [tuple(dim for dim, padded in enumerate(params["padding_config"]) if any(padded))]
    if name == "fft":
        return [tuple(range(eqn.invars[0].aval.ndim))[-len(params["fft_lengths"]) :]]
    if name.startswith("reduce_window"):
        return [tuple(dim for dim, size in enumerate(params["window_dimensions"]) if size > 1)] * len(eqn.invars)
    if name == "conv_general_dilated":
        return [params["dimension_numbers"].lhs_spec[1:], params["dimension_numbers"].rhs_spec]
    if name == "gather":
        return [params["dimension_numbers"].start_index_map]
    if name.startswith("scatter"):
        return [params["dimension_numbers"].scatter_dims_to_operand_dims]
    return []


def trial_mask(size: int | None = None) -> np.ndarray:
    """The mask of the batches on which functions are tried, bool `[size]`; None for the usual size."""
    return np.resize(_MASK, size or len(_MASK))


def trial_batches(abstract: Any, mask: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Pairs of random batches that differ in rows of padding only: of any numbers, and then of positive ones.

    Args:
      abstract: a pytree of `jax.ShapeDtypeStruct` `[B, ...]`.
      mask: bool `[B]`.
    """
    for draw in _DRAWS:
        batch = jax.tree.map(functools.partial(_random, np.random.default_rng(0), draw), abstract)
        yield batch, jax.tree.map(lambda x: np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, _changed(x)), batch)


_DRAWS = (np.random.Generator.normal, np.random.Generator.random)
"""How floats are drawn: any numbers, and numbers that a logarithm or a root takes."""


def _random(random: np.random.Generator, draw: Callable, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Random values for a leaf: floats from `draw`, integers 0 or 1, which every set of classes or words contains."""
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.asarray(draw(random, size=leaf.shape)).astype(leaf.dtype)
    return random.integers(0, 2, leaf.shape).astype(leaf.dtype)


def _changed(x: np.ndarray) -> np.ndarray:
    """Other values, which are finite: padding is filled with an example, so a model may mask it by multiplication."""
    return (3 * x + 2 if jnp.issubdtype(x.dtype, jnp.floating) else 1 - x).astype(x.dtype)


def differ(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """Whether two lists of arrays differ by more than another order of the same sums would explain."""
    return any(map(_leaves_differ, some, others))


def _leaves_differ(a: np.ndarray, b: np.ndarray) -> bool:
    scale = np.max(np.abs(a), initial=0, where=np.isfinite(a))
    return not np.allclose(a, b, rtol=0, atol=1e-3 * scale + 1e-9, equal_nan=True)


def padding_changes(run: Callable, abstract: Callable, repeats: bool) -> bool:
    """Whether a function of a batch gives something else for the examples once the batch has padding.

    Args:
      run: `(batch, mask) -> result`; the leaves of a batch's rows among the result have its size in front.
      abstract: `size -> batch`, a pytree of `jax.ShapeDtypeStruct` `[size, ...]`.
      repeats: whether padding repeats the first example, as in `ClientBatches.filled`; otherwise it is zeros.

    Example:

    >>> def rows(size):
    ...     return jax.ShapeDtypeStruct((size,), np.float32)
    >>> padding_changes(lambda batch, mask: batch.mean(), rows, False)
    True
    >>> padding_changes(lambda batch, mask: batch.mean(where=mask), rows, False)
    False
    """
    number = _NUM_EXAMPLES
    mask = np.arange(2 * number) < number

    def result(batch, mask):
        with jax.ensure_compile_time_eval():  # a client's function may be being traced
            found = run(jax.tree.map(jnp.asarray, batch), jnp.asarray(mask))
        return [np.asarray(leaf).astype(np.float64) for leaf in jax.tree.leaves(found)]

    for batch, _ in trial_batches(abstract(number), mask[:number]):
        alone = result(batch, mask[:number])
        among = [result(other, mask) for other in _padded(batch, number, repeats)]
        if any(differ(alone, [_of_examples(*pair) for pair in zip(alone, found, strict=True)]) for found in among):
            return True
        if not any(leaf.size and np.isnan(leaf).all() for leaf in alone):
            return False
    return False


def _padded(batch: Any, number: int, repeats: bool) -> Iterator[Any]:
    """The batch with as many rows of padding: zeros, or each of its examples in turn, as any could be the first."""
    for i in range(number if repeats else 1):

        def leaf(x, i=i):
            row = x[i : i + 1] if repeats else np.zeros_like(x[:1])
            return np.concatenate([x, np.repeat(row, number, axis=0)])

        yield jax.tree.map(leaf, batch)


def _of_examples(alone: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The second result without the rows of padding."""
    return among[: len(alone)] if alone.shape[:1] == (_NUM_EXAMPLES,) else among
