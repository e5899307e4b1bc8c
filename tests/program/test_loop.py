"""The loop of rounds: what it does while the devices compute, and in which order."""

import jax
import numpy as np
import pytest

from fedjax_core.data import Batching, participation, sample_clients, uniform_sampler
from fedjax_core.engine import _packing
from fedjax_core.program import Checkpoints, Run, release_to_memory

KEY = jax.random.key(7)


@pytest.fixture
def run(softmax_process, twelve_clients):
    """Trains for some rounds: `run(rounds, sampler=..., ...)`."""

    def run(rounds, *, sampler=4, **others):
        batching = Batching(batch_size=20)
        return Run(
            softmax_process, twelve_clients, sampler=sampler, batching=batching, rounds=rounds, key=KEY, **others
        ).train()

    return run


def test_the_next_round_is_read_before_the_last_one_is_told(run, twelve_clients, monkeypatch):
    events = []

    def ask(number):
        events.append(f"ask {number}")
        return sample_clients(number, twelve_clients.client_ids, 4, key=KEY)

    def told_to_read(*args, read=_packing.pack_wave):
        events.append("read")
        return read(*args)

    monkeypatch.setattr(_packing, "pack_wave", told_to_read)
    run(3, sampler=ask, on_round=lambda told: events.append(f"told {told.number}"))
    first = ["ask 1", "read", "ask 2", "read", "told 1"]
    assert events == [*first, "ask 3", "read", "told 2", "told 3"]


@pytest.mark.parametrize("where", ["selected", "read"])
def test_an_error_in_the_next_round_leaves_the_last_one_released(run, twelve_clients, where, tmp_path, monkeypatch):
    released, numbers, latest = {}, [], 0
    checkpoints = Checkpoints(tmp_path, every=1)

    def ask(number):
        nonlocal latest
        latest = number
        if number == 3 and where == "selected":
            raise OSError("the disk is gone")
        return sample_clients(number, twelve_clients.client_ids, 4, key=KEY)

    def failing_to_read(*args, read=_packing.pack_wave):
        if latest == 3:
            raise OSError("the disk is gone")
        return read(*args)

    monkeypatch.setattr(_packing, "pack_wave", failing_to_read)
    with pytest.raises(OSError, match="the disk is gone"):
        run(
            5,
            sampler=ask,
            on_round=lambda told: numbers.append(told.number),
            releases=release_to_memory(released),
            checkpoints=checkpoints,
        )
    assert numbers == list(released) == [1, 2]
    assert checkpoints.rounds == (1, 2)


def test_an_error_that_passes_costs_nothing(run, twelve_clients):
    asked = []

    def ask(number):
        asked.append(number)
        if asked.count(2) == 1 and number == 2:
            raise OSError("the disk is busy")
        return sample_clients(number, twelve_clients.client_ids, 4, key=KEY)

    weights = run(3, sampler=ask).state.weights
    jax.tree.map(np.testing.assert_array_equal, weights, run(3).state.weights)
    assert asked == [1, 2, 2, 3]


def test_ctrl_c_while_the_next_round_is_drawn_leaves_the_last_one_told(run, softmax_process, twelve_clients, tmp_path):
    checkpoints, numbers = Checkpoints(tmp_path, every=100), []

    def ask(number):
        if number == 4:
            raise KeyboardInterrupt
        return sample_clients(number, twelve_clients.client_ids, 4, key=KEY)

    with pytest.raises(KeyboardInterrupt):
        run(10, sampler=ask, on_round=lambda told: numbers.append(told.number), checkpoints=checkpoints)
    assert numbers == [1, 2]
    checkpoint = checkpoints.restore(softmax_process.initialize())
    assert checkpoint.round == len(checkpoint.history) == 2  # round 3 was not told of, and runs again
    jax.tree.map(np.testing.assert_array_equal, checkpoint.state.weights, run(2).state.weights)


def test_skipped_rounds_among_others(run, twelve_clients):
    participants = participation(uniform_sampler(twelve_clients.client_ids, 4, key=KEY))

    def ask(number):
        few = number in (2, 3)
        return participants(number)._replace(ids=(), skipped=True) if few else participants(number)

    told = []
    run(4, sampler=ask, on_round=told.append)
    assert [round.metrics is None for round in told] == [False, True, True, False]
    assert told[0].state is told[1].state is told[2].state
