"""The multilayer perceptron."""

import itertools
from collections.abc import Mapping, Sequence

import jax

from fedjax_core import types
from fedjax_core.contracts import Metric, Model
from fedjax_core.models import _adapting, _arguments, _layers, _losses


def mlp(
    num_features: int,
    hidden: int | Sequence[int],
    num_classes: int,
    metrics: Mapping[str, Metric] | None = None,
) -> Model:
    """Dense layers with a ReLU after each layer but the last.

    `mlp(784, (200, 200), 10)` is the "2NN" of McMahan et al. 2017.

    Args:
      num_features: `N`, the number of features.
      hidden: the number of units of each hidden layer; an integer for a single hidden layer.
      num_classes: `C`, the number of classes.
      metrics: metrics by name, in addition to the loss.

    Returns:
      A `Model` for batches `<x=float32[?,N],y=int32[?]>`. Its weights are `dense_0`, `dense_1`, ..., each with a
      `kernel`, float32 `[I, O]`, initially LeCun normal, and a `bias`, float32 `[O]`, initially zero. It predicts
      logits, float32 `[B, C]`; its loss is `cross_entropy()`.

    Raises:
      TypeError, ValueError: a size is not a positive integer.

    References:
      McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
      Data", arXiv:1602.05629.

    Example:
      >>> import jax.numpy as jnp
      >>> model = mlp(784, (200, 200), 10)
      >>> weights = model.init(jax.random.key(0))
      >>> list(weights), weights["dense_1"]["kernel"].shape
      (['dense_0', 'dense_1', 'dense_2'], (200, 200))
      >>> model.predict(weights, {"x": jnp.ones((2, 784))}).shape
      (2, 10)
    """
    units = (hidden,) if not isinstance(hidden, Sequence) else tuple(hidden)
    sizes = (num_features, *units, num_classes)
    _arguments.check_positive("mlp", num_features=num_features, num_classes=num_classes)
    for size in units:
        _arguments.check_positive("mlp", hidden=size)
    num_layers = len(sizes) - 1

    def init(key):
        keys = jax.random.split(key, num_layers)
        layers = zip(keys, itertools.pairwise(sizes))
        return {f"dense_{i}": _layers.init_dense(k, *shape) for i, (k, shape) in enumerate(layers)}

    def predict(weights, batch, key=None, training=False):
        x = batch["x"]
        for i in range(num_layers - 1):
            x = jax.nn.relu(_layers.dense(weights[f"dense_{i}"], x))
        return _layers.dense(weights[f"dense_{num_layers - 1}"], x)

    batch_type = types.parse_type(f"<x=float32[?,{num_features}],y=int32[?]>")
    return Model(init, predict, _losses.cross_entropy(), _adapting.metrics_dict(metrics), batch_type)
