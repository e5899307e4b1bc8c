"""Metrics of other libraries."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks, trees
from fedjax_core._own_errors import raise_if_own
from fedjax_core.contracts import Metric


def from_mergeable(metric: Any, arguments: Callable[[Any, Any], Mapping] | None = None) -> Metric:
    """Adapts a metric of a library whose metrics have `merge`, such as clu and libraries built on it.

    Statistics are added here, so a state that merges in another way (the last value, a maximum, a
    list of outputs) is refused. The library's metric sees one example at a time, and the
    states of the examples that the mask keeps are added. It needs no mask of its own, and padding never
    reaches its state. Metrics that are updated in place, such as those of flax.nnx, do not fit.

    Args:
      metric: a class, or another object, with `from_model_output(**arguments)` and `empty()`, which
        return a state: a pytree of arrays with `merge(other)` and `compute()`. Adapt the metrics of a
        collection one by one.
      arguments: `(predictions, batch) -> dict`, the arguments of `from_model_output` for a batch of one
        example; None is `{"logits": predictions, "labels": batch["y"]}`.

    Returns:
      A `Metric` whose statistic is the state and whose value is the result of `compute`.

    Raises:
      TypeError: `metric` lacks one of these functions, its state is not a pytree of numbers, merging is not
        adding, or `arguments` is not a function.

    Example:
      >>> import flax
      >>> @flax.struct.dataclass
      ... class Mean:
      ...     total: jax.Array
      ...     count: jax.Array
      ...
      ...     @classmethod
      ...     def empty(cls):
      ...         return cls(jnp.float32(0), jnp.int32(0))
      ...
      ...     @classmethod
      ...     def from_model_output(cls, values):
      ...         return cls(values.sum(), values.size)
      ...
      ...     def merge(self, other):
      ...         return Mean(self.total + other.total, self.count + other.count)
      ...
      ...     def compute(self):
      ...         return self.total / self.count
      >>> bias = from_mergeable(Mean, lambda predictions, batch: {"values": predictions - batch["y"]})
      >>> batch, mask = {"y": jnp.array([1.0, 2.0, 0.0])}, jnp.array([True, True, False])
      >>> print(bias.finalize(bias.measure(jnp.array([1.5, 2.0, jnp.nan]), batch, mask)))
      0.25
    """
    _check_adds(metric)
    arguments = _logits_and_labels if arguments is None else arguments
    repair = "leave it out for a metric of logits and labels"
    _checks.check_function("from_mergeable(arguments=...)", arguments, "of predictions and batch", repair)

    def measure(predictions, batch, mask):
        def measure_one(*example):
            alone = jax.tree.map(lambda x: x[None], example)
            return jax.tree.map(jnp.asarray, metric.from_model_output(**arguments(*alone)))

        def add_kept(x):
            kept = jnp.expand_dims(mask, tuple(range(1, x.ndim)))
            return jnp.sum(jnp.where(kept, x, 0), axis=0, dtype=x.dtype)

        return jax.tree.map(add_kept, jax.vmap(measure_one)(predictions, batch))

    return Metric(measure, lambda state: state.compute())


def _logits_and_labels(predictions, batch) -> dict:
    return {"logits": predictions, "labels": batch["y"]}


def _check_adds(metric):
    """Raises a TypeError unless the states of a metric start from zero and merge by adding leaf by leaf."""
    _check_has("a metric", metric, "from_model_output", "empty")
    empty = metric.empty()
    _check_has("states", empty, "merge", "compute")
    if not _holds_numbers(empty):
        raise TypeError(
            f"from_mergeable takes a state that is a pytree of numbers, got {empty!r}; make it one with "
            "flax.struct.dataclass or jax.tree_util.register_dataclass"
        )
    rule = "statistics are added, so from_mergeable takes a metric that starts from zeros and merges by adding"
    if any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(empty)):
        raise TypeError(
            f"{rule}, got {metric!r}, which starts from {empty!r}; adapt the metrics of a collection one by one"
        )
    first, second = _sample(empty, 3), _sample(empty, 5)
    for a, b in ((first, second), (second, first), (empty, first), (first, empty)):
        if not _same(_merged(a, b, rule), trees.add(a, b)):
            raise TypeError(
                f"{rule}, got {metric!r}, which does not merge {a!r} and {b!r} that way; write an "
                "fc.Metric(measure, finalize) whose statistic adds up"
            )


def _check_has(what: str, given, *names: str):
    missing = [name for name in names if not callable(getattr(given, name, None))]
    if missing:
        raise TypeError(
            f"from_mergeable takes {what} with the functions {' and '.join(names)}, got {given!r} without "
            f"{' and '.join(missing)}; write an fc.Metric(measure, finalize)"
        )


def _merged(a, b, rule: str):
    try:
        return a.merge(b)
    except Exception as error:
        message = f"{rule}, but merging {a!r} and {b!r} fails: {type(error).__name__}: {error}"
        raise_if_own(error, message)
        raise TypeError(message) from error


def _holds_numbers(state) -> bool:
    leaves = jax.tree.leaves(state)
    arrays = all(isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float) for leaf in leaves)
    return bool(leaves) and arrays and all(jnp.issubdtype(jnp.result_type(leaf), jnp.number) for leaf in leaves)


def _sample(state, seed: int):
    """A state of small whole numbers, whose sums are exact; different fields and seeds have different numbers."""

    def numbers(leaf, offset):
        leaf = jnp.asarray(leaf)
        return jnp.asarray(offset + np.arange(leaf.size).reshape(leaf.shape) % seed, leaf.dtype)

    leaves, structure = jax.tree.flatten(state)
    return structure.unflatten([numbers(leaf, seed * (i + 1)) for i, leaf in enumerate(leaves)])


def _same(a, b) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
