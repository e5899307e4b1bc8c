"""One checkpoint as a folder: arrays in orbax's format, and a manifest that verifies them."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.program._files import write_folder_atomically

_FORMAT = 2
_BLOCK = 4096  # bytes on the disk at least, for a file and what orbax notes about an array
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")  # in the messages of tensorstore, which orbax uses
_ARRAYS, _HISTORY, _MANIFEST = "arrays", "history.jsonl", "manifest.json"
_KINDS = {"format": int, "type": str, "arrays": dict, "tables": dict, "files": dict, "about": dict}


class DamagedCheckpointError(ValueError):
    """A checkpoint is empty or incomplete, or its content has changed since it was written.

    Example: `Checkpoints.load` raises it, while `Checkpoints.restore` skips to an earlier checkpoint.
      >>> import tempfile
      >>> from fedjax_core.program import Checkpoints
      >>> Checkpoints(tempfile.mkdtemp()).load(10, like={"weights": jnp.zeros(2)})
      Traceback (most recent call last):
      fedjax_core.program._checkpoint_folder.DamagedCheckpointError: .../10/manifest.json cannot be read: ...
    """


class CheckpointTypeError(TypeError):
    """The state in a checkpoint is of a different type than the process's: it is of another model or algorithm.

    Example:
      >>> import tempfile
      >>> from fedjax_core.program import Checkpoint, Checkpoints, History
      >>> checkpoints = Checkpoints(tempfile.mkdtemp())
      >>> checkpoints.save(Checkpoint(1, {"w": jnp.zeros(2)}, History(), run_identity={}, environment={}))
      >>> try:
      ...     checkpoints.restore(like={"w": jnp.zeros(3)})
      ... except CheckpointTypeError as error:
      ...     print(str(error).splitlines()[-1])
      differing in w; build the model and the algorithm as they were then, or give this run a folder of its own
    """


def host_arrays(state: Any) -> dict[str, np.ndarray]:
    """Copies of a state's leaves, by path; of a key, its key data."""
    paths = [path or "value" for path, _ in types.type_leaves(types.type_of(state))]
    arrays = jax.device_get([_data(leaf) for leaf in jax.tree.leaves(state)])
    return dict(zip(paths, map(np.array, arrays), strict=True))  # on CPU, `device_get` gives a view


def state_digest(state: Any) -> str:
    """A short digest of a state; different states have different digests."""
    arrays = host_arrays(state)
    return _digest(_canonical({name: _entry(array) for name, array in arrays.items()}))


def _data(leaf: Any) -> jax.Array:
    if not isinstance(leaf, jax.Array):
        return jnp.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def write_checkpoint(
    path: pathlib.Path, type_: str, arrays: dict[str, np.ndarray], about: dict[str, Any], history: Iterable[bytes]
) -> None:
    """Writes a checkpoint atomically: it is complete, or it does not exist.

    Args:
      path: the checkpoint's folder.
      type_: the type of the state, in notation.
      arrays: the arrays that `host_arrays` returned.
      about: a JSON value that reads back unchanged: no tuples, and every key is a string.
      history: the lines of a `History`.
    """

    def write(folder: pathlib.Path) -> None:
        stored = {name: _stored(array) for name, array in arrays.items() if array.size}
        if stored:
            _write_arrays(folder.absolute() / _ARRAYS, stored)
        with open(folder / _HISTORY, "wb") as file:
            file.writelines(history)
        manifest = {
            "format": _FORMAT,
            "type": type_,
            "arrays": {name: _entry(array) for name, array in arrays.items()},
            # Will list the segments of client tables, by the paths of the tables in the state. Segments are files
            # beside the checkpoints, since a round leaves most of a table unchanged.
            "tables": {},
            "files": _files(folder),
            "about": about,
        }
        signed = {"digest": _digest(_canonical(manifest)), "manifest": manifest}
        (folder / _MANIFEST).write_text(json.dumps(signed, indent=1) + "\n", "utf-8")

    write_folder_atomically(path, write)


def read_about(path: pathlib.Path) -> dict[str, Any]:
    """The `about` that was given to `write_checkpoint`.

    Raises:
      DamagedCheckpointError: the manifest has changed since it was written.
    """
    return _manifest(path)["about"]


def read_checkpoint(path: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any], list[bytes]]:
    """Reads a checkpoint and verifies all of it.

    Args:
      path: the checkpoint's folder.
      like: a state of the process; only its type and the devices of its leaves matter.

    Returns:
      The state, in the containers and on the devices of `like`; the `about` that was written; the lines of the
      history.

    Raises:
      DamagedCheckpointError: something is missing or has changed since it was written.
      CheckpointTypeError: the state is of a different type than `like`.
    """
    manifest = _manifest(path)
    try:
        _check_type(path, manifest["type"], str(types.type_of(like)))
        _check_files(path, manifest["files"])
        arrays = _arrays(path / _ARRAYS, manifest["arrays"])
        _check_arrays(path, arrays, like)
        history = (path / _HISTORY).read_bytes().splitlines(keepends=True)
    except (DamagedCheckpointError, CheckpointTypeError):
        raise
    except Exception as error:  # a forged manifest may hold anything
        raise DamagedCheckpointError(f"{path} is not what was written: {error!r:.200}") from error
    leaves = [_placed(array, leaf) for array, leaf in zip(arrays, jax.tree.leaves(like), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), manifest["about"], history


def _manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        signed = json.loads((path / _MANIFEST).read_bytes())
        manifest = signed["manifest"]
        whole = _digest(_canonical(manifest)) == signed["digest"] and isinstance(manifest["format"], int)
        complete = has_kinds(manifest, _KINDS)
    except OSError as error:
        raise _unreadable(path / _MANIFEST, error) from None
    except (KeyError, TypeError, ValueError, RecursionError):
        whole = complete = False
    if not whole or (manifest["format"] == _FORMAT and not complete):
        raise DamagedCheckpointError(f"{path / _MANIFEST} is not what was written")
    if manifest["format"] != _FORMAT:
        raise ValueError(
            f"{path} has format {manifest['format']} and this version reads format {_FORMAT}; read it with the version "
            "of fedjax-core that wrote it"
        )
    if manifest["tables"]:
        raise ValueError(
            f"{path} has client tables ({', '.join(manifest['tables'])}), which this version cannot read; read it with "
            "the version of fedjax-core that wrote it"
        )
    return manifest


def has_kinds(value: Any, kinds: dict[str, type]) -> bool:
    """Whether a value is a dict with these keys, and the values of these types."""
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def _unreadable(path: pathlib.Path, error: OSError) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{path} cannot be read: {error.strerror}")


def _files(path: pathlib.Path) -> dict[str, str]:
    """The digests of the files written so far."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): _file_digest(file) for file in files}


def _check_files(path: pathlib.Path, digests: dict[str, str]) -> None:
    """Checks the files before orbax reads them: reads that orbax has started before it fails raise later, uncaught."""
    for name, digest in digests.items():
        try:
            found = _file_digest(path / name)
        except OSError as error:
            raise _unreadable(path / name, error) from None
        if found != digest:
            raise DamagedCheckpointError(f"{path / name} is not what was written")


def _check_type(path: pathlib.Path, saved: str, own: str) -> None:
    if saved == own:
        return
    fields, others = (dict(types.type_leaves(types.parse_type(t))) for t in (saved, own))
    different = [name for name in {**fields, **others} if fields.get(name) != others.get(name)]
    which = f"differing in {', '.join(different[:3])}{', ...' if len(different) > 3 else ''}; " if different else ""
    raise CheckpointTypeError(
        f"{path} holds a state of the type\n  {saved}\nand the state of this process is of the type\n  {own}\n"
        f"{which}build the model and the algorithm as they were then, or give this run a folder of its own"
    )


def _arrays(folder: pathlib.Path, entries: dict[str, dict]) -> list[np.ndarray]:
    """The verified arrays, in the order in which they were written."""
    stored = any(0 not in entry["shape"] for entry in entries.values())
    try:
        found = _orbax().restore(folder.absolute()) if stored else {}  # pyright: ignore[reportArgumentType]
    except Exception as error:  # orbax and its libraries raise all kinds of exceptions for damaged files
        raise DamagedCheckpointError(f"{folder} cannot be read: {str(error)[:200] or repr(error)}") from error
    return [_verified(folder, name, entry, found) for name, entry in entries.items()]


def _check_arrays(path: pathlib.Path, arrays: list[np.ndarray], like: Any) -> None:
    """Checks the arrays themselves, since a manifest may say another type than theirs."""
    expected = [(data.shape, data.dtype) for data in map(_data, jax.tree.leaves(like))]
    if [(array.shape, array.dtype) for array in arrays] != expected:
        raise DamagedCheckpointError(f"{path} holds other arrays than its type says")


def _stored(array: np.ndarray) -> np.ndarray:
    """The array, or its bytes where orbax's format lacks its dtype, such as float8."""
    return array.view(np.uint8) if array.dtype.kind == "V" and array.itemsize == 1 else array


def _verified(folder: pathlib.Path, name: str, entry: dict, found: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(entry["dtype"])
    array = np.zeros(entry["shape"], dtype) if 0 in entry["shape"] else found.get(name)
    if isinstance(array, np.ndarray) and array.dtype == np.uint8 and dtype.itemsize == 1:
        array = array.view(dtype)
    if not isinstance(array, np.ndarray) or _entry(array) != entry:
        raise DamagedCheckpointError(f"{folder}: the array {name!r} is not what was written")
    return array


def _entry(array: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {"dtype": str(array.dtype), "shape": list(array.shape), "digest": _digest(data)}


def _placed(array: np.ndarray, like: Any) -> jax.Array:
    if not isinstance(like, jax.Array):
        return jnp.asarray(array)
    if _is_key(like):
        key = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
        return jax.device_put(key, like.sharding)
    return jax.device_put(array, like.sharding)


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


_blake2b = functools.partial(hashlib.blake2b, digest_size=16)


def _digest(data) -> str:
    return _blake2b(data).hexdigest()


def _file_digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def _write_arrays(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    folder.mkdir()
    _check_room(folder, arrays)
    handler = _orbax()
    try:
        with _without_tracebacks(logging.getLogger("absl")):
            handler.save(folder, args=ocp.args.PyTreeSave(arrays))  # pyright: ignore[reportArgumentType]
            handler.finalize(folder)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # orbax and its libraries raise all kinds of exceptions, also for a full disk
        number = int(found[1]) if (found := _SYSTEM_ERROR.search(str(error))) else getattr(error, "errno", None)
        reason = str(error)[:200] or repr(error)
        raise OSError(number or errno.EIO, os.strerror(number) if number else reason, str(folder)) from error


def _check_room(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises OSError if the disk is full before orbax does, whose threads print what else they cannot write."""
    disk = shutil.disk_usage(folder)
    needed = sum(array.nbytes for array in arrays.values()) + _BLOCK * (len(arrays) + 8)
    if disk.total and disk.free < needed:  # some network disks do not know their size
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextlib.contextmanager
def _without_tracebacks(logger: logging.Logger) -> Iterator[None]:
    """Drops the tracebacks that orbax's threads log of an error that it raises as well."""

    def has_none(record: logging.LogRecord) -> bool:
        return record.exc_info is None

    logger.addFilter(has_none)
    try:
        yield
    finally:
        logger.removeFilter(has_none)


@functools.cache
def _orbax():
    """Orbax's handler of its format, for this process alone; it takes any path, although its types ask for etils'.

    The `Checkpointer` that usually wraps a handler renames the folder when it is complete; here that happens once, for
    the whole checkpoint. Orbax is imported when first used because that takes as long as importing JAX.
    """
    import orbax.checkpoint as ocp

    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
    )
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
