"""Messages as bytes and back, and what each end refuses."""

from typing import NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from fedjax_core.participant import (
    ErrorReply,
    EvaluationReply,
    EvaluationRequest,
    MessageFormatError,
    TrainReply,
    TrainRequest,
    decode_message,
    encode_message,
)

WEIGHTS = {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, np.float32)}}
MESSAGES = [
    TrainRequest(0, None, {}, {}),
    TrainRequest(7, WEIGHTS, {"scaffold": {"correction": WEIGHTS}}, {"batch_size": 3, "shuffle": True}, 1, 20, 0.5),
    EvaluationRequest(7, None, {"batch_size": 100, "buffer_size": None}, timeout=60),
    EvaluationRequest(2**31 - 1, WEIGHTS, {"batch_size": 1}, n_steps=-3),
    TrainReply([WEIGHTS, ()], {}, 1, 0, 0, 0.0),
    EvaluationReply(float("nan"), {"loss": (np.float32(3.5), np.int32(2)), "counts": [np.zeros((0, 4))]}, 3, 0.125),
    ErrorReply("ValueError('naïve \\U0001f600')"),
]


def assert_same(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, np.ndarray | np.generic):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        assert actual.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected):
            assert_same(a, e)
    else:
        assert actual == expected or (actual != actual and expected != expected)


def as_arrays(value):
    """NumPy's scalars come back as arrays without dimensions."""
    if isinstance(value, dict):
        return {key: as_arrays(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(as_arrays, value))
    return np.asarray(value) if isinstance(value, np.generic) else value


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_come_back_as_they_were(message):
    decoded = decode_message(encode_message(message))
    assert type(decoded) is type(message)
    for actual, expected in zip(decoded, message):
        assert_same(actual, as_arrays(expected))
    assert encode_message(decoded) == encode_message(message)


DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 2), (2, 1, 3)])
def test_arrays_of_every_dtype_and_shape(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(jnp.dtype(dtype))
    (decoded,) = decode_message(encode_message(TrainReply([array], {}, 1, 1, 1, 0.1))).updates
    assert_same(decoded, array)
    assert not decoded.flags.writeable


def test_arrays_of_jax_of_other_layouts_and_byte_orders():
    array = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    sent = [jnp.asarray(array), array.T, array[::-2], array.astype(">f4")]
    decoded = decode_message(encode_message(TrainReply(sent, {}, 1, 1, 1, 0.1))).updates
    for actual, expected in zip(decoded, [array, array.T, array[::-2], array]):
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, expected)


def test_other_pytrees_are_sent_as_dicts_of_their_fields():
    class Weights(NamedTuple):
        kernel: np.ndarray
        layers: dict

    weights = Weights(np.ones(2, np.float32), flax.core.freeze({"a": np.zeros(1, np.float32)}))
    decoded = decode_message(encode_message(TrainRequest(0, weights, {}, {}))).weights
    assert_same(decoded, {"kernel": weights.kernel, "layers": {"a": np.zeros(1, np.float32)}})


def test_integer_keys():
    decoded = decode_message(encode_message(TrainRequest(0, {3: WEIGHTS, -1: WEIGHTS}, {}, {}))).weights
    assert_same(decoded, {3: WEIGHTS, -1: WEIGHTS})


def nested(depth):
    value = np.zeros(1)
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "message, text",
    [
        (TrainRequest(-1, None, {}, {}), r"TrainRequest\(round_i=...\) must be an integer from 0 to .*, got -1"),
        (TrainRequest(2**31, None, {}, {}), r"round_i=...\) must be an integer from 0 to 2\*\*31 - 1, got 2147483648"),
        (EvaluationRequest(2**32, None, {}), "round_i.*got 4294967296"),
        (TrainRequest(True, None, {}, {}), "round_i.*got True"),
        (TrainRequest(np.bool_(True), None, {}, {}), "round_i.*got True"),
        (TrainRequest(2**63, None, {}, {}), "TrainRequest.round_i is an integer of more than 64 bits"),
        (TrainRequest(0, "weights", {}, {}), r"weights=...\) must be a pytree of arrays and numbers, or None, got 'w"),
        (TrainRequest(0, b"weights", {}, {}), "TrainRequest.weights is a bytes; a message may hold arrays, numbers"),
        (TrainRequest(0, {"w": {1, 2}}, {}, {}), "TrainRequest.weights.w is a set"),
        (TrainRequest(0, {"w": len}, {}, {}), "TrainRequest.weights.w is a builtin_function_or_method"),
        (TrainRequest(0, [np.array(["a"])], {}, {}), r"TrainRequest.weights.0 is an array of <U1; a message may hold"),
        (TrainRequest(0, np.ones(1, complex), {}, {}), "TrainRequest.weights is an array of complex128"),
        (TrainRequest(0, np.array([None]), {}, {}), "TrainRequest.weights is an array of object"),
        (TrainRequest(0, jax.random.key(0), {}, {}), "TrainRequest.weights is an array of key<fry>"),
        (TrainRequest(0, {"w": 1, 1: 2}, {}, {}), "TrainRequest.weights must have keys that are all strings"),
        (TrainRequest(0, {2.5: 2}, {}, {}), "must have keys that are all strings"),
        (TrainRequest(0, {2**31: 2}, {}, {}), "integers of 32 bits"),
        (TrainRequest(0, nested(31), {}, {}), "TrainRequest.weights.0.0 is nested more than 32 levels deep"),
        (
            TrainRequest(0, [0] * 20_000, {}, {}),
            "TrainRequest.weights has 20,000 entries; a container may have at most 16,384",
        ),
        (TrainRequest(0, None, None, {}), r"aux_var=...\) must be a dict from name to pytree .*, got a NoneType"),
        (TrainRequest(0, None, {1: 2.0}, {}), r"aux_var=...\) must be a dict from name"),
        (TrainRequest(0, None, {}, {"batch_size": 2.0}), r"batches=...\) must be a dict of Batching arguments"),
        (TrainRequest(0, None, {}, {}, n_epoch=1.0), r"n_epoch=...\) must be an integer, or None, got 1.0"),
        (TrainRequest(0, None, {}, {}, timeout="1"), r"timeout=...\) must be a number, not an array, or None"),
        (TrainReply({}, {}, 1, 1, -1, 0.1), r"TrainReply\(n_examples=...\) must be an integer of at least 0, got -1"),
        (TrainReply({}, {}, 1, 1, 1, np.array(0.1)), "t_spent.*a number, not an array, got"),
        (EvaluationReply(np.ones(()), {}, 1, 0.1), r"EvaluationReply\(loss=...\) must be a number, not an array"),
        (EvaluationReply(1.0, {"loss": "high"}, 1, 0.1), r"metrics=...\) must be a dict from name"),
        (ErrorReply(None), r"ErrorReply\(message=...\) must be a string, got a NoneType"),
        (ErrorReply("\\ud800"), "ErrorReply cannot be sent: .*surrogates"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_the_sender(message, text):
    if isinstance(message, ErrorReply) and message.message == "\\ud800":
        message = ErrorReply("\ud800")
    with pytest.raises(MessageFormatError, match=text):
        encode_message(message)


@pytest.mark.parametrize("other", [None, {}, (1, 2), "ErrorReply", WEIGHTS, ErrorReply])
def test_what_is_no_message_is_a_type_error(other):
    with pytest.raises(TypeError, match="a message must be one of TrainRequest, EvaluationRequest, TrainReply"):
        encode_message(other)


def packed(name="ErrorReply", fields=None, version=1):
    return msgpack.packb([version, name, {"message": "m"} if fields is None else fields], strict_types=False)


def reply(updates):
    """The bytes of a TrainReply with this value as the updates."""
    fields = {"updates": updates, "aux_var": {}, "n_epoch": 1, "n_steps": 1, "n_examples": 1, "t_spent": 0.1}
    return packed("TrainReply", fields)


def array(dtype="float32", shape=(1,), data=b"\0\0\0\0"):
    return reply(["array", dtype, list(shape), data])


@pytest.mark.parametrize(
    "data, text",
    [
        (b"", "not a message: Unpack failed: incomplete input"),
        (b"\xc1", "not a message: FormatError"),
        (b"\xc0", r"a message is \[version, name, fields\]"),
        (packed()[:-1], "incomplete input"),
        (packed() + b"\0", "not a message: unpack.* extra data"),
        (packed(version=2), "the message has version 2, but this end has version 1; update the older one"),
        (packed(version="1"), r"a message is \[version, name, fields\]"),
        (packed("Pickle"), "the message type 'Pickle' is unknown; the types are TrainRequest"),
        (packed("x" * 10_000), "the message type '(x{40})' is unknown"),
        (packed(fields={}), "ErrorReply must have the fields message, got none"),
        (packed(fields={"message": "m", "more": 1}), "ErrorReply must have the fields message, got message, more"),
        (packed(fields={"message": 3}), r"ErrorReply\(message=...\) must be a string, got 3"),
        (packed(fields={"message": "m", 1: 2}), "a dict must have keys that are all strings or all integers"),
        (packed("TrainReply", {"n_steps": 1}), "TrainReply must have the fields updates, aux_var, .* got n_steps"),
        (b"\x93\x01\xa5Error\x82\xa7message\xa1a\xa7message\xa1b", "a dict has a key twice"),
        (b"\x93\x01\xa5Error\x81\xa7message\xa2\xff\xfe", "not a message: 'utf-8' codec can't decode"),
        (b"\x93\x01\xa5Error\x81\x90\xa1a", "a dict must have keys that are all strings"),
        (reply(b"bytes"), "TrainReply.updates holds a bytes, which no message may hold"),
        (reply([]), "TrainReply.updates holds a list, which no"),
        (reply(["set", 1]), "TrainReply.updates holds a list"),
        (reply({"a": ["list", msgpack.ExtType(3, b"x")]}), "TrainReply.updates.a.0 holds a ExtType"),
        (reply(msgpack.Timestamp(3)), "TrainReply.updates holds a Timestamp"),
        (array("object"), "TrainReply.updates is an array of object; the dtypes are bool, int8"),
        (array("float32[2]"), "is an array of float32"),
        (array(shape=(2,)), r"TrainReply.updates is float32\[2\], got 4 bytes"),
        (array(shape=(-1,)), "1 dimensions, which are not all sizes of an array"),
        (array(shape=(1.0,)), "which are not all sizes"),
        (array(shape=(True,)), "which are not all sizes"),
        (array(shape=(2**31,)), "which are not all sizes"),
        (array(shape=[1] * 40), "40 dimensions"),
        (array(shape=[2**31 - 1] * 8 + [0], data=b""), "TrainReply.updates is not an array"),
        (array("bool", (2,), b"\1\2"), "bytes other than 0 and 1"),
        (array(data="text"), "holds a list"),
    ],
)
def test_malformed_bytes_are_refused_by_the_receiver(data, text):
    with pytest.raises(MessageFormatError, match=text):
        decode_message(data)


def test_a_message_has_a_largest_size():
    message = TrainRequest(0, np.zeros(1000, np.float32), {}, {})
    data = encode_message(message)
    assert encode_message(message, max_bytes=len(data)) == data
    decode_message(data, max_bytes=len(data))
    text = f"a message must have at most {len(data) - 1:,} bytes, got {len(data):,}; raise `max_bytes` at both ends"
    for refused in (lambda n: encode_message(message, max_bytes=n), lambda n: decode_message(data, max_bytes=n)):
        with pytest.raises(MessageFormatError, match=text):
            refused(len(data) - 1)


def test_takes_any_buffer():
    data = encode_message(MESSAGES[1])
    for buffer in (bytearray(data), memoryview(data)):
        assert encode_message(decode_message(buffer)) == data


def test_numbers_of_numpy_are_sent_as_numbers():
    request = TrainRequest(np.int64(3), None, {}, {"batch_size": np.int32(2)}, np.int16(1), None, np.float32(0.5))
    assert decode_message(encode_message(request)) == TrainRequest(3, None, {}, {"batch_size": 2}, 1, None, 0.5)


def test_a_version_that_is_true_is_refused():
    with pytest.raises(MessageFormatError, match="not a message"):
        decode_message(msgpack.packb([True, "ErrorReply", {"message": "a"}]))
