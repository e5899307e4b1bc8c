"""The ids of a population: a sequence like their tuple, whatever holds them, that finds its clients."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.data import ClientIds, FederatedData, UnknownClientError, _id_stores
from fedjax_core.engine import client_digests

texts = st.text(max_size=3)
kinds = (
    st.builds(range, st.integers(-5, 5), st.integers(-20, 20), st.sampled_from([1, 3, -2])),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9, unique=True),
    st.lists(st.integers(-20, 20), max_size=9, unique=True).map(lambda ids: np.array(ids, np.int32)),
    st.lists(st.integers(0, 2**64 - 1), max_size=9, unique=True).map(lambda ids: np.array(ids, np.uint64)),
    st.lists(texts, max_size=9, unique=True),
    st.lists(texts.filter(lambda t: not t.endswith("\0")), max_size=9, unique=True).map(lambda t: np.array(t, "U4")),
    st.lists(st.integers(-(2**80), 2**80) | texts, max_size=9, unique=True),
)
populations = st.one_of(*kinds)


def plain(ids) -> tuple:
    return tuple(ids.tolist() if isinstance(ids, np.ndarray) else ids)


def assert_like(found: ClientIds, expected: tuple) -> None:
    """Asserts that a sequence of ids behaves like their tuple."""
    assert found == expected and expected == found and tuple(found) == expected and len(found) == len(expected)
    assert {type(i) for i in found} <= {int, str}
    np.testing.assert_array_equal(found.digests, client_digests(expected))
    for place, client_id in enumerate(expected):
        assert found[place] == expected[place] == found[place - len(expected)]
        assert client_id in found and found.index(client_id) == expected.index(client_id)
    for wrong in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            found[wrong]


@given(populations)
def test_ids_are_a_sequence_of_what_went_in(population):
    ids, expected = ClientIds(population), plain(population)
    assert_like(ids, expected)
    np.testing.assert_array_equal(ids.rows, np.arange(len(expected)))
    np.testing.assert_array_equal(ids.find(expected[::-1]), np.arange(len(expected))[::-1])
    assert ids == ClientIds(expected) == ClientIds(ids) and ids != (*expected, "more") and ids != "ab"


@given(populations, st.data())
def test_a_view_is_a_sequence_that_knows_the_rows_of_the_population(population, draw):
    everyone, expected = ClientIds(population), plain(population)
    bounds = st.none() | st.integers(-10, 10)
    place = slice(draw.draw(bounds), draw.draw(bounds), draw.draw(st.sampled_from([None, 2, -1, -3])))
    assert_like(everyone[place], expected[place])
    number = len(expected[place])
    places = draw.draw(st.lists(st.integers(0, max(number - 1, 0)), max_size=6 if number else 0))
    view = everyone[place].take(np.array(places, np.int64))
    chosen = tuple(expected[place][p] for p in places)
    assert_like(view, chosen)
    assert tuple(everyone[int(row)] for row in view.rows) == chosen and view.population == everyone
    assert (view == everyone) == (chosen == expected)
    for client_id in expected:
        assert (client_id in view) == (client_id in chosen)
        if client_id not in chosen:
            with pytest.raises(UnknownClientError, match=f"in this data of {len(chosen)} clients"):
                view.find([client_id])
            with pytest.raises(ValueError):
                view.index(client_id)
    for ids in (chosen, view, ClientIds(dict.fromkeys(chosen))):
        np.testing.assert_array_equal(view.find(ids), [expected.index(i) for i in ids])
    assert_like(ClientIds(everyone[place]), expected[place])
    np.testing.assert_array_equal(ClientIds(everyone[place]).rows, np.arange(number))


@given(populations, populations)
def test_ids_of_another_population_are_found_by_name(one, other):
    ids, others = ClientIds(one), ClientIds(other)
    known = [i for i in others if i in set(plain(one))]
    np.testing.assert_array_equal(ids.find(known), [plain(one).index(i) for i in known])
    if len(known) < len(others):
        with pytest.raises(UnknownClientError):
            ids.find(others)
    assert (ids == others) == (plain(one) == plain(other))


def test_numbers_and_their_texts_are_different_clients():
    ids = ClientIds([7, "7", 2**70, str(2**70)])
    assert [ids.index(i) for i in ids] == [0, 1, 2, 3]
    assert "8" not in ids and True not in ClientIds([1]) and 1.0 not in ClientIds([1]) and None not in ids
    assert [7] not in ids and np.int8(7) in ids and "7" not in ClientIds([7]) and 7 not in ClientIds(["7"])


@pytest.mark.parametrize(
    "ids, twice",
    [
        ([3, 1, 3], "3"),
        (np.array([5, 4, 4]), "4"),
        (["b", "a", "b"], "'b'"),
        (np.array(["a", "b", "b"]), "'b'"),
        ([2**70, "a", 2**70], str(2**70)),
        (np.array([2**63, 2**63], np.uint64), str(2**63)),
    ],
)
def test_an_id_that_occurs_twice_is_refused(ids, twice):
    with pytest.raises(ValueError, match=f"must differ from one another, got {twice} twice; .*from_arrays"):
        ClientIds(ids)


def test_ids_of_one_digest_are_told_apart(monkeypatch):
    monkeypatch.setattr(_id_stores, "client_digests", lambda ids: np.zeros(len(ids), np.uint64))
    ids = ClientIds(["a", "b", "c"])
    assert [ids.index(i) for i in "abc"] == [0, 1, 2] and "d" not in ids
    with pytest.raises(ValueError, match="got 'a' twice"):
        ClientIds(["a", "b", "a"])  # though they are not neighbours among ids of the same digest


@pytest.mark.parametrize(
    "ids, message",
    [
        ([True], r"got True of type bool; use str\(True\)"),
        ([b"ada"], "got b'ada' of type bytes; use 'ada'"),
        (np.array([b"ada"]), "got b'ada' of type bytes; use 'ada'"),
        ([1.5], r"use str\(1.5\)"),
        (np.zeros((2, 2), int), "got .* of type list"),
        (np.array(7), r"use \[7\]"),
        ("ada", r"got the string 'ada'; use \['ada'\]"),
        (7, r"got 7; use \[7\]"),
    ],
)
def test_what_is_no_id_is_refused(ids, message):
    with pytest.raises(TypeError, match=message):
        ClientIds(ids)


def test_a_population_has_32_bit_rows():
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 clients, got 2147483648"):
        ClientIds(range(2**31))


def test_a_short_text_stands_for_many():
    assert repr(ClientIds(list("abcdef"))) == "ClientIds('a', 'b', 'c', 'd', 'e', 'f')"
    assert repr(ClientIds([])) == "ClientIds()"
    assert repr(ClientIds(range(7))) == "ClientIds(0, 1, 2, ..., 6; 7 clients)"


def test_an_array_of_ids_is_not_copied(tmp_path):
    for values in (np.arange(1000) * 3, np.array([f"client {i}" for i in range(1000)])):
        np.save(tmp_path / "ids.npy", values)
        mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
        ids = ClientIds(mapped)
        assert np.shares_memory(ids._store.values, mapped) and ids[999] == values[999]
        with pytest.raises(ValueError, match="read-only"):
            ids._store.values[0] = values[1]


def test_ten_million_clients_take_the_memory_of_none():
    tracemalloc.start()
    try:
        everyone = ClientIds(range(10**7))
        some = everyone[5 : 10**7 : 10_000]
        assert 5 in everyone and some[-1] == 9_990_005 and some.find([10_005])[0] == 10_005
        assert tracemalloc.get_traced_memory()[1] < 1e5
    finally:
        tracemalloc.stop()


class Doubles:
    """An `ExampleSource` with its four members and nothing else: client i holds i % 3 examples, all of them 2 i."""

    element = {"x": np.zeros((), np.float32)}

    def __init__(self, number: int):
        self.sizes = np.arange(number) % 3

    def examples(self, client: int) -> dict:
        return {"x": np.full(client % 3, 2.0 * client, np.float32)}

    def read(self, clients: np.ndarray, out: dict) -> None:
        out["x"][:] = np.concatenate([self.examples(int(i))["x"] for i in clients])


def test_data_of_the_ids_of_a_view_are_a_population_of_their_own():
    some = ClientIds(range(100))[10:14]
    data = FederatedData(some, Doubles(4))
    assert data.client_ids == (10, 11, 12, 13) and data[12]["x"].tolist() == [4.0, 4.0]
    np.testing.assert_array_equal(data.client_ids.rows, range(4))
