"""Models from Keras models, and federated weights back into Keras models."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.contracts import Model, ModelWeights, Predicted
from fedjax_core.models import _adapting, _keras_losses, _keras_metrics, _masking
from fedjax_core.models._keras_calls import KerasCall, imported_keras


def from_keras(
    model: Any,
    loss: Any,
    batch_type: Any,
    metrics: Mapping[str, Any] | Iterable[Any] | None = None,
    *,
    inputs: str | Sequence[str] = "x",
    label: str = "y",
    running: str = "average",
) -> Model:
    """Makes a `Model` from a Keras 3 model on Keras's JAX backend.

    The trainable variables are trained from their current values: `init` returns these, whatever its key. If there
    are other variables (such as the moving averages of `BatchNormalization`), the weights are
    `ModelWeights(trainable, others)`. What the model writes into the others in training is running state; `running`
    says what happens to it. The states of seed generators are not weights: in training, `Dropout` and similar layers
    draw from the key. The Keras model itself does not change; `assign_to_keras` writes weights into it.

    A `BatchNormalization` in the model gets the mask of the batch, so padding does not count in its statistics.

    Args:
      model: a sequential, functional or subclassed model. A model that is not built yet is called once to build it.
      loss: a Keras loss, as an object or by name, or a loss of the room `models`. A Keras loss by name takes the
        predictions for probabilities; an object can say that they are logits,
        `SparseCategoricalCrossentropy(from_logits=True)`.
      batch_type: the type of a batch, or anything that `to_type` converts: notation, or a dict of notations.
      metrics: metrics in addition to the loss, as a list or a dict by name: Keras metrics whose state adds up over
        examples, as objects or by name, or metrics of the room `metrics`.
      inputs: the batch field that the model takes, or several fields, which it takes as a list.
      label: the batch field that Keras losses and metrics take as `y_true`.
      running: what happens to running state. "average": the server averages the clients' states after training,
        weighted by their numbers of examples. "keep": a client carries it from step to step and does not send it.
        "freeze": it stays as it is.

    Returns:
      The `Model`. Its weights are nested dicts, keyed by the variables' paths, such as `dense/kernel`, without the
      model's name. Layers that Keras numbered are renumbered, so two models with the same layers have weights of the
      same type, however many models were created before.

    Raises:
      ImportError: Keras is not installed.
      RuntimeError: Keras runs on another backend.
      TypeError: `model` is not a Keras model, a loss or metric has the wrong type, or a metric does not add up over
        examples.
      ValueError: the model has regularizers or constraints, which would be lost; a loss does not give one value per
        example, or its reduction is a sum; `batch_type` lacks a field, or `running` is not one of the three; when
        predicting: the model needs a key and gets none.

    Example: the model of TFF's tutorial on image classification.
      >>> import os
      >>> os.environ["KERAS_BACKEND"] = "jax"
      >>> import jax, keras
      >>> classifier = keras.Sequential(
      ...     [keras.Input((784,)), keras.layers.Dense(10, kernel_initializer="zeros"), keras.layers.Softmax()]
      ... )
      >>> model = from_keras(
      ...     classifier,
      ...     keras.losses.SparseCategoricalCrossentropy(),
      ...     {"x": "float32[?,784]", "y": "int32[?]"},
      ...     metrics=[keras.metrics.SparseCategoricalAccuracy()],
      ... )
      >>> weights = model.init(jax.random.key(0))
      >>> weights["dense"]["kernel"].shape, list(model.metrics)
      ((784, 10), ['sparse_categorical_accuracy'])
      >>> model.predict(weights, {"x": jnp.ones((2, 784))}).shape
      (2, 10)
    """
    keras = imported_keras("from_keras")
    _check_model("from_keras", keras, model)
    batch_type = types.to_type(batch_type)
    call = KerasCall(model, _adapting.input_names("from_keras", inputs, batch_type), isinstance(inputs, str))
    call.build(_adapting.example_inputs(call.names, batch_type))
    paths, initial = _Paths(model), _values(model)
    outputs = call.outputs(batch_type)
    model_loss = _keras_losses.loss_of(keras, loss, label, outputs, batch_type, call.hands_on_mask)
    model_metrics = _keras_metrics.metrics_of(keras, metrics, label, outputs, batch_type)

    def init(key):
        return paths.weights(*([jnp.asarray(value) for value in values] for values in initial))

    def apply(training, mask, weights, batch, key):
        return call(training, *paths.values(weights), batch, key)

    train = _masking.masked(functools.partial(apply, True), batch_type)

    def predict(weights, batch, key=None, training=False, mask=None):
        if not training:
            return apply(False, mask, weights, batch, key)[0]
        if key is None and call.draws:
            raise _adapting.missing_key()
        predictions, others = train(mask, weights, batch, key)
        return Predicted(predictions, paths.others(others)) if others and running != "freeze" else predictions

    predict.__qualname__ = f"from_keras({type(model).__name__}).predict"
    return Model(
        init, predict, model_loss, model_metrics, batch_type, _adapting.running_of_model("from_keras", running)
    )


def assign_to_keras(weights: Any, model: Any) -> None:
    """Writes federated weights into the Keras model that they come from, or into one with the same layers.

    Args:
      weights: the weights of a `Model` of `from_keras`, for example `process.get_model_weights(state)`.
      model: the built Keras model. All its variables are set, including moving averages.

    Raises:
      ImportError: Keras is not installed.
      RuntimeError: Keras runs on another backend.
      TypeError: `model` is not a Keras model.
      ValueError: the weights do not fit the model, which then stays unchanged.

    Example:
      >>> import os
      >>> os.environ["KERAS_BACKEND"] = "jax"
      >>> import keras
      >>> classifier = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
      >>> assign_to_keras({"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}, classifier)
      >>> classifier.layers[0].kernel.value.sum()
      Array(6., dtype=float32)
    """
    keras = imported_keras("assign_to_keras")
    _check_model("assign_to_keras", keras, model)
    variables = [*model.trainable_variables, *_others(model)]
    try:
        values = [value for part in _Paths(model).values(weights) for value in part]
        shapes = [(tuple(v.shape), np.shape(value)) for v, value in zip(variables, values, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise _other_weights(model, f"{type(error).__name__}: {error}") from None
    for variable, (expected, found) in zip(variables, shapes):
        if expected != found:
            raise _other_weights(model, f"{variable.path} has the shape {expected}, got {found}")
    for variable, value in zip(variables, values):
        variable.assign(value)


def _other_weights(model: Any, reason: str) -> ValueError:
    return ValueError(
        f"assign_to_keras(weights, model) takes the weights of a model with the layers of {model.name!r}: {reason}; "
        "pass the Keras model that was given to from_keras"
    )


def _check_model(caller: str, keras: Any, model: Any) -> None:
    if not isinstance(model, keras.Model):
        called = f"; call it to get one: {model.__name__}(...)" if isinstance(model, type) else ""
        raise TypeError(f"{caller} takes a keras.Model, got {model!r}{called}")


def _others(model: Any) -> list:
    """The variables that are not trained, without the states of seed generators."""
    trained = {id(variable) for variable in model.trainable_variables}
    return [variable for variable in model.weights if id(variable) not in trained]


def _values(model: Any) -> tuple[list, list]:
    trained, others = ([np.array(v.value) for v in part] for part in (model.trainable_variables, _others(model)))
    return trained, others


class _Paths:
    """The path in the weights of each variable of a Keras model."""

    def __init__(self, model: Any):
        trained, others = model.trainable_variables, _others(model)
        paths = _renumbered([variable.path.split("/") for variable in (*trained, *others)], model.name)
        self._trained, self._others = paths[: len(trained)], paths[len(trained) :]

    def weights(self, trained: Sequence, others: Sequence) -> Any:
        trainable = _nested(self._trained, trained)
        return ModelWeights(trainable, self.others(others)) if others else trainable

    def others(self, values: Sequence) -> dict:
        return _nested(self._others, values)

    def values(self, weights: Any) -> tuple[list, list]:
        trainable, others = weights if isinstance(weights, ModelWeights) else (weights, {})
        return [_at(trainable, path) for path in self._trained], [_at(others, path) for path in self._others]


def _renumbered(paths: list[list[str]], model_name: str) -> list[list[str]]:
    """The paths without the model's name, in which parts that differ only in a number are numbered in order.

    Example:
      >>> _renumbered([["net_4", "dense_7", "kernel"], ["net_4", "dense_9", "kernel"]], "net_4")
      [['dense', 'kernel'], ['dense_1', 'kernel']]
    """
    paths = [path[1:] if path[0] == model_name and len(path) > 1 else path for path in paths]
    known: dict[tuple, str] = {}
    taken: set[tuple] = set()
    return [_renumbered_path(path, known, taken) for path in paths]


def _renumbered_path(path: list[str], known: dict[tuple, str], taken: set[tuple]) -> list[str]:
    found: list[str] = []
    for i, part in enumerate(path):
        is_variable = i == len(path) - 1  # equal paths: two distinct variables, or one layer
        if is_variable or (*found, None, part) not in known:
            name = _free((*found,), part, taken)
            known[*found, None, part] = name
        found.append(known[*found, None, part])
    return found


def _free(parent: tuple, part: str, taken: set[tuple]) -> str:
    base, _, number = part.rpartition("_")
    base = base if number.isdigit() and base else part
    name = next(n for n in (base, *(f"{base}_{i}" for i in range(1, len(taken) + 2))) if (*parent, n) not in taken)
    taken.add((*parent, name))
    return name


def _nested(paths: Sequence[Sequence[str]], values: Sequence) -> dict:
    tree: dict = {}
    for path, value in zip(paths, values):
        part = tree
        for name in path[:-1]:
            part = part.setdefault(name, {})
        part[path[-1]] = value
    return tree


def _at(tree: Mapping, path: Sequence[str]) -> Any:
    return functools.reduce(lambda part, name: part[name], path, tree)
