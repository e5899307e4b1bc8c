"""Digests and identities of clients: where all of a client's randomness comes from."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.engine import client_digests, identities

ids = st.lists(st.integers(-(2**80), 2**80) | st.text(max_size=5), max_size=12)
BITS = 2**64 - 1


def mixed(z: int) -> int:
    """The finalizer of splitmix64 in Python's integers."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & BITS
    z = (z ^ z >> 27) * 0x94D049BB133111EB & BITS
    return z ^ z >> 31


def digest(client_id: int | str) -> int:
    """The digest of one id in Python's integers."""
    golden = 0x9E3779B97F4A7C15
    if isinstance(client_id, str):
        state = mixed(len(client_id) * golden + 0x8CB92BA72F3D8DD7 & BITS)
        for place in range(0, len(client_id), 2):
            first, *second = map(ord, client_id[place : place + 2])
            state = mixed((state ^ (first | sum(second) << 32)) + golden & BITS)
        return state
    if -(2**63) <= client_id < 2**63:
        return mixed(client_id * golden + 0xD1B54A32D192ED03 & BITS)
    return int.from_bytes(hashlib.blake2b(f"i{client_id}".encode(), digest_size=8).digest(), "little")


@given(ids)
def test_digests_are_functions_of_the_id_alone(ids):
    found = client_digests(ids)
    assert found.dtype == np.uint64 and found.tolist() == [digest(i) for i in ids]
    assert client_digests(["7"])[0] != client_digests([7])[0] == client_digests([np.int16(7)])[0]


def test_golden_digests():
    """All of a client's randomness depends on these, in every session, so they must never change."""
    assert client_digests([0, 7, -1]).tolist() == [9370218965779684112, 8857195775763297403, 15367059306999779680]
    assert client_digests(["", "ada", "client_7"]).tolist() == [
        4151391468963925352,
        14142665566185451499,
        5785999789752122230,
    ]


@given(st.lists(st.text(max_size=6).filter(lambda t: not t.endswith("\0")), min_size=1, max_size=9))
def test_strings_of_an_array_have_the_digests_of_strings(texts):
    for array in (np.array(texts), np.array(texts).astype(">U8")):
        np.testing.assert_array_equal(client_digests(array), client_digests(texts))


@pytest.mark.parametrize("dtype", ["int8", "int32", ">i4", "int64", "uint8", "uint64"])
def test_integers_of_an_array_have_the_digests_of_integers(dtype):
    limits = np.iinfo(dtype)
    values = [limits.min, 0, 1, 100, limits.max]
    np.testing.assert_array_equal(client_digests(np.array(values, dtype)), client_digests(values))


@pytest.mark.parametrize("numbers", [range(0), range(5), range(9, -9, -4), range(2**70, 2**70 + 3), range(100_000)])
def test_a_range_has_the_digests_of_its_integers(numbers):
    np.testing.assert_array_equal(client_digests(numbers), client_digests(list(numbers)))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20))
def test_no_two_integers_of_64_bits_share_a_digest(values):
    """Each step of the mixing can be undone, so all of it can."""
    for value, found in zip(values, client_digests(values).tolist(), strict=True):
        z = found ^ found >> 31 ^ found >> 62
        z = z * pow(0x94D049BB133111EB, -1, 2**64) & BITS
        z ^= z >> 27 ^ z >> 54
        z = z * pow(0xBF58476D1CE4E5B9, -1, 2**64) & BITS
        z ^= z >> 30 ^ z >> 60
        back = (z - 0xD1B54A32D192ED03) * pow(0x9E3779B97F4A7C15, -1, 2**64) & BITS
        assert back == value % 2**64


def test_a_lone_surrogate_and_a_nul_are_parts_of_strings():
    texts = ["a", "a\0", "\0a", "\ud800", "\ud800a", ""]
    found = client_digests(texts).tolist()
    assert found == [digest(t) for t in texts] and len(set(found)) == 6


@pytest.mark.parametrize("bad", [True, 1.0, None, b"x", (1,)])
def test_other_ids_are_refused(bad):
    use = "'x'" if bad == b"x" else r"str\("
    with pytest.raises(TypeError, match=f"a client id is a string or an integer, got .*; use {use}"):
        client_digests([bad])


@given(st.lists(st.integers(0, 4), max_size=20))
def test_occurrences_are_told_apart(drawn):
    digests = client_digests(drawn)
    identity = identities(digests)
    assert len(set(identity.tolist())) == len(drawn)
    seen = {}
    for digest, found, client in zip(digests, identity, drawn):
        occurrence = seen.setdefault(client, [])
        assert occurrence or found == digest
        occurrence.append(found)
    for client, values in seen.items():
        assert identities(client_digests([client] * len(values))).tolist() == values
