"""Messages as bytes and back: msgpack of allow-listed types, without pickle.

A message is `[version, name of its type, {field: value}]`. A value is None, a bool, an integer of 64 bits, a
float, a string, or

  {key: value}                   a dict, whose keys are strings or integers
  ["list", value, ...]           a list; a tuple is ["tuple", value, ...]
  ["array", dtype, shape, bytes] an array: the name of its dtype, its shape, its entries in row order, little-endian

A NamedTuple, or any other pytree, is sent as a dict of its fields; `trees.match` puts it back into the containers that
the receiver knows.
"""

import math
from typing import Any

import jax
import msgpack
import numpy as np

from fedjax_core.participant._messages import (
    MESSAGES,
    Message,
    MessageFormatError,
    check_message,
    with_python_numbers,
)
from fedjax_core.trees import path_entry

MAX_MESSAGE_BYTES = 2**30

_VERSION = 1
_MAX_DEPTH = 32
_MAX_LENGTH = 2**14  # entries of one container
_MAX_ITEMS = 2**18  # entries of all containers, which bounds the memory needed beyond that of the bytes
_MAX_KEY = 2**31

_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_FLOATS = ["float16", "bfloat16", "float32", "float64"]
_DTYPES = {name: jax.numpy.dtype(name) for name in ["bool", *_INTEGERS, *_FLOATS]}


def encode_message(message: Message, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """Encodes a message as bytes.

    Args:
      message: a `TrainRequest`, `TrainReply`, `EvaluationRequest`, `EvaluationReply` or `ErrorReply`. Its arrays may be
        NumPy's or JAX's, of booleans, integers, float16, bfloat16, float32 or float64.
      max_bytes: the largest size allowed, which `decode_message` at the other end must accept.

    Returns:
      Bytes for `decode_message`.

    Raises:
      TypeError: `message` is not a message.
      MessageFormatError: a field holds a wrong value or one that cannot be sent, or the message is too large.

    Example:
      >>> from fedjax_core.participant import TrainRequest
      >>> request = TrainRequest(3, {"w": np.ones(2, np.float32)}, {}, {"batch_size": 20}, n_epoch=1)
      >>> data = encode_message(request)
      >>> len(data), decode_message(data).weights
      (120, {'w': array([1., 1.], dtype=float32)})
    """
    name = type(message).__name__
    if MESSAGES.get(name) is not type(message):
        check_message(message)
    message = with_python_numbers(message)
    fields = {field: _plain(value, (name, field)) for field, value in message._asdict().items()}
    check_message(message)
    try:
        data = msgpack.packb([_VERSION, name, fields])
    except (ValueError, OverflowError) as error:
        raise MessageFormatError(f"{name} cannot be sent: {error}") from error
    assert data is not None  # msgpack returns None only when it writes to a stream
    _check_size(len(data), max_bytes)
    return data


def decode_message(data: bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """Decodes a message from bytes.

    Nothing in the bytes is executed, imported or unpickled, and sizes are checked before memory is allocated, so the
    bytes may come from anyone.

    Args:
      data: the bytes that `encode_message` returned.
      max_bytes: the largest size allowed.

    Returns:
      The message. Its arrays are read-only NumPy arrays; its containers are dicts, lists and tuples.

    Raises:
      MessageFormatError: the message is too large, truncated, followed by other bytes, nested too deeply, of another
        version or of an unknown type; or a field is missing, unknown or holds a wrong value.

    Example:
      >>> decode_message(b"\\x93\\x01")
      Traceback (most recent call last):
      fedjax_core.participant._messages.MessageFormatError: not a message: Unpack failed: incomplete input
    """
    _check_size(memoryview(data).nbytes, max_bytes)
    match _unpacked(data):
        case [int(version), str(name), dict(fields)] if type(version) is int:  # not True, which equals 1
            return _message(version, name, fields)
    raise MessageFormatError("not a message: a message is [version, name, fields]")


def _message(version: int, name: str, fields: dict) -> Message:
    if version != _VERSION:
        raise MessageFormatError(
            f"the message has version {version}, but this end has version {_VERSION}; update the older one"
        )
    if name not in MESSAGES:
        raise MessageFormatError(f"the message type {name[:40]!r} is unknown; the types are {', '.join(MESSAGES)}")
    expected = MESSAGES[name]._fields
    if set(fields) != set(expected):
        found = ", ".join(str(field)[:40] for field in list(fields)[:10])
        raise MessageFormatError(f"{name} must have the fields {', '.join(expected)}, got {found or 'none'}")
    message = MESSAGES[name](**{field: _value(fields[field], (name, field)) for field in expected})
    check_message(message)
    return message


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise MessageFormatError(
            f"a message must have at most {max_bytes:,} bytes, got {size:,}; raise `max_bytes` at both ends"
        )


def _plain(value: Any, path: tuple) -> Any:
    """A value in terms of the types that msgpack knows."""
    _check_depth(path)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain_array(value, path)
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise MessageFormatError(f"{_at(path)} is an integer of more than 64 bits; send a float or an array")
        return value
    if type(value) in (list, tuple):
        _check_length(len(value), path)
        return [type(value).__name__, *(_plain(entry, (*path, i)) for i, entry in enumerate(value))]
    entries = list(value.items()) if type(value) is dict else _fields_of(value, path)
    _check_length(len(entries), path)
    _check_keys([key for key, _ in entries], _at(path))
    return {key: _plain(entry, (*path, key)) for key, entry in entries}


def _fields_of(value: Any, path: tuple) -> list:
    """The fields of any other pytree, one level deep."""
    entries = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda node: node is not value)[0]
    if len(entries) == 1 and entries[0][0] == ():
        raise MessageFormatError(
            f"{_at(path)} is a {type(value).__name__}; a message may hold arrays, numbers, strings and pytrees of them"
        )
    return [(path_entry(keys[0]), entry) for keys, entry in entries]


def _plain_array(array: Any, path: tuple) -> list:
    name = array.dtype.name
    if name not in _DTYPES:
        raise MessageFormatError(
            f"{_at(path)} is an array of {array.dtype}; a message may hold arrays of {', '.join(_DTYPES)}"
        )
    array = np.asarray(array, _DTYPES[name])
    _check_length(array.ndim, path)
    return ["array", name, list(array.shape), array.tobytes()]


def _unpacked(data: bytes) -> Any:
    """The value that msgpack decodes from the bytes, with bounds on the memory it allocates."""
    num_items = 0

    def count(number: int):
        nonlocal num_items
        num_items += number
        if num_items > _MAX_ITEMS:
            raise MessageFormatError(
                f"a message must hold at most {_MAX_ITEMS:,} values; join small arrays into larger ones"
            )

    def listed(entries: list) -> list:
        count(1 + len(entries))
        return entries

    def mapped(pairs: list) -> dict:
        count(1 + len(pairs))
        _check_keys([key for key, _ in pairs], "a dict")
        return dict(pairs)

    bounds = {"max_array_len": _MAX_LENGTH + 1, "max_map_len": _MAX_LENGTH}
    try:
        return msgpack.unpackb(data, strict_map_key=False, list_hook=listed, object_pairs_hook=mapped, **bounds)
    except MessageFormatError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MessageFormatError(f"not a message: {str(error) or type(error).__name__}") from error


def _value(plain: Any, path: tuple) -> Any:
    """The inverse of `_plain`."""
    _check_depth(path)
    match plain:
        case None | bool() | int() | float() | str():
            return plain
        case dict():
            return {key: _value(entry, (*path, key)) for key, entry in plain.items()}
        case ["list", *entries]:
            return [_value(entry, (*path, i)) for i, entry in enumerate(entries)]
        case ["tuple", *entries]:
            return tuple(_value(entry, (*path, i)) for i, entry in enumerate(entries))
        case ["array", str(name), list(shape), bytes(data)]:
            return _array(name, shape, data, path)
    raise MessageFormatError(f"{_at(path)} holds a {type(plain).__name__}, which no message may hold")


def _array(name: str, shape: list, data: bytes, path: tuple) -> np.ndarray:
    if name not in _DTYPES:
        raise MessageFormatError(f"{_at(path)} is an array of {name:.40}; the dtypes are {', '.join(_DTYPES)}")
    if len(shape) > _MAX_DEPTH or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise MessageFormatError(f"{_at(path)} has {len(shape)} dimensions, which are not all sizes of an array")
    if math.prod(shape) * _DTYPES[name].itemsize != len(data):
        raise MessageFormatError(f"{_at(path)} is {name}{shape}, got {len(data)} bytes")
    if name == "bool" and data.strip(b"\0\1"):
        raise MessageFormatError(f"{_at(path)} is an array of bool, got bytes other than 0 and 1")
    try:
        return np.ndarray(shape, _DTYPES[name], data)
    except ValueError as error:
        raise MessageFormatError(f"{_at(path)} is not an array: {error}") from error


def _check_depth(path: tuple) -> None:
    if len(path) > _MAX_DEPTH:
        raise MessageFormatError(f"{_at(path[:4])} is nested more than {_MAX_DEPTH} levels deep")


def _check_length(length: int, path: tuple) -> None:
    if length > _MAX_LENGTH:
        raise MessageFormatError(f"{_at(path)} has {length:,} entries; a container may have at most {_MAX_LENGTH:,}")


def _check_keys(keys: list, what: str) -> None:
    """Raises unless all keys are strings or all are 32-bit integers: such a dict builds fast, and JAX can sort it."""
    strings = all(type(key) is str for key in keys)
    if not strings and not all(type(key) is int and -_MAX_KEY <= key < _MAX_KEY for key in keys):
        raise MessageFormatError(f"{what} must have keys that are all strings or all integers of 32 bits")
    if len(set(keys)) < len(keys):
        raise MessageFormatError(f"{what} has a key twice")


def _at(path: tuple) -> str:
    return ".".join(str(entry)[:40] for entry in path)
