"""Measuring a model on batches."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.contracts import Metric, Model, ModelWeights, model_metrics
from fedjax_core.language._abstract import abstract_batch, infer


def split_weights(weights) -> tuple:
    """`(trainable, non_trainable)`; a plain pytree is all trainable, its second part None."""
    return tuple(weights) if isinstance(weights, ModelWeights) else (weights, None)


def join_weights(trainable, non_trainable):
    """The inverse of `split_weights`."""
    return trainable if non_trainable is None else ModelWeights(trainable, non_trainable)


def measure(metrics: Mapping[str, Metric], predictions, batch, mask) -> dict:
    """The statistics of one batch by name."""
    return {name: metric.measure(predictions, batch, mask) for name, metric in metrics.items()}


def abstract_statistics(model: Model) -> dict:
    """The abstract statistics of a model's metrics, whose shapes no batch size changes.

    Raises:
      TypeError: the model does not take its own batches, or a statistic depends on the batch size.
    """
    metrics = model_metrics(model)

    def statistics(key, batch, mask):
        return measure(metrics, model.predict(model.init(key), batch), batch, mask)

    abstract = infer(statistics, (_abstract_key(), *abstract_batch(model.batch_type)), "the model and its metrics")
    for path, leaf in types.leaves(types.type_of(abstract)):
        if None in leaf.shape:
            raise TypeError(
                f"a metric's statistic adds up over batches of any size, but {path!r} is {leaf}; sum over the batch "
                "in `measure`"
            )
    return abstract


def no_statistics(model: Model) -> dict:
    """The statistics of no batch at all: zeros."""
    return trees.zeros_like(abstract_statistics(model))


def weights_type(model: Model) -> types.Type:
    """The type of a model's weights.

    Raises:
      TypeError: `init` fails, or a trainable weight is no floating point number.
    """
    weights = infer(model.init, (_abstract_key(),), "the model's `init`")
    for path, leaf in types.leaves(types.type_of(split_weights(weights)[0])):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"trainable weights are floating point numbers, but {path!r} is {leaf}; keep it in "
                "ModelWeights(trainable, non_trainable)"
            )
    return types.type_of(weights)


def _abstract_key():
    return jax.eval_shape(lambda: jax.random.key(0))
