"""Batches: every example as often as there are epochs, in an order that only the key and the client decide."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.data import Batching, FederatedData
from fedjax_core.data._batching import _grouped_argsort
from fedjax_core.engine._cohort import ClientSequences

sizes_lists = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@st.composite
def batchings(draw):
    shuffle = draw(st.booleans())
    return Batching(
        batch_size=draw(st.integers(1, 7)),
        num_epochs=draw(st.integers(1, 4)),
        shuffle=shuffle,
        buffer_size=draw(st.none() | st.integers(1, 12)) if shuffle else None,
        drop_remainder=draw(st.booleans()),
    )


def population(sizes, ids=None) -> FederatedData:
    rows = np.arange(sum(sizes))
    bounds = np.cumsum([0, *sizes])
    ids = range(len(sizes)) if ids is None else ids
    return FederatedData.from_clients(
        {i: {"x": rows[a:b]} for i, a, b in zip(ids, bounds[:-1], bounds[1:], strict=True)}
    )


def batches(data, ids, batching, seed=0) -> list[np.ndarray]:
    """Each client's `[steps, B]` rows, in the order of `ids`."""
    sequences = data.cohort(ids, batching, key=jax.random.key(seed)).value
    rows = sequences.batch_rows(np.arange(len(ids)))
    return np.split(rows, np.cumsum(sequences.num_steps)[:-1])


def streams(*args, **kwargs) -> list[np.ndarray]:
    return [rows[rows >= 0] for rows in batches(*args, **kwargs)]


@given(sizes_lists, batchings())
def test_every_example_occurs_once_an_epoch(sizes, batching):
    data = population(sizes)
    for size, stream in zip(sizes, streams(data, data.client_ids, batching), strict=True):
        counts = np.bincount(stream, minlength=size)
        assert len(counts) == size
        if batching.drop_remainder:
            assert (counts <= batching.num_epochs).all()
            assert len(stream) == size * batching.num_epochs // batching.batch_size * batching.batch_size
        else:
            assert (counts == batching.num_epochs).all()


@given(sizes_lists, batchings())
def test_only_the_last_batch_is_partial(sizes, batching):
    data = population(sizes)
    for size, rows in zip(sizes, batches(data, data.client_ids, batching), strict=True):
        assert rows.dtype == np.int32 and rows.shape[1] == batching.batch_size
        assert len(rows) == batching.num_steps(np.asarray(size))
        filled = rows >= 0
        assert filled[:-1].all()
        if len(rows):
            assert filled[-1].any() and not (np.diff(filled[-1].astype(int)) > 0).any()
            assert filled[-1].all() or not batching.drop_remainder


@given(sizes_lists, st.integers(1, 7), st.integers(1, 4))
def test_without_shuffling_the_stream_is_the_examples_over_and_over(sizes, batch_size, num_epochs):
    data = population(sizes)
    batching = Batching(batch_size, num_epochs)
    for size, stream in zip(sizes, streams(data, data.client_ids, batching), strict=True):
        np.testing.assert_array_equal(stream, np.tile(np.arange(size), num_epochs))


@given(sizes_lists, batchings(), st.randoms(use_true_random=False))
def test_a_client_is_shuffled_alike_in_every_cohort(sizes, batching, random):
    data = population(sizes)
    together = dict(zip(data.client_ids, batches(data, data.client_ids, batching), strict=True))
    chosen = random.sample(data.client_ids, random.randint(1, len(sizes)))
    for i, rows in zip(chosen, batches(data, chosen, batching), strict=True):
        np.testing.assert_array_equal(rows, together[i])


@given(sizes_lists, batchings(), st.randoms(use_true_random=False))
def test_any_selection_of_the_clients_can_be_planned_and_read(sizes, batching, random):
    data = population(sizes)
    sequences = data.cohort(data.client_ids, batching, key=jax.random.key(1)).value
    chosen = np.asarray(random.choices(range(len(sizes)), k=4))
    whole = np.split(sequences.batch_rows(np.arange(len(sizes))), np.cumsum(sequences.num_steps)[:-1])
    np.testing.assert_array_equal(sequences.batch_rows(chosen), np.concatenate([whole[i] for i in chosen]))
    out = {"x": np.empty(sequences.num_examples[chosen].sum(), np.int32)}
    sequences.read(chosen, out)
    np.testing.assert_array_equal(out["x"], np.concatenate([data[i]["x"] for i in chosen.tolist()]))


@given(sizes_lists, st.integers(1, 12), st.integers(1, 3))
def test_a_window_reaches_no_further_than_its_size(sizes, buffer_size, num_epochs):
    data = population(sizes)
    batching = Batching(4, num_epochs, shuffle=True, buffer_size=buffer_size)
    for size, stream in zip(sizes, streams(data, data.client_ids, batching), strict=True):
        seen = np.zeros(size, int)
        for place, row in enumerate(stream):
            assert row + seen[row] * size < place + buffer_size
            seen[row] += 1


def test_a_window_of_one_keeps_the_order():
    data = population([50])
    stream = streams(data, [0], Batching(7, 2, shuffle=True, buffer_size=1))[0]
    np.testing.assert_array_equal(stream, np.tile(np.arange(50), 2))


def test_a_window_as_long_as_the_stream_is_the_whole_shuffle():
    data = population([30, 40])
    window = streams(data, [0, 1], Batching(7, 2, shuffle=True, buffer_size=80))
    whole = streams(data, [0, 1], Batching(7, 2, shuffle=True))
    for a, b in zip(window, whole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("buffer_size", [None, 4])
def test_the_whole_stream_is_shuffled_uniformly(buffer_size):
    num_keys = 2000
    data = population([4])
    batching = Batching(4, shuffle=True, buffer_size=buffer_size)
    orders = [tuple(streams(data, [0], batching, seed)[0]) for seed in range(num_keys)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    expected = num_keys / 24
    assert len(counts) == 24
    assert ((counts - expected) ** 2 / expected).sum() < 49.7  # chi-square, 23 degrees of freedom, p = 0.001


def test_epochs_mix():
    data = population([100])
    stream = streams(data, [0], Batching(10, 5, shuffle=True))[0]
    assert len(np.unique(stream[:100])) < 100


def test_clients_and_keys_and_occurrences_differ():
    data = population([30, 30])
    batching = Batching(30, shuffle=True)
    first, second, again = streams(data, [0, 1, 0], batching)
    other = streams(data, [0], batching, seed=1)[0]
    assert len({s.tobytes() for s in (first, second, again, other)}) == 4


def test_the_client_id_decides_not_its_place_in_the_population():
    batching = Batching(30, shuffle=True)
    one = streams(population([30, 30], ["ada", "bob"]), ["ada"], batching)[0]
    two = streams(population([5, 30], ["bob", "ada"]), ["ada"], batching)[0]
    np.testing.assert_array_equal(one, two)


def test_ties_of_the_truncated_tags_are_broken_by_the_whole_tag():
    tag = np.array([3, 1, 2, 0, 5, 4], np.uint64)
    np.testing.assert_array_equal(_grouped_argsort(tag, np.array([4, 0, 2])), [3, 1, 2, 0, 5, 4])


def test_the_sequences_fulfil_the_protocol_of_the_engine():
    sequences = population([3, 0]).cohort([1, 0], Batching(2)).value
    assert isinstance(sequences, ClientSequences)
    assert str(sequences.element_type) == "<x=int32[?]>"
    assert sequences.batch_size == 2
    np.testing.assert_array_equal(sequences.num_examples, [0, 3])
    np.testing.assert_array_equal(sequences.num_steps, [0, 2])
    np.testing.assert_array_equal(sequences.batch_rows(np.arange(2)), [[0, 1], [2, -1]])


def test_an_empty_cohort_has_no_batches():
    cohort = population([3]).cohort([], Batching(2, shuffle=True), key=jax.random.key(0))
    assert len(cohort) == 0
    assert str(cohort.member_type) == "<x=int32[?]>*"
    assert cohort.value.batch_rows(np.arange(0)).shape == (0, 2)
    cohort.value.read(np.arange(0), {"x": np.empty(0, np.int32)})


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"batch_size": -1}, ValueError, r"batch_size=...\) must be an integer of at least 1, got -1; .*batch_size=20"),
        ({"batch_size": 0}, ValueError, "at least 1, got 0"),
        ({"batch_size": True}, TypeError, "must be an integer of at least 1, got True"),
        ({"batch_size": 2.0}, TypeError, "must be an integer of at least 1, got 2.0"),
        ({"batch_size": 2, "num_epochs": 0}, ValueError, "num_epochs.* at least 1"),
        ({"batch_size": 2, "num_epochs": "3"}, TypeError, "num_epochs.* integer of at least 1, got '3'"),
        ({"batch_size": 2, "shuffle": 1}, TypeError, "shuffle.* True or False, got 1"),
        ({"batch_size": 2, "drop_remainder": None}, TypeError, "drop_remainder.* True or False"),
        ({"batch_size": 2, "shuffle": True, "buffer_size": 0}, ValueError, "buffer_size.* at least 1"),
        ({"batch_size": 2, "buffer_size": 10}, ValueError, "shuffle=True, buffer_size=10"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Batching(**arguments)


def test_numpy_numbers_become_plain_ones():
    batching = Batching(np.int64(3), shuffle=np.bool_(True))
    assert batching == Batching(3, shuffle=True)
    assert type(batching.batch_size) is int and type(batching.shuffle) is bool


@pytest.mark.parametrize("key", [0, np.array([0, 0], np.uint32), jax.random.split(jax.random.key(0), 2)])
def test_a_key_of_another_kind_is_refused(key):
    with pytest.raises(TypeError, match=r"jax.random.key\(0\)"):
        population([3]).cohort([0], Batching(2, shuffle=True), key=key)


def test_shuffling_needs_a_key_and_cohorts_a_batching():
    with pytest.raises(ValueError, match=r"key=jax.random.key\(0\)"):
        population([3]).cohort([0], Batching(2, shuffle=True))
    with pytest.raises(TypeError, match="Batching"):
        population([3]).cohort([0], 20)


@pytest.mark.parametrize("limit", [np.uint64(2**63), 2**63, 10**400, np.array([1, 2**63], np.uint64), [10**400, 1]])
def test_a_step_limit_beyond_64_bits_is_refused(limit):
    """In int64 it would turn negative."""
    with pytest.raises(ValueError, match=r"max_steps=...\) must be below 2\*\*63, got .*; for no limit leave it out"):
        Batching(2).num_steps([5, 9], limit)
    data = FederatedData.from_clients([{"x": [1.0]}, {"x": [2.0]}])
    with pytest.raises(ValueError, match=r"cohort\(max_steps=...\) must be below 2"):
        data.cohort([0, 1], Batching(2), limit)


@pytest.mark.parametrize("num_epochs", [2**31, 2**62, 10**400])
def test_more_epochs_than_the_engine_counts_are_refused(num_epochs):
    with pytest.raises(ValueError, match=r"num_epochs=...\) must be an integer from 1 to 2147483647"):
        Batching(2, num_epochs)
