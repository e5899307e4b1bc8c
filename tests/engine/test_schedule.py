"""The schedule, which says who runs where and when, is a function of the cohort alone."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._schedule import make_schedule, rows_class, size_class, steps_class
from tests import cohorts

NO_BUDGET = 2**60


def scheduled(steps, lanes=1, devices=1, budget=NO_BUDGET):
    """The schedule of clients with these numbers of batches of at most 4 examples."""
    cohort = cohorts.make_cohort(cohorts.make_population([4 * s for s in steps]))
    return make_schedule(cohort, fc.EngineConfig(lanes, devices, budget).resolve())


def blocks_by_leaf(result) -> list:
    """The blocks of each leaf, in the order in which the devices run them in their waves."""
    runs = [[result.blocks(wave, d) for wave in range(result.num_waves)] for d in range(result.edges.shape[1])]
    table = np.concatenate([blocks for waves in runs for blocks in waves]).tolist()
    return [table[a:b] for a, b in itertools.pairwise(result.leaves.tolist())]


@given(st.integers(0, 10**7), st.sampled_from([0, 1, 80, 512, 3136, 10**6]))
def test_sizes_are_rounded_up_by_half_at_most_and_steps_to_four_times(n, num_bytes):
    size, rows, steps = size_class(n), rows_class(n, num_bytes), steps_class(n, num_bytes)
    first = {0: 128, 1: 128, 80: 128, 512: 128, 3136: 20, 10**6: 8}[num_bytes]
    assert n <= size <= max(8, 1.5 * n + 1) and size_class(size) == size
    assert max(n, first) <= rows <= max(first, 1.5 * n + 1) and rows_class(rows, num_bytes) == rows
    assert max(n, first) <= steps <= max(first, 4 * n) and steps_class(steps, num_bytes) == steps


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 5), st.integers(1, 8))
def test_every_client_is_scheduled_once_with_clients_like_it(steps, lanes, devices):
    result = scheduled(steps, lanes, devices)
    table, steps = result.clients, np.array(steps, np.int64)
    assert sorted(table[table >= 0].tolist()) == list(range(len(steps)))
    assert (table >= 0).all() or (table < 0).sum() < lanes
    assert result.leaves[-1] == len(table) == -(-len(steps) // lanes)
    rows = [np.sort(steps[row[row >= 0]]) for row in table]
    rows.sort(key=lambda row: (row[0], row[-1]))
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(rows))
    assert result.num_waves == 1
    assert sum(len(result.blocks(0, d)) for d in range(devices)) == len(table)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.sampled_from([1, 500, 5000]))
def test_leaves_hold_the_same_clients_for_any_devices_and_waves(steps, budget):
    results = [scheduled(steps, 2, devices, b) for devices in (1, 2, 3, 4, 7, 8) for b in (budget, NO_BUDGET)]
    leaves = [blocks_by_leaf(result) for result in results]
    assert all(blocks == leaves[0] for blocks in leaves)


@given(st.lists(st.integers(0, 50), min_size=8, max_size=60), st.integers(2, 8))
def test_the_work_is_balanced(steps, devices):
    """Halving it a few times, each time to one block of the largest, adds up to twice the largest.

    A number of devices that is no power of two gets whole leaves, each device at most one more than its share.
    """
    steps = np.array(steps, np.int64)
    result = scheduled(steps, 1, devices)
    work = np.array([sum(int(steps[b].sum()) + 1 for b in blocks) for blocks in blocks_by_leaf(result)])
    loads = [work[a:b].sum() for a, b in itertools.pairwise(result.devices.tolist())]
    leaf = 0 if devices in (2, 4, 8) else work.max()
    assert max(loads) <= work.sum() / devices + 2 * (steps.max() + 1) + leaf


@pytest.mark.parametrize(("devices", "most"), [(2, 1.03), (4, 1.06), (8, 1.2)])
def test_twenty_ragged_clients_keep_all_devices_busy(devices, most):
    random = np.random.default_rng(0)
    excess = []
    for _ in range(20):
        steps = np.clip(np.rint(10 * np.exp(0.35 * random.standard_normal(20))), 2, 25).astype(int)
        result = scheduled(steps, 1, devices)
        loads = [int(steps[result.blocks(0, d)].sum()) for d in range(devices)]
        excess.append(max(loads) * devices / steps.sum())
    assert np.mean(excess) < most


@given(st.lists(st.integers(0, 50), max_size=60), st.sampled_from([1, 2]), st.sampled_from([1, 1000, 10_000]))
def test_a_wave_has_no_more_than_the_budget_or_one_block(steps, devices, budget):
    result = scheduled(steps, 1, devices, budget)
    steps = np.array(steps, np.int64)
    for wave in range(result.num_waves):
        for device in range(devices):
            clients = result.blocks(wave, device)
            taken = int((steps[clients] * 4 * (12 + 4) + 16).sum())  # x, y and the index; identity and row
            assert taken <= budget / 2 or len(clients) == 1
            assert (
                len(clients) <= result.max_blocks_per_device and steps[clients].sum() <= result.max_steps_per_device[0]
            )
            assert 4 * steps[clients].sum() <= result.max_examples_per_device[0]


@pytest.mark.parametrize("budget", [1, NO_BUDGET])
def test_nobody_is_one_wave(budget):
    result = scheduled([], budget=budget)
    assert result.num_waves == 1 and result.leaves[-1] == 0 and result.blocks(0, 0).shape == (0, 1)


def test_the_plan_of_a_client_takes_few_bytes():
    """The memory of a million clients besides one wave, which grows with every array of the cohort's length."""
    number = 50_000
    cohort = Cohort(
        tuple(range(number)),
        np.zeros((number, 1), np.int8),
        np.arange(number, dtype=np.int32),
        np.arange(number, dtype=np.uint64),
    )
    layout = fc.EngineConfig(devices=2, memory_budget=10_000).resolve()
    tracemalloc.start()
    try:
        kept = make_schedule(cohort, layout)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept.num_waves > 10
    assert now < 8 * number and peak < 64 * number, (now / number, peak / number)
