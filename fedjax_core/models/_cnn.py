"""The convolutional network that federated learning papers train on EMNIST."""

from collections.abc import Mapping

import jax

from fedjax_core import types
from fedjax_core.contracts import Metric, Model
from fedjax_core.models import _adapting, _arguments, _layers, _losses, layers


def emnist_cnn(
    num_classes: int = 62,
    image_shape: tuple[int, int, int] = (28, 28, 1),
    metrics: Mapping[str, Metric] | None = None,
) -> Model:
    """Two 3x3 convolutions (32 and 64 channels), a 2x2 max-pool, a dense layer of 128 units and a dense output layer.

    A ReLU follows each convolution and the first dense layer; there is no dropout. The convolutions and the pooling
    are those of `layers`, which are fast inside the engine's loops.

    Args:
      num_classes: `C`; 62 for EMNIST's digits and letters, 10 for its digits.
      image_shape: height, width (at least 6 each) and number of channels.
      metrics: metrics by name, in addition to the loss.

    Returns:
      A `Model` for batches such as `<x=float32[?,28,28,1],y=int32[?]>`. Its weights are `conv1`, `conv2`, `dense1`
      and `dense2`, each with a `kernel` (float32 `[3, 3, I, O]` or `[I, O]`, initially LeCun normal) and a `bias`
      (float32 `[O]`, initially zero). It predicts logits, float32 `[B, C]`; its loss is `cross_entropy()`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or the image is too small.

    References:
      Reddi et al. 2021, "Adaptive Federated Optimization", arXiv:2003.00295, table 4 (there with dropout).

    Example:
      >>> import jax.numpy as jnp
      >>> model = emnist_cnn()
      >>> str(model.batch_type)
      '<x=float32[?,28,28,1],y=int32[?]>'
      >>> weights = model.init(jax.random.key(0))
      >>> model.predict(weights, {"x": jnp.ones((2, 28, 28, 1))}).shape
      (2, 62)
    """
    if len(image_shape) != 3:
        raise ValueError(
            f"emnist_cnn(image_shape=...) must be (height, width, channels), got {image_shape}; "
            "for grayscale images write (28, 28, 1)"
        )
    height, width, channels = image_shape
    _arguments.check_positive("emnist_cnn", num_classes=num_classes, height=height, width=width, channels=channels)
    if min(height, width) < 6:
        raise ValueError(
            f"emnist_cnn(image_shape=...) must be at least 6 pixels high and wide, got {image_shape}; "
            "for smaller images use `mlp`"
        )
    num_pooled = ((height - 4) // 2) * ((width - 4) // 2) * 64

    def init(key):
        keys = jax.random.split(key, 4)
        return {
            "conv1": _layers.init_conv3x3(keys[0], channels, 32),
            "conv2": _layers.init_conv3x3(keys[1], 32, 64),
            "dense1": _layers.init_dense(keys[2], num_pooled, 128),
            "dense2": _layers.init_dense(keys[3], 128, num_classes),
        }

    def predict(weights, batch, key=None, training=False):
        x = jax.nn.relu(_conv(weights["conv1"], batch["x"]))
        x = jax.nn.relu(_conv(weights["conv2"], x))
        x = _layers.flatten(layers.max_pool(x))
        x = jax.nn.relu(_layers.dense(weights["dense1"], x))
        return _layers.dense(weights["dense2"], x)

    batch_type = types.parse_type(f"<x=float32[?,{height},{width},{channels}],y=int32[?]>")
    return Model(init, predict, _losses.cross_entropy(), _adapting.metrics_dict(metrics), batch_type)


def _conv(weights, x):
    return layers.conv(x, weights["kernel"], weights["bias"])
