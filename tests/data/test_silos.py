"""Every silo selects clients of its own."""

import functools

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.data import cyclic_sampler, poisson_sampler, silo_sampler, synthetic_iid, uniform_sampler

KEY = jax.random.key(0)
SILOS = {"a": [0, 1, 2, 3], "b": [4, 5, 6], "c": (7, 8, 9), "d": [10, 11]}


def test_every_silo_contributes_in_every_round():
    sampler = silo_sampler(SILOS, 2, key=KEY)
    for round_num in range(1, 30):
        ids = sampler(round_num)
        assert len(set(ids)) == 8 and ids == silo_sampler(SILOS, 2, key=KEY)(round_num)
        assert [next(silo for silo, own in SILOS.items() if i in own) for i in ids] == [*"aabbccdd"]


def test_silos_of_the_same_ids_draw_from_keys_of_their_own():
    sampler = silo_sampler({0: range(50), 1: range(100, 150)}, 3, key=KEY)
    assert all([i + 100 for i in sampler(r)[:3]] != sampler(r)[3:] for r in range(1, 10))


def test_clients_of_a_silo_are_equally_likely():
    counts = np.zeros(12)
    sampler = silo_sampler(SILOS, {"a": 1, "b": 2, "c": 0, "d": 2}, key=KEY)
    for round_num in range(1, 601):
        np.add.at(counts, sampler(round_num), 1)
    expected = np.repeat([150, 400, 0, 600], [4, 3, 3, 2])
    assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected * (1 - expected / 600)) + 1e-9)


def test_a_cyclic_silo_takes_everyone_before_anyone_twice():
    sampler = silo_sampler(SILOS, sampler=cyclic_sampler, key=KEY)
    for place, own in enumerate(SILOS.values()):
        drawn = [sampler(r)[place] for r in range(1, 2 * len(own) + 1)]
        assert sorted(drawn[: len(own)]) == sorted(drawn[len(own) :]) == sorted(own)


def test_it_declares_the_sampling_of_the_silo_that_selects_most_often():
    assert silo_sampler(SILOS, key=KEY).sampling == ("fixed_size", 1, 2)
    assert silo_sampler(SILOS, {"a": 3, "b": 1, "c": 2, "d": 1}, key=KEY).sampling == ("fixed_size", 3, 4)
    by_chance = silo_sampler(SILOS, sampler=lambda ids, n, key: poisson_sampler(ids, n / 10, key=key), key=KEY)
    assert by_chance.sampling == ("poisson", 0.1)
    replacing = silo_sampler(SILOS, sampler=functools.partial(uniform_sampler, replace=True), key=KEY)
    assert not hasattr(replacing, "sampling")


def test_a_run_selects_from_the_silos_of_its_data():
    data = synthetic_iid(num_clients=6, key=KEY)
    process = fc.algorithms.fed_avg(fc.models.logistic_regression(60, 10), optax.sgd(0.1), key=KEY)
    silos = {silo: data.client_ids[silo::3] for silo in range(3)}
    sampler = silo_sampler(silos, key=KEY)
    batching = fc.data.Batching(batch_size=20)
    history = fc.program.train(process, data, sampler=sampler, batching=batching, rounds=2, key=KEY).history
    assert [record.num_clients for record in history.records] == [3, 3]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"silos": {}}, ValueError, "must have a silo, got none"),
        ({"silos": [[1], [2]]}, TypeError, r"must be a dict .* write \{0: ids\[0::2\]"),
        ({"silos": {"a": "ada"}}, TypeError, r"silo_sampler\(ids=\.\.\.\) must be a sequence"),
        ({"silos": {"a": [1, 2], "b": [2]}}, ValueError, "each client in one silo, got 2 in 'a' and 'b'"),
        ({"clients_per_silo": 3}, ValueError, r"silo 'd' cannot select its clients: uniform_sampler\(cohort_size=3\)"),
        ({"clients_per_silo": {"a": 1}}, ValueError, r"a number, or one for each silo, got .* add \{'b': 1\}"),
        ({"clients_per_silo": 1.5}, TypeError, r"clients_per_silo=\.\.\.\) must be an integer"),
        ({"sampler": "cyclic"}, TypeError, r"sampler=\.\.\.\) must be a function .* write sampler=fc\.data\.cyclic"),
        ({"key": 0}, TypeError, r"silo_sampler\(key=\.\.\.\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        silo_sampler(**{"silos": SILOS, "key": KEY, **arguments})
