"""The functions that finalize metrics, and their checks."""

from collections.abc import Callable, Mapping

from fedjax_core import types


class MetricFinalizersMismatchError(TypeError, ValueError):
    """The finalizers do not have the names of the metrics."""


def finalizer_of(finalizers, unfinalized: types.Type) -> Callable:
    """The function from statistics to metrics.

    Args:
      finalizers: a function of all metrics, which is returned as it is, or a dict with one per metric.
      unfinalized: the type of the statistics.

    Raises:
      TypeError: either of them is of the wrong kind.
      MetricFinalizersMismatchError: the names differ.

    Example:

    >>> finalize = finalizer_of({"loss": lambda s: s[0] / s[1]}, types.to_type({"loss": ("float32", "int32")}))
    >>> finalize({"loss": (3.0, 2)})
    {'loss': 1.5}
    """
    _check_unfinalized(unfinalized)
    struct = types.of_kind(unfinalized, types.StructType)
    _check_finalizers(finalizers, struct)
    if callable(finalizers):
        return finalizers

    def finalize(statistics):
        by_name = dict(zip(struct.names, struct.unpack(statistics)))
        return {name: finalizer(by_name[name]) for name, finalizer in finalizers.items()}

    return finalize


def _check_unfinalized(unfinalized: types.Type):
    """Checks the type of a client's statistics, a struct with a field for each metric.

    Raises:
      TypeError: it is not a struct whose fields all have names and whose leaves are tensors.
    """
    named = isinstance(unfinalized, types.StructType) and None not in unfinalized.names
    if not named or not all(isinstance(leaf, types.TensorType) for _, leaf in types.type_leaves(unfinalized)):
        raise TypeError(
            "the type of unfinalized metrics must be a struct of tensors with a name for every metric, got "
            f"{unfinalized}; write fc.types.to_type({{'loss': ('float32', 'int32')}})"
        )


def _check_finalizers(finalizers, unfinalized: types.StructType):
    """Checks that functions finalize metrics of this type.

    Args:
      finalizers: a function of all metrics, or a dict with one per metric.
      unfinalized: a type that has passed `_check_unfinalized`.

    Raises:
      TypeError: they are neither a function nor a dict of functions.
      MetricFinalizersMismatchError: the names differ.
    """
    if callable(finalizers):
        return
    if not isinstance(finalizers, Mapping) or not all(
        isinstance(name, str) and callable(finalizer) for name, finalizer in finalizers.items()
    ):
        raise TypeError(
            "the finalizers must be a function of all metrics or a dict of functions by metric name, got "
            f"{finalizers!r}; write {{name: metric.finalize for name, metric in metrics.items()}}"
        )
    if set(finalizers) != set(unfinalized.names):
        raise MetricFinalizersMismatchError(
            f"the finalizers {sorted(finalizers)} do not have the names of the metrics, "
            f"{sorted(map(str, unfinalized.names))}; give one per metric"
        )
