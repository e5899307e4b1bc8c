"""Models: adapters for flax, Keras and equinox, losses, and small reference models.

A model is a `contracts.Model(init, predict, loss, metrics, batch_type)`, a NamedTuple of pure functions over a pytree
of weights. Write one directly, adapt a module, or use one of the reference models:

  from_linen, from_nnx                    a model from a flax module, linen or nnx
  from_keras, assign_to_keras             a model from a Keras 3 model on JAX, and its weights back
  from_equinox, to_equinox                a model from an equinox module, and its weights back
  cross_entropy, sequence_cross_entropy,  losses of the single examples, as a model needs them
    squared_error
  logistic_regression, mlp, emnist_cnn,   the models of the federated learning papers, in plain JAX
    character_model
  layers                                  convolution, pooling and recurrence, fast inside the engine's loops

The caller chooses a model's metrics, as a dict from name to `Metric`:

  >>> from fedjax_core import metrics, models
  >>> model = models.logistic_regression(784, 10, metrics={"accuracy": metrics.accuracy()})
  >>> list(model.metrics)
  ['accuracy']
"""

from fedjax_core._signposts import signpost
from fedjax_core.models import layers
from fedjax_core.models._char_model import character_model
from fedjax_core.models._cnn import emnist_cnn
from fedjax_core.models._equinox import from_equinox, to_equinox
from fedjax_core.models._flax_linen import from_linen
from fedjax_core.models._flax_nnx import from_nnx
from fedjax_core.models._keras import assign_to_keras, from_keras
from fedjax_core.models._logistic import logistic_regression
from fedjax_core.models._losses import cross_entropy, sequence_cross_entropy, squared_error
from fedjax_core.models._mlp import mlp

__all__ = [
    "assign_to_keras",
    "character_model",
    "cross_entropy",
    "emnist_cnn",
    "from_equinox",
    "from_keras",
    "from_linen",
    "from_nnx",
    "layers",
    "logistic_regression",
    "mlp",
    "sequence_cross_entropy",
    "squared_error",
    "to_equinox",
]

signpost(__name__)
