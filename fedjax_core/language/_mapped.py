"""Functions that are mapped over a client's batches: they may take the mask, and some would need it."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax

from fedjax_core import _checks, trees, types
from fedjax_core.language._rows import combines_rows, padding_changes, takes_mask


def transformed(transforms: tuple[Callable, ...], batch: Any, mask: Any) -> Any:
    """A batch after these functions, each of which gets the mask if it has a parameter of that name.

    Example:

    >>> transformed((lambda batch: 2 * batch, lambda batch, mask: batch + mask), 3, 1)
    7
    """
    for fn in transforms:
        batch = fn(batch, mask=mask) if takes_mask(fn) else fn(batch)
        _checks.check_returned("the function of ClientBatches.map", batch)
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
        changed = _may_combine(run, element) and padding_changes(run, functools.partial(_abstract, element), repeats)
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
