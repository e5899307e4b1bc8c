"""Saves and loads weights as a file of plain arrays."""

import os
import zipfile
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core.program._files import write_atomically


def save_weights(weights: Any, path: str | os.PathLike) -> None:
    """Writes a pytree of arrays to an `.npz` file atomically: a crash leaves no partial file.

    Each array is named by its path, such as `dense.kernel`, and NumPy alone can read the file. Numbers that NumPy lacks
    are stored as wider ones with the same values, bfloat16 and float8 as float32, int4 as int8; `load_weights` makes
    them narrow again. Nothing is pickled.

    Args:
      weights: a pytree of arrays.
      path: the file; its folder must exist.

    Raises:
      ValueError: two arrays have the same path.
      OSError: the file cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.npz")
      >>> save_weights({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}, path)
      >>> sorted(np.load(path).items())[0]
      ('dense.bias', array([0., 0., 0.], dtype=float32))
    """
    arrays = {name: _widened(np.asarray(leaf)) for name, leaf in named_arrays(weights).items()}
    write_atomically(path, lambda file: _write(file, arrays))


def _write(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Does what `np.savez` does, which takes no array named `file`."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(_wider(array.dtype))


def _wider(dtype: np.dtype) -> np.dtype:
    """The dtype of NumPy for numbers of a dtype, the same one if it is NumPy's."""
    if dtype.isbuiltin != 2:  # 2 is of dtypes that another package has added to NumPy's
        return dtype
    kinds = ((jnp.floating, np.float32), (jnp.signedinteger, np.int8), (jnp.unsignedinteger, np.uint8))
    return next((np.dtype(wider) for kind, wider in kinds if jnp.issubdtype(dtype, kind)), dtype)


def load_weights(path: str | os.PathLike, like: Any) -> Any:
    """Reads what `save_weights` wrote.

    Args:
      path: the file.
      like: a pytree of the same structure, shapes and dtypes, for example `model.init(key)` or
        `jax.eval_shape(model.init, key)`; its values are not read.

    Returns:
      The weights as JAX arrays, in the containers of `like`.

    Raises:
      ValueError: the arrays in the file differ from those of `like` in names, shapes or dtypes.
      OSError: the file cannot be read.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.npz")
      >>> save_weights({"bias": jnp.ones(2)}, path)
      >>> load_weights(path, like={"bias": jnp.zeros(2)})
      {'bias': Array([1., 1.], dtype=float32)}
    """
    expected = named_arrays(like)
    with np.load(path, allow_pickle=False) as file:
        if set(file.files) != set(expected):
            raise ValueError(
                f"{os.fspath(path)} holds the arrays {sorted(file.files)}, but `like` has {sorted(expected)}; "
                "give the weights of the model that was saved: `load_weights(path, like=model.init(key))`"
            )
        leaves = [_checked(os.fspath(path), name, file[name], leaf) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def named_arrays(weights: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths, such as `dense.kernel`, in JAX's order.

    Raises:
      ValueError: two leaves have the same path.
    """
    leaves = jax.tree_util.tree_flatten_with_path(weights)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "value" for path, _ in leaves]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"each array of the weights needs its own path, got {twice!r} twice; rename the field that has a dot"
        )
    return {name: leaf for name, (_, leaf) in zip(names, leaves)}


def _checked(path: str, name: str, array: np.ndarray, like: Any) -> jax.Array:
    if array.dtype != like.dtype and array.dtype == _wider(np.dtype(like.dtype)):
        narrow = array.astype(like.dtype)
        if np.array_equal(narrow.astype(array.dtype), array, equal_nan=array.dtype.kind == "f"):  # nothing is rounded
            array = narrow
    if array.shape != like.shape or array.dtype != like.dtype:
        raise ValueError(
            f"{path}: the array {name!r} is {array.dtype}{list(array.shape)}, but `like` has "
            f"{like.dtype}{list(like.shape)}; give the weights of the model that was saved"
        )
    return jnp.asarray(array)
