"""Samplers: pure functions of key and round, with the documented distributions."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.data import (
    cyclic_sampler,
    fixed_cohorts,
    poisson_sampler,
    sample_clients,
    uniform_sampler,
    weighted_sampler,
)

KEY = jax.random.key(0)
IDS = [f"client_{i}" for i in range(40)]
WEIGHTS = np.arange(40)

MAKERS = {
    "uniform": lambda key: uniform_sampler(IDS, 7, key=key),
    "uniform, replaced": lambda key: uniform_sampler(IDS, 7, key=key, replace=True),
    "weighted": lambda key: weighted_sampler(IDS, WEIGHTS, 7, key=key),
    "weighted, replaced": lambda key: weighted_sampler(IDS, WEIGHTS, 7, key=key, replace=True),
    "poisson": lambda key: poisson_sampler(IDS, 0.2, key=key),
    "poisson by client": lambda key: poisson_sampler(IDS, WEIGHTS / 100, key=key),
    "cyclic": lambda key: cyclic_sampler(IDS, 7, key=key),
}
parametrized = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def assert_uniform(counts, expected, bound):
    """Pearson's chi-square is below its 0.999 quantile."""
    assert ((counts - expected) ** 2 / expected).sum() < bound


@parametrized
def test_a_sampler_is_a_function_of_key_and_round(make):
    in_order = {r: make(KEY)(r) for r in range(1, 30)}
    sampler = make(jax.random.wrap_key_data(jax.random.key_data(KEY)))
    for round_num in np.random.default_rng(0).permutation(np.arange(1, 30)):
        ids = sampler(round_num)
        assert ids == in_order[round_num] and type(ids) is list and set(ids) <= set(IDS)
    assert sampler(jax.numpy.int32(3)) == in_order[3]


@parametrized
def test_rounds_and_keys_differ(make):
    draws = [tuple(make(jax.random.key(k))(r)) for k in range(5) for r in range(1, 20)]
    assert len(set(draws)) == len(draws)


@parametrized
def test_a_bad_round_or_key_is_refused(make):
    with pytest.raises(ValueError, match=r"_sampler\(round_num=...\) must be an integer of at least 0, got -1"):
        make(KEY)(-1)
    with pytest.raises(TypeError, match=r"_sampler\(round_num=...\) must be an integer of at least 0, got 1.5"):
        make(KEY)(1.5)
    with pytest.raises(TypeError, match="needs one typed key"):
        make(0)


def test_uniform_is_sample_clients():
    sampler = uniform_sampler(IDS, 7, key=KEY)
    assert all(sampler(r) == sample_clients(r, IDS, 7, key=KEY) for r in range(5))


def test_replaced_clients_are_independent_and_equally_likely():
    sampler = uniform_sampler(range(6), 4, key=KEY, replace=True)
    draws = np.array([sampler(r) for r in range(6000)])
    for a, b in itertools.pairwise(range(4)):
        pairs = np.bincount(6 * draws[:, a] + draws[:, b], minlength=36)
        assert_uniform(pairs, 6000 / 36, 66.6)  # 35 degrees of freedom


def test_weighted_clients_are_drawn_one_after_another():
    weights = np.array([1.0, 2.0, 5.0])
    sampler = weighted_sampler(range(3), 1e-3 * weights, 2, key=KEY)
    draws = [tuple(sampler(r)) for r in range(6000)]
    share = weights / weights.sum()
    for a, b in itertools.permutations(range(3), 2):
        expected = share[a] * share[b] / (1 - share[a])
        assert abs(draws.count((a, b)) / 6000 - expected) < 4 * np.sqrt(expected * (1 - expected) / 6000)


def test_weighted_and_replaced_clients_are_in_proportion():
    weights = np.array([4, 0, 1, 3, 2])
    sampler = weighted_sampler(range(5), weights, 3, key=KEY, replace=True)
    counts = np.bincount(np.ravel([sampler(r) for r in range(3000)]), minlength=5)
    assert counts[1] == 0
    here = weights > 0
    assert_uniform(counts[here], 9000 * weights[here] / 10, 16.3)  # 3 degrees of freedom


@pytest.mark.parametrize(
    "weights", [np.ones(50), 2.0 ** -np.arange(50), 10.0 ** -np.arange(0, 250, 5), [1e308] * 50, [5e-324] * 50]
)
def test_all_of_positive_weight_can_be_drawn(weights):
    weights = np.concatenate([weights, np.zeros(3)])
    sampler = weighted_sampler(range(53), weights, 50, key=KEY)
    for round_num in range(5):
        assert sorted(sampler(round_num)) == list(range(50))


def test_a_large_weight_does_not_hide_the_others():
    sampler = weighted_sampler(range(4), [1e12, 1.0, 1.0, 2.0], 2, key=KEY)
    seconds = np.array([sampler(r)[1] for r in range(2000)])
    assert_uniform(np.bincount(seconds, minlength=4)[1:], 2000 * np.array([0.25, 0.25, 0.5]), 13.8)


def test_poisson_sizes_have_mean_and_variance_of_independent_clients():
    probability = np.linspace(0.0, 0.5, 200)
    sampler = poisson_sampler(range(200), probability, key=KEY)
    draws = np.zeros((2000, 200))
    for r in range(2000):
        draws[r, sampler(r)] = 1
    variance = probability * (1 - probability)
    assert (np.abs(draws.mean(0) - probability) <= 4.5 * np.sqrt(variance / 2000)).all()
    sizes = draws.sum(1)
    assert abs(sizes.mean() - probability.sum()) < 4 * np.sqrt(variance.sum() / 2000)
    assert abs(sizes.var() / variance.sum() - 1) < 4 * np.sqrt(2 / 2000)


def test_poisson_with_one_probability_is_that_for_everyone():
    one, each = (poisson_sampler(IDS, p, key=KEY) for p in (0.3, np.full(40, 0.3)))
    assert [one(r) for r in range(20)] == [each(r) for r in range(20)]
    assert poisson_sampler(IDS, 1, key=KEY)(0) == IDS
    assert poisson_sampler(IDS, 0.0, key=KEY)(0) == [] == poisson_sampler([], 0.5, key=KEY)(0)


@given(st.integers(1, 14), st.data(), st.integers(0, 3))
def test_cyclic_takes_everyone_once_before_anyone_twice(population, draw, first_round):
    num_clients = draw.draw(st.integers(1, population))
    sampler = cyclic_sampler(range(population), num_clients, key=KEY, first_round=first_round)
    cohorts = [sampler(first_round + r) for r in range(3 * population)]
    assert all(len(set(cohort)) == num_clients for cohort in cohorts)
    stream = list(itertools.chain(*cohorts))
    for start in range(0, len(stream), population):
        assert sorted(stream[start : start + population]) == list(range(population))
    resumed = cyclic_sampler(range(population), num_clients, key=KEY, first_round=first_round)
    assert resumed(first_round + 3 * population - 1) == cohorts[-1]


@pytest.mark.parametrize("population, num_clients", [(6, 3), (7, 3), (5, 4)])
def test_cyclic_prefers_nobody(population, num_clients):
    rounds = 30
    draws = np.array(
        [
            [sampler(r) for r in range(1, rounds + 1)]
            for sampler in (cyclic_sampler(range(population), num_clients, key=jax.random.key(k)) for k in range(300))
        ]
    )
    for r in range(0, rounds, 7):
        for place in range(num_clients):
            counts = np.bincount(draws[:, r, place], minlength=population)
            assert_uniform(counts, 300 / population, 24)  # at most 6 degrees of freedom, p < 0.001


def test_cyclic_orders_differ_between_epochs():
    sampler = cyclic_sampler(range(30), 30, key=KEY)
    orders = [sampler(r) for r in range(1, 5)]
    assert len(set(map(tuple, orders))) == 4 and all(sorted(order) == list(range(30)) for order in orders)


def test_cyclic_of_nearly_everyone_is_distinct():
    sampler = cyclic_sampler(range(101), 100, key=KEY)
    assert all(len(set(sampler(r))) == 100 for r in range(1, 210, 13))


def test_fixed_cohorts_come_in_their_order():
    sampler = fixed_cohorts(iter([np.array([3, 4]), [], ["ada"]]))
    assert [sampler(r) for r in range(1, 6)] == [[3, 4], [], ["ada"], [3, 4], []]
    assert fixed_cohorts([[1], [2]], first_round=0)(0) == [1]


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: uniform_sampler(ids, 10, key=KEY),
        lambda ids: uniform_sampler(ids, 10, key=KEY, replace=True),
        lambda ids: weighted_sampler(ids, np.ones(len(ids)), 10, key=KEY),
        lambda ids: weighted_sampler(ids, np.ones(len(ids)), 10, key=KEY, replace=True),
        lambda ids: poisson_sampler(ids, 1e-5, key=KEY),
        lambda ids: cyclic_sampler(ids, 10, key=KEY),
    ],
)
def test_a_population_is_indexed_only_where_it_is_drawn(make):
    class Ids:
        """The ids of a population, which count how many of them are read."""

        looked = 0

        def __len__(self):
            return 200_000

        def __getitem__(self, i):
            self.looked += 1
            return range(200_000)[i]

    ids = Ids()
    sampler = make(ids)
    drawn = [i for r in range(1, 4) for i in sampler(r)]
    assert ids.looked == len(drawn) < 60 and len(set(drawn)) > 1 and max(drawn) > 10_000


def test_nobody_can_be_asked_for():
    for replace in (False, True):
        assert uniform_sampler([], 0, key=KEY, replace=replace)(1) == []
        assert weighted_sampler([], [], 0, key=KEY, replace=replace)(1) == []
        assert weighted_sampler([1], [0], 0, key=KEY, replace=replace)(1) == []
    assert cyclic_sampler([], 0, key=KEY)(1) == [] == cyclic_sampler([1], 0, key=KEY)(5)


def test_golden_values():
    """They are the same in every version of Python, NumPy and JAX, so that old cohorts can be drawn again."""
    population = range(1000)
    assert uniform_sampler(population, 4, key=KEY)(3) == [719, 662, 787, 854]
    assert uniform_sampler(population, 4, key=KEY, replace=True)(3) == [398, 779, 596, 877]
    assert uniform_sampler(range(10**7), 4, key=KEY)(3) == [6370783, 4901348, 592790, 8241663]
    assert weighted_sampler(population, np.arange(1000), 4, key=KEY)(3) == [828, 585, 767, 452]
    assert weighted_sampler(population, np.arange(1000), 4, key=KEY, replace=True)(3) == [828, 585, 767, 452]
    assert poisson_sampler(population, 0.004, key=KEY)(3) == [609, 718]
    assert poisson_sampler(population, 0.03, key=KEY)(3)[:6] == [27, 39, 41, 76, 79, 89]
    assert poisson_sampler(range(10**7), 4e-7, key=KEY)(3) == [2748800, 7982732]
    assert poisson_sampler(population, np.linspace(0, 0.01, 1000), key=KEY)(3)[:5] == [318, 389, 555, 668, 720]
    assert cyclic_sampler(range(10**6), 300, key=KEY)(4)[97:100] == [443066, 704915, 484285]
    assert cyclic_sampler(population, 300, key=KEY)(4)[97:103] == [698, 410, 418, 591, 965, 560]


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: uniform_sampler(IDS, 41, key=KEY), ValueError, r"cohort_size=41\) draws without .*, got 40 ids"),
        (lambda: cyclic_sampler(IDS, 41, key=KEY), ValueError, r"cyclic_sampler\(cohort_size=41\) draws without"),
        (lambda: uniform_sampler([], 1, key=KEY, replace=True), ValueError, "got no ids; use cohort_size=0"),
        (
            lambda: uniform_sampler(IDS, 2.0, key=KEY),
            TypeError,
            r"cohort_size=...\) must be an integer of at least 0, got 2.0",
        ),
        (lambda: poisson_sampler({"a": 1}, 0.5, key=KEY), TypeError, "got a dict; use its keys"),
        (lambda: poisson_sampler(IDS, 1.5, key=KEY), ValueError, "must be from 0 to 1, got 1.5"),
        (lambda: poisson_sampler(IDS, np.nan, key=KEY), ValueError, "must be from 0 to 1, got nan"),
        (lambda: poisson_sampler(IDS, "often", key=KEY), TypeError, "must be numbers, got 'often'; for example 0.01"),
        (lambda: weighted_sampler(["a"], {"a": 1}, 1, key=KEY), TypeError, r"got \{'a': 1\}; for a dict use \[weights"),
        (lambda: poisson_sampler(IDS, [0.5], key=KEY), ValueError, r"got the shape \(1,\) for 40 ids"),
        (lambda: weighted_sampler(IDS, [1.0], 1, key=KEY), ValueError, r"got the shape \(1,\) for 40 ids"),
        (lambda: weighted_sampler(IDS, WEIGHTS - 1, 1, key=KEY), ValueError, "got -1.0 for client 'client_0'"),
        (lambda: weighted_sampler(["a"], [np.inf], 1, key=KEY), ValueError, "must be finite .* got inf"),
        (lambda: weighted_sampler(IDS, WEIGHTS, 40, key=KEY), ValueError, "got 39 of them; use cohort_size=39"),
        (lambda: weighted_sampler(["a"], [0], 1, key=KEY, replace=True), ValueError, "got 0 of them"),
        (lambda: fixed_cohorts([]), ValueError, r"at least one cohort, got none; use \[data.client_ids\]"),
        (lambda: fixed_cohorts(["ada"]), TypeError, r"got the string 'ada'; use \['ada'\]"),
        (lambda: fixed_cohorts([[1]])(0), ValueError, r"begins with round 1, got round 0; use .*first_round=0\)"),
        (lambda: cyclic_sampler(IDS, 1, key=KEY)(0), ValueError, r"begins with round 1, got round 0"),
        (
            lambda: cyclic_sampler(IDS, 1, key=KEY, first_round=-1),
            ValueError,
            r"first_round=...\) must be an integer of at least 0",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
