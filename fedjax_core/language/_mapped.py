"""Functions that are mapped over a client's batches: they may take the mask, and some would need it."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees, types
from fedjax_core.language._rows import combines_rows, differ, takes_mask, trial_batches, trial_mask

_NUM_EXAMPLES = 4


def transformed(transforms: tuple[Callable, ...], batch: Any, mask: Any) -> Any:
    """A batch after these functions, each of which gets the mask if it has a parameter of that name.

    Example:

    >>> transformed((lambda batch: 2 * batch, lambda batch, mask: batch + mask), 3, 1)
    7
    """
    for fn in transforms:
        batch = fn(batch, mask=mask) if takes_mask(fn) else fn(batch)
    return batch


def warn_of_padding(transforms: tuple[Callable, ...], element: types.Type, repeats: bool) -> None:
    """Warns if padding changes what mapped functions make of the examples of a batch.

    They are traced first, which is enough if they never combine rows. Otherwise they run on a small batch, with and
    without the padding that the engine would give it. What captures values that are being traced cannot run.

    Args:
      transforms: the functions, in order; the last one is named.
      element: the type of a stored batch.
      repeats: whether padding repeats the first example; otherwise it is zeros.
    """
    run = functools.partial(transformed, transforms)
    try:
        changed = _may_combine(run, element) and _changes(run, element, repeats)
    except Exception:  # it fails again, with a better message, where the functions are applied
        return
    if changed:
        name = getattr(transforms[-1], "__qualname__", repr(transforms[-1]))
        warnings.warn(
            f"padding changes what `{name}` makes of the examples of a batch in ClientBatches.map; batches are padded "
            "to one size, so results depend on the batch size: give it a parameter `mask` and leave out what that "
            "excludes, for example `data.map(lambda batch, mask: jnp.mean(batch['x'], axis=0, where=mask[:, None]))`",
            UserWarning,
            stacklevel=4,
        )


def _abstract(element: types.Type, size: int) -> Any:
    def sized(tensor):
        return jax.ShapeDtypeStruct((size, *(3 if d is None else d for d in tensor.shape[1:])), tensor.dtype)

    return jax.tree.map(sized, types.tree_of_types(element))


def _may_combine(run: Callable, element: types.Type) -> bool:
    size = trees.distinct_size(_abstract(element, 1))
    mask = jax.ShapeDtypeStruct((size,), bool)
    return combines_rows(jax.make_jaxpr(run)(_abstract(element, size), mask).jaxpr, size)


def _changes(run: Callable, element: types.Type, repeats: bool) -> bool:
    number = _NUM_EXAMPLES
    mask = np.arange(2 * number) < number

    def padded(x: np.ndarray) -> np.ndarray:
        first = np.repeat(x[:1], number, axis=0)
        return np.concatenate([x, first if repeats else np.zeros_like(first)])

    for batch, _ in trial_batches(_abstract(element, number), trial_mask(number)):
        with jax.ensure_compile_time_eval():  # a client's function is being traced
            alone, among = (
                jax.tree.map(np.asarray, run(jax.tree.map(jnp.asarray, b), jnp.asarray(m)))
                for b, m in ((batch, mask[:number]), (jax.tree.map(padded, batch), mask))
            )
        pairs = [_of_examples(*leaves) for leaves in zip(jax.tree.leaves(alone), jax.tree.leaves(among), strict=True)]
        some, others = map(list, zip(*pairs))
        if differ(some, others):
            return True
        if not any(np.isnan(leaf).all() for leaf in some):
            return False
    return False


def _of_examples(alone: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both results as float64, of the second only what belongs to the examples."""
    among = among[: len(alone)] if alone.shape[:1] == (_NUM_EXAMPLES,) else among
    return alone.astype(np.float64), among.astype(np.float64)
