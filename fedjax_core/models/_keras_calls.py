"""Calls of a Keras model as a pure function."""

import contextlib
import inspect
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.models import _masking

_LINE = 'import os; os.environ["KERAS_BACKEND"] = "jax"'
# While a call is traced, the normalizations of the model have a replaced `call`; the lock keeps one thread from
# restoring what another thread has replaced.
_lock = threading.RLock()


def imported_keras(caller: str) -> Any:
    """Imports `keras` and checks that it runs on its JAX backend.

    Args:
      caller: the name of the calling function, for error messages.

    Raises:
      ImportError: Keras is not installed, or it is older than Keras 3.
      RuntimeError: Keras runs on another backend.

    Example:
      >>> import os
      >>> os.environ["KERAS_BACKEND"] = "jax"
      >>> imported_keras("from_keras").__name__
      'keras'
    """
    try:
        import keras
    except ImportError as error:
        if error.name == "keras":
            raise ImportError(f"{caller} needs Keras 3; run: pip install 'fedjax-core[keras]'") from error
        # Keras is installed, but its configured backend, TensorFlow by default, is not.
        raise RuntimeError(
            f"{caller} needs Keras on its JAX backend; write before the first import: {_LINE}"
        ) from error
    if int(keras.__version__.split(".")[0]) < 3:
        raise ImportError(f"{caller} needs Keras 3, got {keras.__version__}; run: pip install 'fedjax-core[keras]'")
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"{caller} needs Keras on its JAX backend, got {keras.backend.backend()}; write before the first "
            f"`import keras`: {_LINE}"
        )
    return keras


@contextlib.contextmanager
def keras_promotion() -> Iterator[None]:
    """A context in which arrays of different ranks broadcast, as Keras's own code expects.

    Example:
      >>> with keras_promotion():
      ...     print(jnp.ones((1, 2)) + jnp.ones(2))
      [[2. 2.]]
    """
    with jax.numpy_rank_promotion("allow"):
        yield


class KerasCall:
    """Calls a Keras model with given values for its variables.

    Attributes:
      model: the Keras model.
      names: the batch fields that it takes.
      draws: whether it has seed generators.
      hands_on_mask: whether its predictions carry a layer's mask (for example that of `mask_zero`).
    """

    hands_on_mask: bool

    def __init__(self, model: Any, names: Sequence[str], is_single: bool):
        self.model = model
        self.names = names
        self._is_single = is_single

    def build(self, examples: list) -> None:
        """Builds the model's variables, and raises ValueError if the model constrains one of them."""
        if not self.model.built:
            with keras_promotion():
                self.model(self._inputs(dict(zip(self.names, examples))))
        parameters = inspect.signature(self.model.call).parameters
        self._modes = "training" in parameters
        weights = {id(variable) for variable in self.model.weights}
        self._seeds = [id(v) for v in self.model.non_trainable_variables if id(v) not in weights]
        self.draws = bool(self._seeds)
        self._norms = [layer for layer in self.model._flatten_layers() if _is_norm(layer)]
        _check_constraints(self.model)

    def outputs(self, batch_type: types.StructType) -> Any:
        """The abstract predictions for two examples.

        Raises:
          ValueError: the model adds losses of its own, which would be lost.
        """
        batch = jax.tree.map(
            lambda t: jax.ShapeDtypeStruct((2, *(3 if d is None else d for d in t.shape[1:])), t.dtype),
            types.tree_of_types(batch_type),
        )
        found = {}

        def run(trained, others, batch):
            predictions, _, added = self._stateless(True, trained, others, batch, jax.random.key(0))
            found["losses"] = len(added)
            with keras_promotion():
                self.hands_on_mask = _has_mask(predictions)
            return predictions

        trained = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in self.model.trainable_variables]
        others = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in self._others()]
        predictions = jax.eval_shape(run, trained, others, batch)
        if found["losses"]:
            raise ValueError(
                f"the Keras model {self.model.name!r} adds losses of its own (regularizers or add_loss), which are "
                "not part of the loss of each example; leave them out, and replace kernel_regularizer=L2(c) by "
                "weight decay: "
                "optax.chain(optax.add_decayed_weights(2 * c), optax.sgd(0.02))"
            )
        return predictions

    def __call__(self, training: bool, trained: list, others: list, batch: Any, key: jax.Array | None):
        """The predictions, and the values of the variables that are not trained after the call."""
        predictions, updated, _ = self._stateless(training, trained, others, batch, key)
        return predictions, updated

    def _others(self) -> list:
        return [v for v in self.model.non_trainable_variables if id(v) not in self._seeds]

    def _inputs(self, batch: Any) -> Any:
        values = [batch[name] for name in self.names]
        return values[0] if self._is_single else values

    def _stateless(self, training, trained, others, batch, key):
        modes = {"training": training} if self._modes else {}
        non_trainable = self._with_seeds(others, key)
        with keras_promotion(), _taking_masks(self._norms if training else []):
            predictions, updated, added = self.model.stateless_call(
                trained, non_trainable, self._inputs(batch), return_losses=True, **modes
            )
        kept = [
            v for variable, v in zip(self.model.non_trainable_variables, updated) if id(variable) not in self._seeds
        ]
        return predictions, kept, added

    def _with_seeds(self, others: list, key: jax.Array | None) -> list:
        key = jax.random.key(0) if key is None else key
        states, values = iter(others), []
        for i, variable in enumerate(self.model.non_trainable_variables):
            if id(variable) in self._seeds:
                values.append(jax.random.bits(jax.random.fold_in(key, i), variable.shape, jnp.uint32))
            else:
                values.append(next(states))
        return values


def _is_norm(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.layers.BatchNormalization)


def _has_mask(predictions: Any) -> bool:
    import keras

    found = []

    def look(x, mask=None):
        found.append(mask is not None)
        return x

    for leaf in jax.tree.leaves(predictions):
        layer = keras.layers.Lambda(look)  # Keras passes a layer the mask that its input carries
        layer.supports_masking = True
        layer(leaf)
    return any(found)


@contextlib.contextmanager
def _taking_masks(norms: list) -> Iterator[None]:
    """A context in which each of these layers gets the mask when it is called."""
    with _lock:
        for layer in norms:
            vars(layer).update(call=_masked_call(layer), _moments=_shaped_moments(layer))
        try:
            yield
        finally:
            for layer in norms:
                del vars(layer)["call"], vars(layer)["_moments"]


def _masked_call(layer: Any):
    original = layer.call

    def call(inputs, training=None, mask=None):
        def masked(mask=None):
            # Keras takes a mask with all dimensions of the inputs but the last.
            return original(inputs, training=training, mask=None if mask is None else mask[..., 0])

        given = None if mask is None else mask[..., None]
        return _masking.with_mask(masked, id(layer), inputs, given, (), {})

    return call


def _shaped_moments(layer: Any):
    original = layer._moments

    def moments(inputs, mask):
        # With a mask Keras squeezes the moments; those of a single feature become scalars, on which it then fails.
        return tuple(jnp.reshape(moment, (inputs.shape[layer.axis],)) for moment in original(inputs, mask))

    return moments


def _check_constraints(model: Any) -> None:
    constrained = [v.path for v in model.trainable_variables if getattr(v, "constraint", None) is not None]
    if constrained:
        raise ValueError(
            f"the Keras model {model.name!r} constrains {', '.join(constrained)}, which Keras's own optimizers enforce "
            "after each step and optax does not; leave the constraint out, and chain an optax transformation that "
            "enforces it, such as optax.keep_params_nonnegative()"
        )
