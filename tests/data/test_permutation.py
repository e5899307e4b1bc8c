"""The order of a population, drawn one place at a time: a permutation, and all permutations are equally likely."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.data import _hashing
from fedjax_core.data._permutation import permuted, walked


def seed(number: int) -> np.ndarray:
    return _hashing.fold(np.uint64([0x0123456789ABCDEF]), number)


@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_everybody_stands_at_one_place(population, number):
    for order in (permuted, walked):
        clients = order(seed(number), population, np.arange(population))
        assert np.array_equal(np.sort(clients), np.arange(population))


@given(st.integers(1, 2**31 - 1) | st.integers(1, 2000), st.integers(0, 9), st.data())
def test_a_place_depends_on_no_other(population, number, draw):
    places = np.array(draw.draw(st.lists(st.integers(0, population - 1), min_size=1, max_size=9, unique=True)))
    together = permuted(seed(number), population, places)
    alone = [int(permuted(seed(number), population, np.array([p]))[0]) for p in places]
    assert together.tolist() == alone and len(set(alone)) == len(alone)
    assert min(alone) >= 0 and max(alone) < population


def network(population: int, place: int, number: int) -> int:
    """The definition in Python's integers: two digits, ten rounds, repeated until the place holds a client."""
    bits = 2**64 - 1

    def mixed(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & bits
        z = (z ^ z >> 27) * 0x94D049BB133111EB & bits
        return z ^ z >> 31

    golden, key = 0x9E3779B97F4A7C15, int(seed(number)[0])
    a = 1
    while a * a < population:
        a += 1
    b = -(-population // a)
    while True:
        left, right = divmod(place, b)
        for turn in range(10):
            round_key = mixed((key ^ turn) + golden & bits)
            tag = mixed(round_key + ((left if turn % 2 else right) + 1) * golden & bits) >> 32
            if turn % 2:
                right = (right + (tag * b >> 32)) % b
            else:
                left = (left + (tag * a >> 32)) % a
        place = left * b + right
        if place < population:
            return place


@pytest.mark.parametrize("population", [1025, 1089, 2000, 65_537, 999_983])
def test_large_populations_go_through_the_network(population):
    places = np.array([0, 1, 17, population // 2, population - 1])
    for number in range(4):
        expected = [network(population, int(p), number) for p in places]
        assert permuted(seed(number), population, places).tolist() == expected


def test_golden_values():
    """Old runs are resumed with these values, so they must stay the same in every version of every dependency."""
    assert permuted(seed(0), 1000, np.arange(4)).tolist() == [842, 216, 956, 665]
    assert permuted(seed(0), 10**7, np.arange(4)).tolist() == [7566011, 1198943, 3376423, 662620]


def assert_uniform(counts: np.ndarray) -> None:
    """Pearson's chi-square is within five standard deviations of its mean."""
    expected = counts.sum() / counts.size
    degrees = counts.size - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - degrees) < 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("population", [1, 2, 3, 4, 5])
def test_every_order_of_few_is_equally_likely(population):
    number = 200 * len(list(itertools.permutations(range(population))))
    orders = [tuple(permuted(seed(k), population, np.arange(population)).tolist()) for k in range(number)]
    found, counts = np.unique(np.array(orders), axis=0, return_counts=True)
    assert len(found) * 200 == number
    if population > 1:
        assert_uniform(counts)


def orders_of(order, population: int, places: np.ndarray, number: int) -> np.ndarray:
    return np.stack([order(seed(k), population, places) for k in range(number)])


@pytest.mark.parametrize("order, population", [(permuted, 7), (permuted, 12), (walked, 23), (walked, 32)])
def test_every_client_and_every_pair_is_equally_likely_everywhere(order, population):
    clients = orders_of(order, population, np.arange(population), 3_000)
    for place in range(population):
        assert_uniform(np.bincount(clients[:, place], minlength=population))
    apart = ~np.eye(population, dtype=bool)
    together = np.zeros((population, population))
    for one, other in itertools.combinations(range(population), 2):
        pairs = np.bincount(clients[:, one] * population + clients[:, other], minlength=population**2)
        together += pairs.reshape(population, population)
        if other - one in (1, 5) or one == 0:  # the same row or column of the network's square, and neighbours
            assert_uniform(pairs.reshape(population, population)[apart])
    assert (together[apart] == 3_000 / 2).mean() < 0.2  # the total over all places is no constant that hides them


@pytest.mark.parametrize("population", [1025, 1600, 2047])
def test_samples_of_a_large_population_show_no_pattern(population):
    places = np.array([0, 1, 2, population // 2, population - 1])
    clients = orders_of(permuted, population, places, 3_000)
    for column in clients.T:
        assert_uniform(np.bincount(column * 16 // population, minlength=16))
        assert_uniform(np.bincount(column[column < population // 16 * 16] % 16, minlength=16))
    for one, other in itertools.combinations(clients.T, 2):
        assert_uniform(np.bincount(one * 12 // population * 12 + other * 12 // population, minlength=144))
        assert_uniform(np.bincount((one - other) % population * 20 // population, minlength=20))
        assert (one != other).all()
