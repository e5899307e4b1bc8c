"""Multinomial logistic regression."""

from collections.abc import Mapping

import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.contracts import Metric, Model
from fedjax_core.models import _adapting, _arguments, _layers, _losses


def logistic_regression(num_features: int, num_classes: int, metrics: Mapping[str, Metric] | None = None) -> Model:
    """Softmax regression: `logits = x @ kernel + bias`, starting from zeros.

    Args:
      num_features: `N`, the number of features.
      num_classes: `C`, the number of classes.
      metrics: metrics by name, in addition to the loss.

    Returns:
      A `Model` for batches `<x=float32[?,N],y=int32[?]>`. Its weights are `kernel`, float32 `[N, C]`, and `bias`,
      float32 `[C]`. It predicts logits, float32 `[B, C]`; its loss is `cross_entropy()`.

    Raises:
      TypeError, ValueError: a size is not a positive integer.

    Example:
      >>> import jax
      >>> model = logistic_regression(784, 10)
      >>> str(model.batch_type)
      '<x=float32[?,784],y=int32[?]>'
      >>> weights = model.init(jax.random.key(0))
      >>> model.predict(weights, {"x": jnp.ones((2, 784))}).shape
      (2, 10)
    """
    _arguments.check_positive("logistic_regression", num_features=num_features, num_classes=num_classes)

    def init(key):
        del key
        return {"kernel": jnp.zeros((num_features, num_classes)), "bias": jnp.zeros(num_classes)}

    def predict(weights, batch, key=None, training=False):
        return _layers.dense(weights, batch["x"])

    batch_type = types.parse_type(f"<x=float32[?,{num_features}],y=int32[?]>")
    return Model(init, predict, _losses.cross_entropy(), _adapting.metrics_dict(metrics), batch_type)
