"""Digests and identities of clients: where all of a client's randomness comes from."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.engine import Cohort, client_digests, identities
from tests import cohorts

ids = st.lists(st.integers(-(2**80), 2**80) | st.text(max_size=5), max_size=12)


@given(ids)
def test_digests_are_those_of_blake2b_and_tell_numbers_from_text(ids):
    texts = [f"{'i' if isinstance(i, int) else 's'}{i}".encode() for i in ids]
    expected = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts]
    found = client_digests(ids)
    assert found.dtype == np.uint64 and found.tolist() == expected
    assert client_digests(["7"])[0] != client_digests([7])[0] == client_digests([np.int16(7)])[0]


@pytest.mark.parametrize("bad", [True, 1.0, None, b"x", (1,)])
def test_other_ids_are_refused(bad):
    with pytest.raises(TypeError, match=r"a client id is a string or an integer, got .*; use str\("):
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


def test_a_cohort_knows_its_type_and_size():
    cohort = cohorts.make_cohort(cohorts.make_population([5, 0]))
    assert len(cohort) == 2 and str(cohort.member_type) == "<x=float32[?,2],y=float32[?]>*"
    assert repr(cohort) == "Cohort(2 clients of <x=float32[?,2],y=float32[?]>*)"
    arrays = Cohort((1, 2), {"a": np.zeros((2, 3), np.float32)}, np.arange(2, dtype=np.int32), client_digests([1, 2]))
    assert str(arrays.member_type) == "<a=float32[3]>"
