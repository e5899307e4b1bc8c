"""Cohort sampling: pure, uniform, without replacement."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.data import ClientIds, _hashing, sample_clients, synthetic_iid

KEY = jax.random.key(0)


@given(st.integers(0, 40), st.floats(0, 1), st.integers(0, 10))
def test_a_sample_is_distinct_and_repeatable(population, fraction, round_num):
    ids = [f"client_{i}" for i in range(population)]
    num_clients = int(fraction * population)
    sample = sample_clients(round_num, ids, num_clients, key=KEY)
    assert len(sample) == len(set(sample)) == num_clients and set(sample) <= set(ids)
    assert sample == sample_clients(jax.numpy.int32(round_num), tuple(ids), num_clients, key=KEY)


@pytest.mark.parametrize("population, num_clients", [(1, 0), (1, 1), (7, 7), (100, 3), (100, 60), (1024, 1024)])
def test_a_sample_of_few_is_of_the_lowest_tags(population, num_clients):
    seed = _hashing.fold(_hashing.seed(KEY, "sample_clients"), 5)
    tag = _hashing.tags(seed, np.arange(population))
    expected = np.argsort(tag, kind="stable")[:num_clients]
    assert sample_clients(5, range(population), num_clients, key=KEY) == expected.tolist()


@pytest.mark.parametrize("population", [3, 1024, 1025, 100_000])
def test_a_smaller_cohort_begins_a_larger_one(population):
    larger = sample_clients(2, range(population), min(population, 2000), key=KEY)
    for number in (0, 1, 2, 3):
        assert sample_clients(2, range(population), number, key=KEY) == larger[:number]


def test_ids_of_a_population_are_drawn_as_a_view():
    ids = ClientIds(range(10, 10_000_010))
    drawn = sample_clients(3, ids, 1000, key=KEY)
    assert isinstance(drawn, ClientIds) and drawn == sample_clients(3, range(10, 10_000_010), 1000, key=KEY)
    np.testing.assert_array_equal(drawn.rows, np.array(drawn) - 10)


def test_golden_values():
    assert sample_clients(1, range(1000), 5, key=KEY) == [940, 512, 270, 619, 779]
    assert sample_clients(12, ["ada", "bob", "eve"], 3, key=jax.random.key(7)) == ["bob", "ada", "eve"]
    assert sample_clients(1, range(10**7), 5, key=KEY) == [940896, 7344584, 7628251, 82488, 6903441]
    assert sample_clients(12, range(2**31), 3, key=jax.random.key(7)) == [1764149123, 1684785621, 438873474]


def test_rounds_and_keys_differ():
    draws = [sample_clients(r, range(100), 10, key=jax.random.key(k)) for k in range(5) for r in range(20)]
    assert len(set(map(tuple, draws))) == 100


def test_everyone_has_the_same_chance_in_every_place():
    population, num_clients, rounds = 10, 4, 3000
    draws = np.array([sample_clients(r, range(population), num_clients, key=KEY) for r in range(rounds)])
    expected = rounds / population
    for place in range(num_clients):
        counts = np.bincount(draws[:, place], minlength=population)
        assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((KEY, 0, ["a", "b"], 3), ValueError, "got 2 ids; use cohort_size=2 or less"),
        ((KEY, 0, ["a", "b"], -1), ValueError, r"cohort_size=...\) must be an integer of at least 0, got -1"),
        ((KEY, 0, ["a", "b"], 1.0), TypeError, r"cohort_size=...\) must be an integer of at least 0, got 1.0"),
        ((KEY, -1, ["a", "b"], 1), ValueError, r"round_num=...\) must be an integer of at least 0"),
        ((KEY, 0, {"a": 1}, 1), TypeError, r"got a dict; use its keys: data.client_ids or list\(ids\)"),
        ((KEY, 0, iter("ab"), 1), TypeError, r"a sequence of client ids, got .*; use list\(ids\)"),
        ((KEY, 0, "ada", 1), TypeError, r"got 'ada'; use \['ada'\]"),
        ((0, 0, ["a", "b"], 1), TypeError, r"needs one typed key .*got 0; pass key=jax.random.key\(0\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sample_clients(*arguments[1:], key=arguments[0])


def test_data_in_place_of_its_ids_are_refused():
    data = synthetic_iid(num_clients=2, key=KEY)
    with pytest.raises(TypeError, match=r"got a FederatedData; use its keys: data.client_ids"):
        sample_clients(0, data, 1, key=KEY)


def test_a_traced_key_is_refused():
    with pytest.raises(TypeError, match="a traced key<fry>"):
        jax.jit(lambda key: sample_clients(0, ["a"], 1, key=key))(KEY)
