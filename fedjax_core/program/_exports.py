"""Exports of a trained model, its weights and its predictions, for use without this package."""

import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.contracts import Model
from fedjax_core.model_calls import predicted
from fedjax_core.program._files import write_atomically
from fedjax_core.program._paths import checked_name
from fedjax_core.program._weights import named_arrays

_MISSING = "to export needs {}, which is not installed; run: pip install 'fedjax-core[export]'"


class Export(NamedTuple):
    """Writes what others need of a trained model into its own folder.

    Attributes:
      name: the name of the folder, within that of the run's exports.
      write: `(folder, weights, metrics)`: an empty folder, as a `pathlib.Path`; the model's weights; what the last
        evaluation measured.

    Example: a custom export.
      >>> import pathlib, tempfile
      >>> report = Export("report", lambda folder, weights, metrics: (folder / "loss.txt").write_text(str(metrics)))
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> report.write(folder, None, 0.5)
      3
    """

    name: str
    write: Callable[[pathlib.Path, Any, Any], Any]


def export_weights(name: str = "weights") -> Export:
    """Writes `weights.safetensors`, in which an array is named by its path, such as `dense.kernel`.

    `safetensors.numpy.load_file` reads it, or the same function for another framework; for bfloat16 arrays use
    `safetensors.flax.load_file`.

    Args:
      name: the name of the folder, within that of the run's exports.

    Raises:
      TypeError: `name` is not a string.
      ValueError: it is not the name of a folder, but a path.

    Example:
      >>> import pathlib, tempfile
      >>> from safetensors.numpy import load_file
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> export_weights().write(folder, {"dense": {"bias": np.ones(2, np.float32)}}, {})
      >>> load_file(folder / "weights.safetensors")
      {'dense.bias': array([1., 1.], dtype=float32)}
    """
    checked_name("export_weights(name=...)", name, "write name='weights'")
    return Export(name, lambda folder, weights, metrics: _save(folder / "weights.safetensors", weights))


def export_predict(model: Model, name: str = "predict", platforms: Sequence[str] | None = None) -> Export:
    """Writes `weights.safetensors` and `predict.jax`, the function from these weights and inputs to predictions.

    `jax.export.deserialize` reads the function; it needs JAX and flatbuffers. The weights are a dict of the arrays in
    the file. The inputs are a dict of the fields of a batch that the predictions depend on, by their paths and thus
    without the labels, with one or more examples. Predictions that consist of several arrays are a dict by their paths.

    Args:
      model: the model.
      name: as in `export_weights`.
      platforms: the platforms to run on, for example `["cpu", "cuda", "tpu"]`; None for the one that writes it.

    Raises:
      TypeError: `model` is not a `Model`, or `name` is not a string.
      ValueError: `name` is not the name of a folder, but a path.

    Example:
      >>> import pathlib, tempfile, fedjax_core as fc
      >>> from safetensors.numpy import load_file
      >>> model = fc.models.logistic_regression(3, 2)
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> export_predict(model).write(folder, model.init(jax.random.key(0)), {})

      And where the model is used:

      >>> predict = jax.export.deserialize(bytearray((folder / "predict.jax").read_bytes()))
      >>> weights = load_file(folder / "weights.safetensors")
      >>> predict.call(weights, {"x": np.ones((5, 3), np.float32)}).shape
      (5, 2)
    """
    if not isinstance(model, Model):
        raise TypeError(f"export_predict(model=...) must be a fc.Model, got {model!r}; see fc.models")

    checked_name("export_predict(name=...)", name, "write name='predict'")

    def write(folder: pathlib.Path, weights: Any, metrics: Any) -> None:
        _save(folder / "weights.safetensors", weights)
        exported = _exported(model, weights, platforms)
        write_atomically(folder / "predict.jax", lambda file: file.write(_serialized(exported)))

    return Export(name, write)


def _exported(model: Model, weights: Any, platforms: Sequence[str] | None) -> jax.export.Exported:
    """The exported function of the weights and the inputs, each a dict of arrays."""
    arrays = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in named_arrays(weights).items()}
    structure = jax.tree.structure(types.tree_of_types(model.batch_type))

    def predict_with(absent: dict[str, jax.ShapeDtypeStruct], names: list[str]) -> jax.stages.Wrapped:
        def predict(weights_by_name: dict, inputs: dict):
            fields = {**inputs, **{name: _zeros(field) for name, field in absent.items()}}
            given = jax.tree.unflatten(jax.tree.structure(weights), [weights_by_name[name] for name in arrays])
            batch = jax.tree.unflatten(structure, [fields[name] for name in names])
            return _plain(predicted(model, given, batch).predictions)

        return jax.jit(predict)

    sized, batch = _fields(model.batch_type, symbolic=False), _fields(model.batch_type, symbolic=True)
    kept = jax.export.export(predict_with({}, list(batch)))(arrays, sized).module_kept_var_idx
    inputs = {n: batch[n] for i, n in enumerate(sorted(batch), len(arrays)) if i in kept} or batch
    absent = {name: field for name, field in batch.items() if name not in inputs}
    return jax.export.export(predict_with(absent, list(batch)), platforms=platforms)(arrays, inputs)


def _fields(batch_type: types.Type, symbolic: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a batch by their paths, with one symbol for the number of examples and another for each other `?`.

    If not `symbolic`, the unknown sizes are numbers: JAX then keeps exactly the fields that the predictions depend on,
    and not also one that it reads the number of examples from.
    """
    scope, fields = jax.export.SymbolicScope(), {}
    for path, part in types.type_leaves(batch_type):
        leaf = types.of_kind(part, types.TensorType)
        assert leaf.shape is not None  # a batch has rows
        name = path or "value"
        prefix = re.sub(r"\W", "_", name)
        unknown = [("b" if i == 0 else f"{prefix}_{i}") if symbolic else "64" for i in range(len(leaf.shape))]
        text = ", ".join(other if size is None else str(size) for other, size in zip(unknown, leaf.shape))
        fields[name] = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"({text},)", scope=scope), leaf.dtype)
    return fields


def _zeros(field: jax.ShapeDtypeStruct) -> jax.Array:
    """Zeros for a field that is never read; its unknown sizes are 1, since the inputs do not determine them."""
    return jnp.zeros((field.shape[0], *(d if isinstance(d, int) else 1 for d in field.shape[1:])), field.dtype)


def _plain(predictions: Any) -> Any:
    """The predictions as an array or a dict of arrays, containers that any process can deserialize."""
    return predictions if isinstance(predictions, jax.Array) else named_arrays(predictions)


def _serialized(exported: jax.export.Exported) -> bytearray:
    try:
        return exported.serialize()
    except ImportError as error:  # JAX's message does not name the extra of this package
        raise ImportError(_MISSING.format("flatbuffers")) from error


def _save(path: str | os.PathLike, weights: Any) -> None:
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise ImportError(_MISSING.format("safetensors")) from error

    arrays = {name: np.asarray(array, order="C") for name, array in named_arrays(jax.device_get(weights)).items()}
    write_atomically(path, lambda file: file.write(save(arrays)))
