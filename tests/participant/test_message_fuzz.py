"""Bytes from anyone: mutated messages, and malicious ones."""

import random
import struct
import tracemalloc

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

NUM_MUTATIONS = 10_000
PEAK = 2**21  # bytes; the messages here have less than two thousand
MESSAGES = (TrainRequest, EvaluationRequest, TrainReply, EvaluationReply, ErrorReply)
LENGTHS = (0, 1, 4, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1)


def seeds() -> list[bytes]:
    weights = {"kernel": np.arange(40, dtype=np.float32).reshape(8, 5), "layers": [np.ones(3, "float16"), ()]}
    statistics = {"loss": (np.float32(1.5), np.int32(7)), "matrix": np.eye(4, dtype=bool)}
    messages = [
        TrainRequest(
            3, weights, {"scaffold": {"correction": weights}}, {"batch_size": 20, "shuffle": True}, 1, None, 2.5
        ),
        EvaluationRequest(70_000, {5: weights, -1: np.zeros((0, 3), np.int8)}, {"batch_size": 100}, 10),
        TrainReply(weights, {}, 1, 300, 6000, 12.345),
        EvaluationReply(0.25, statistics, 12, 0.125),
        ErrorReply("RuntimeError('out of memory')" * 4),
    ]
    return [encode_message(message) for message in messages]


def flip_bits(data: bytearray, others, rng: random.Random):
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, others, rng: random.Random):
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, others, rng: random.Random):
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.randbytes(rng.choice([1, 2, 5, 64]))


def splice(data: bytearray, others, rng: random.Random):
    other = rng.choice(others)
    start, place = rng.randrange(len(other)), rng.randrange(len(data))
    length = rng.choice([1, 8, 200])
    data[place : place + rng.choice([0, length])] = other[start : start + length]


def edit_length(data: bytearray, others, rng: random.Random):
    """Overwrites a place with the header of a string, bytes, array, map or extension of any length."""
    place, length = rng.randrange(len(data)), rng.choice(LENGTHS)
    code, form = rng.choice([(0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I"), (0xC6, ">I"), (0xDC, ">H"), (0xDD, ">I"),
                             (0xDE, ">H"), (0xDF, ">I"), (0xC9, ">I"), (0xCF, ">Q")])  # fmt: skip
    largest = 2 ** (8 * struct.calcsize(form)) - 1
    header = bytes([code]) + struct.pack(form, min(length, largest))
    data[place : place + rng.choice([0, len(header)])] = header


MUTATIONS = (flip_bits, truncate, insert, splice, edit_length)


def mutated(originals: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(rng.choice(originals))
    for _ in range(rng.choice([1, 1, 3])):
        if data:
            rng.choice(MUTATIONS)(data, originals, rng)
    return bytes(data)


def is_allowed(value) -> bool:
    if isinstance(value, dict):
        return all(type(key) in (str, int) for key in value) and all(map(is_allowed, value.values()))
    if type(value) in (list, tuple):
        return all(map(is_allowed, value))
    return (
        value is None
        or type(value) in (bool, int, float, str)
        or (type(value) is np.ndarray and not value.dtype.hasobject)
    )


def outcome(data: bytes) -> str:
    """The outcome for bytes: the named error, or a message of allowed types."""
    try:
        message = decode_message(data)
    except MessageFormatError as error:
        assert 0 < len(str(error)) < 1000
        return "refused"
    assert type(message) in MESSAGES
    assert all(map(is_allowed, message))
    encode_message(message)  # whatever was taken can be sent on
    return "taken"


def test_mutated_messages_are_refused_or_valid():
    rng, originals = random.Random(0), seeds()
    assert [outcome(data) for data in originals] == ["taken"] * len(originals)
    tracemalloc.start()
    try:
        outcomes = [outcome(mutated(originals, rng)) for _ in range(NUM_MUTATIONS)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < PEAK
    taken = outcomes.count("taken")
    assert 100 < taken < NUM_MUTATIONS / 2  # both happen: the mutations are neither all harmless nor all crude


def bomb(inner: bytes) -> bytes:
    """A TrainReply with this value as the updates."""
    rest = {"aux_var": b"\x80", "n_epoch": b"\1", "n_steps": b"\1", "n_examples": b"\1", "t_spent": b"\1"}
    fields = {"updates": inner, **rest}
    return b"\x93\1\xaaTrainReply\x86" + b"".join(bytes([0xA0 + len(k)]) + k.encode() + v for k, v in fields.items())


SIZES = b"\xce\x7f\xff\xff\xff" * 8
LARGE_KEYS = b"".join(b"\xcf" + struct.pack(">Q", i * (2**61 - 1)) + b"\xc0" for i in range(8))
BOMBS = {
    "an array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "4 GiB of bytes": b"\xc6\xff\xff\xff\xff",
    "4 GiB of text": b"\xdb\xff\xff\xff\xff",
    "4 GiB of extension": b"\xc9\xff\xff\xff\xff\1",
    "an extension of an unknown kind": b"\xd4\x05\0",
    "arrays within arrays": b"\x91" * 100_000 + b"\xc0",
    "maps within maps": b"\x81\1" * 100_000 + b"\xc0",
    "lists within lists": b"\x92\xa4list" * 300 + b"\xc0",
    "array headers within one another": b"\xdc\x40\x00" * 400,
    "the shape of a huge array": b"\x94\xa5array\xa5uint8\x98" + SIZES + b"\xc4\0",
    "the shape of a huge array without entries": b"\x94\xa5array\xa5uint8\x99\0" + SIZES + b"\xc4\0",
    "half a million empty dicts": b"\x92\xa4list\xdc\x10\x00" + (b"\xdc\x00\x80" + b"\x80" * 128) * 4096,
    "keys whose hashes collide": b"\x88" + LARGE_KEYS,
}


@pytest.mark.parametrize("inner", BOMBS.values(), ids=BOMBS)
def test_harmful_bytes_are_refused_before_they_do_harm(inner):
    data = bomb(inner)
    tracemalloc.start()
    try:
        assert outcome(data) == "refused"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26


def test_bombs_would_be_messages_but_for_what_is_inside():
    assert outcome(bomb(b"\x91\xa4list")) == "taken"
