"""Clients that take part independently: gaps and tags give each client exactly its probability."""

import fractions

import numpy as np
import pytest

from fedjax_core.data import _hashing
from fedjax_core.data._independent import Independent, gap_thresholds


def seed(number: int) -> np.ndarray:
    return _hashing.fold(np.uint64([0xFEDCBA9876543210]), number)


@pytest.mark.parametrize("probability", [0.5**7, 0.01, 1e-3, 1e-9, 5e-324])
@pytest.mark.parametrize("population", [1, 2, 256, 257, 70_000])
def test_the_chance_of_every_gap_is_exact(probability, population):
    """Digits and remainder multiply to p (1 - p)^g, to the 64 bits that are drawn."""
    *digits, beyond = gap_thresholds(probability, population)
    assert 256 ** len(digits) >= population > 256 ** (len(digits) - 1) or population == 1
    p = fractions.Fraction(probability)

    def chance(threshold: np.ndarray, digit: int) -> fractions.Fraction:
        bounds = [0, *map(int, threshold), 2**64]
        return fractions.Fraction(bounds[digit + 1] - bounds[digit], 2**64) if digit < len(bounds) - 1 else 0

    for gap in {0, 1, 2, 255, 256, 300, population - 1} & set(range(population)):
        found = chance(beyond, 0)
        for place, threshold in enumerate(digits):
            found *= chance(threshold, gap >> 8 * place & 255)
        few = (
            gap < 1000 or probability > 1e-4
        )  # beyond, the first terms of the power, of which the next is below 2**-70
        expected = p * (1 - p) ** gap if few else p * (1 - gap * p + gap * (gap - 1) * p**2 / 2)
        assert abs(found - expected) < fractions.Fraction(8, 2**64)


@pytest.mark.parametrize("probability", [0.012, 0.03])
def test_draws_are_those_of_independent_trials(probability):
    population, rounds = 50, 10_000
    draw = Independent(population, np.asarray(probability))
    here = np.zeros((rounds, population))
    for k in range(rounds):
        here[k, draw(seed(k))] = 1
    variance = probability * (1 - probability)
    standard = (here.mean(0) - probability) / (variance / rounds) ** 0.5
    assert (abs(standard) < 4.5).all() and (standard**2).sum() < population + 5 * (2 * population) ** 0.5
    centered = here - probability
    correlation = (centered.T @ centered)[np.triu_indices(population, 1)] / rounds / variance
    assert abs(correlation.std() * rounds**0.5 - 1) < 0.1 and abs(correlation.mean() * rounds**0.5) < 0.15
    sizes = here.sum(1)
    assert abs(sizes.var() / (population * variance) - 1) < 0.05


def test_few_and_many_are_ascending_clients_of_the_population():
    for population in (0, 1, 5, 300, 70_000):
        for probability in (0.0, 1e-6, 1e-3, 0.015, 0.02, 1.0):
            clients = Independent(population, np.asarray(probability))(seed(1))
            assert clients.dtype == np.int64 and (np.diff(clients) > 0).all()
            assert not len(clients) or (clients[0] >= 0 and clients[-1] < population)
    assert len(Independent(70_000, np.asarray(1.0))(seed(1))) == 70_000


def test_draws_do_not_depend_on_how_many_gaps_are_drawn_together(monkeypatch):
    draw = Independent(300_000, np.asarray(0.01))
    expected = draw(seed(0))
    monkeypatch.setattr("fedjax_core.data._independent._CHUNK", 7)
    assert np.array_equal(draw(seed(0)), expected) and len(expected) > 2500


def test_chances_of_ones_own_are_kept():
    probability = np.linspace(0, 0.01, 200)
    draw, rounds = Independent(200, probability), 15_000
    counts = np.bincount(np.concatenate([draw(seed(k)) for k in range(rounds)]), minlength=200)
    standard = (counts[1:] - rounds * probability[1:]) / (rounds * probability[1:]) ** 0.5
    assert counts[0] == 0 and (abs(standard) < 4.5).all() and (standard**2).sum() < 199 + 5 * 398**0.5
