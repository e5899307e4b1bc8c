"""The metrics that a participant measures."""

from collections.abc import Iterable, Mapping
from typing import Any

from fedjax_core import metrics as library
from fedjax_core.contracts import Metric, Model
from fedjax_core.model_calls import model_metrics


def with_metrics(model: Model, metrics: Mapping[str, Metric | str] | Iterable[str] | None) -> Model:
    """The model with other metrics.

    Args:
      model: the model.
      metrics: a dict from name to `Metric`, or a list of names of the model's own metrics or of the metrics in
        `fc.metrics` that need no argument. None for the model's own.

    Returns:
      A model. Its metrics need not include the loss, which `model_calls.model_metrics` adds.

    Raises:
      TypeError: `metrics` is neither of these, or `model` is not a `Model`.
      ValueError: there is no metric of that name, or another metric is named "loss".

    Example:
      >>> import fedjax_core as fc
      >>> list(with_metrics(fc.models.logistic_regression(2, 3), ["accuracy"]).metrics)
      ['accuracy']
    """
    own = model_metrics(model)
    if metrics is None:
        return model
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise TypeError(
            f"TrainingManager(metrics=...) must be a dict from name to Metric or a list of names, got {metrics!r}; "
            'write metrics=["accuracy"]'
        )
    named = metrics if isinstance(metrics, Mapping) else {_name(name): name for name in metrics}
    given = {name: metric for name, metric in named.items() if not name == metric == "loss"}
    chosen = model._replace(metrics={name: _metric(own, metric) for name, metric in given.items()})
    model_metrics(chosen)  # raises for a metric of another kind that is named "loss"
    return chosen


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(
            f"TrainingManager(metrics=[...]) must list names, got {name!r}; give a Metric its name: "
            'metrics={"accuracy": fc.metrics.accuracy()}'
        )
    return name


def _metric(own: Mapping[str, Metric], metric: Any) -> Any:
    if not isinstance(metric, str):
        return metric
    if metric in own:
        return own[metric]
    try:
        made = getattr(library, metric)() if metric in library.__all__ else None
    except TypeError:
        made = None
    if not isinstance(made, Metric):
        raise ValueError(
            f"there is no metric {metric!r} that needs no argument; the model has {', '.join(own)}, and "
            f"others must be given as values: metrics={{{metric!r}: fc.metrics.top_k_accuracy(3)}}"
        )
    return made
