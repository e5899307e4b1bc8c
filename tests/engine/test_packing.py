"""Packing: integers over flat examples, a function of the cohort alone."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.engine._config import Layout
from fedjax_core.engine._packing import deal, pack, size_class
from tests import cohorts


def layout(lanes=1, devices=1) -> Layout:
    return fc.EngineConfig(lanes=lanes, devices=devices).resolve()


@given(st.integers(0, 10**7))
def test_sizes_are_rounded_up_by_a_quarter_at_most(n):
    size = size_class(n)
    assert n <= size <= max(8, 1.25 * n + 1) and size_class(size) == size


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 5), st.sampled_from([1, 2, 4, 8]))
def test_every_client_is_dealt_once_with_clients_like_it(steps, lanes, devices):
    steps = np.array(steps, np.int64)
    identity = np.random.default_rng(0).permutation(len(steps)).astype(np.uint64)
    blocks = deal(steps, identity, layout(lanes, devices))
    table = np.concatenate(blocks.clients)
    assert sorted(table[table >= 0].tolist()) == list(range(len(steps)))
    assert (table >= 0).all() or (table < 0).sum() < lanes
    assert blocks.count.sum() == len(table) == -(-len(steps) // lanes)
    rows = [np.sort(steps[row[row >= 0]]) for row in table]
    rows.sort(key=lambda row: (row[0], row[-1]))
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(rows))
    for clients, first, count in zip(blocks.clients, blocks.first, blocks.count):
        assert first.tolist() == (np.cumsum(count) - count).tolist() and count.sum() == len(clients)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_shards_hold_the_same_clients_for_any_number_of_devices(steps):
    steps = np.array(steps, np.int64)
    identity = np.arange(len(steps), dtype=np.uint64)

    def shards(devices):
        blocks = deal(steps, identity, layout(2, devices))
        return [
            clients[first : first + count].tolist()
            for clients, firsts, counts in zip(blocks.clients, blocks.first, blocks.count)
            for first, count in zip(firsts, counts)
        ]

    assert shards(1) == shards(2) == shards(4) == shards(8)


@given(st.lists(st.integers(0, 50), min_size=8, max_size=60))
def test_the_work_is_balanced(steps):
    steps = np.array(steps, np.int64)
    blocks = deal(steps, np.arange(len(steps), dtype=np.uint64), layout(1, 8))
    loads = [int((steps[c] + 1).sum()) for c in blocks.clients]
    assert max(loads) - min(loads) <= steps.max() + 1


@pytest.mark.parametrize("devices", [1, 2])
def test_no_tensor_of_examples_is_padded_to_the_longest_client(devices):
    sizes = [4] * 40 + [4000]
    cohort = cohorts.make_cohort(cohorts.make_population(sizes))
    packed = pack(cohort, layout(1, devices)).clients
    examples, total = packed.value.examples["x"], sum(sizes)
    assert examples.ndim == 3 and examples.shape[-1] == 2
    assert examples.size / 2 <= devices * 1.25 * (4000 + 160 + 2)
    index = packed.value.index
    steps = -(-np.array(sizes) // 4)
    assert index.dtype == np.int32 and index.size <= devices * 1.25 * (steps.sum() + 10) * 4
    assert total * 2 <= examples.size < 41 * 4000
    for leaf in jax.tree.leaves(packed):
        assert leaf.size < 41 * 1000 * 4, leaf.shape


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("devices", [1, 2])
def test_batches_are_found_through_the_index(lanes, devices):
    clients = cohorts.make_population([5, 0, 1, 11, 3, 9, 4])
    cohort = cohorts.make_cohort(clients)
    packed = pack(cohort, layout(lanes, devices))
    arrays = jax.tree.map(np.asarray, packed.clients)
    sequences, blocks = arrays.value, arrays.valid.shape[1]
    for number, client in enumerate(clients.values()):
        device, block, lane = np.unravel_index(packed.position[number], (devices, blocks, lanes))
        assert arrays.valid[device, block, lane]
        steps = sequences.num_batches[device, block, lane]
        assert steps == -(-len(client["y"]) // 4)
        assert sequences.common[device, block] <= steps <= sequences.bound[device, block]
        first = sequences.first[device, block]
        rows = sequences.index[device, first : first + steps, lane].reshape(-1)
        found = sequences.examples["x"][device][rows[rows > 0]]
        np.testing.assert_array_equal(found, client["x"])
        assert (sequences.examples["x"][device][0] == 0).all()


def test_a_cohort_is_packed_once_per_layout():
    cohort = cohorts.make_cohort(cohorts.make_population([5, 3]))
    assert pack(cohort, layout()) is pack(cohort, layout())
    assert pack(cohort, layout()) is not pack(cohort, layout(2))
