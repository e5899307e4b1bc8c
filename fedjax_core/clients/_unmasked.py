"""A check of whether padding can change a metric of a model."""

import functools
import inspect
import warnings
from collections.abc import Callable

import jax

from fedjax_core import types
from fedjax_core.clients._measuring import abstract_example
from fedjax_core.contracts import Model
from fedjax_core.language.rows import padding_changes


def warn_of_unmasked_metrics(model: Model) -> None:
    """Warns, once for each metric of a model, if its statistic is another one once a batch has padding.

    Metrics of this package are not tried; those that wrap a function of the user are. None is if the predictions do not
    have one row for each example.

    Args:
      model: the model.
    """
    own = {name: metric.measure for name, metric in model.metrics.items() if name != "loss" and _is_own(metric.measure)}
    if not own:
        return
    try:
        example = types.type_of(abstract_example(model))
    except TypeError:
        return
    for name, measure in own.items():
        try:
            hash(measure)
        except TypeError:  # without a hash, the warning is repeated in each call
            _warn_once.__wrapped__(name, measure, example)
        else:
            _warn_once(name, measure, example)


def _is_own(measure: Callable) -> bool:
    return not (getattr(inspect.unwrap(measure), "__module__", None) or "").startswith("fedjax_core.")


@functools.lru_cache(maxsize=64)
def _warn_once(name: str, measure: Callable, example: types.Type) -> None:
    """`example` is the type of a prediction and of an example of a batch, as a pair."""

    def abstract(size: int):
        return jax.tree.map(lambda t: jax.ShapeDtypeStruct((size, *t.shape), t.dtype), types.tree_of_types(example))

    try:
        changed = padding_changes(lambda rows, mask: measure(*rows, mask), abstract, repeats=True)
    except Exception:  # a metric need not take random predictions and labels
        return
    if changed:
        warnings.warn(
            f"padding changes the metric {name!r}; batches are padded to one size, so its value depends on the batch "
            "size: leave out what the mask of `measure(predictions, batch, mask)` excludes, for example "
            "`jnp.sum(jnp.where(mask, errors, 0))` and `jnp.sum(mask)`",
            UserWarning,
            stacklevel=2,
        )
