"""Packing: integers over flat examples."""

import jax
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine._config import Layout
from fedjax_core.engine._packing import pack, pack_wave
from tests import cohorts


def layout(lanes=1, devices=1, memory_budget=None) -> Layout:
    return fc.EngineConfig(lanes=lanes, devices=devices, memory_budget=memory_budget).resolve()


@pytest.mark.parametrize("devices", [1, 2])
def test_no_tensor_of_examples_is_padded_to_the_longest_client(devices):
    sizes = [4] * 40 + [4000]
    cohort = cohorts.make_cohort(cohorts.make_population(sizes))
    packed = pack(cohort, layout(1, devices)).resident
    examples, total = packed.value.examples["x"], sum(sizes)
    assert examples.ndim == 3 and examples.shape[-1] == 2
    assert examples.size / 2 <= devices * 1.5 * (4000 + 160 + 2)
    index = packed.value.index
    steps = -(-np.array(sizes) // 4)
    assert index.dtype == np.int32 and index.size <= devices * 4 * (steps.sum() + 10) * 4
    assert total * 2 <= examples.size < 41 * 4000
    for leaf in jax.tree.leaves(packed):
        assert leaf.size < 41 * 1000 * 4 / 2, leaf.shape


@pytest.mark.parametrize("budget", [None, 1000, 1])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("devices", [1, 2])
def test_batches_are_found_through_the_index(lanes, devices, budget):
    clients = cohorts.make_population([5, 0, 1, 11, 3, 9, 4, *([6] * 40)])
    cohort = cohorts.make_cohort(clients)
    packing = pack(cohort, layout(lanes, devices, budget))
    waves = [jax.tree.map(np.asarray, pack_wave(cohort, packing, w)) for w in range(packing.schedule.num_waves)]
    assert (len(waves) == 1) == (budget is None)
    shape = (len(waves), devices, packing.num_blocks, lanes)
    for number, client in enumerate(clients.values()):
        wave, device, block, lane = np.unravel_index(packing.position()[number], shape)
        arrays = waves[wave]
        sequences = arrays.value
        assert arrays.valid[device, block, lane]
        steps = sequences.num_batches[device, block, lane]
        assert steps == -(-len(client["y"]) // 4)
        assert sequences.common[device, block] <= steps <= sequences.bound[device, block]
        first = sequences.first[device, block]
        rows = sequences.index[device, first : first + steps, lane].reshape(-1)
        found = sequences.examples["x"][device][rows[rows > 0]]
        np.testing.assert_array_equal(found, client["x"])
        assert (sequences.examples["x"][device][0] == 0).all()


def test_all_waves_have_the_same_shapes():
    cohort = cohorts.make_cohort(cohorts.make_population([5, 0, 1, 11, 3, 9, 4, *range(30)]))
    packing = pack(cohort, layout(2, 2, 2000))
    waves = [pack_wave(cohort, packing, w) for w in range(packing.schedule.num_waves)]
    assert len(waves) > 2
    assert len({str(jax.tree.map(np.shape, w)) for w in waves}) == 1


def test_a_wave_takes_no_more_than_the_budget():
    budget = 40_000
    cohort = cohorts.make_cohort(cohorts.make_population([40] * 600))
    packing = pack(cohort, layout(1, 2, budget))
    assert packing.schedule.num_waves > 3 and packing.resident is None
    wave = pack_wave(cohort, packing, 0)
    taken = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(wave))
    assert budget / 8 < taken < budget / 2 * 1.1  # two waves are in memory at a time


def test_a_cohort_is_packed_once_per_layout():
    cohort = cohorts.make_cohort(cohorts.make_population([5, 3]))
    assert pack(cohort, layout()) is pack(cohort, layout())
    assert pack(cohort, layout()) is not pack(cohort, layout(2))


def test_programs_that_accumulate_more_share_what_is_packed_and_leave_less_memory_to_waves():
    few, many = (fc.EngineConfig(devices=1, memory_budget=20_000).resolve(size) for size in (100, 2000))
    assert few == many and few.accumulator_bytes < many.accumulator_bytes < 20_000
    small, large = (cohorts.make_cohort(cohorts.make_population(sizes)) for sizes in ([3, 5], [50] * 40))
    assert pack(small, few) is pack(small, many) is not None and pack(small, few).resident is not None
    waves = [pack(large, layout).schedule.num_waves for layout in (few, many, few)]
    assert 1 < waves[0] == waves[2] < waves[1]
