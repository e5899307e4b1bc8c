"""Availability over the day."""

import jax
import numpy as np
import pytest

from fedjax_core.data import available, diurnal, fixed_cohorts, participation

KEY = jax.random.key(0)
IDS = tuple(range(500))


def test_one_time_zone_is_a_cosine():
    probability = diurnal(0.1, 0.7, rounds_per_day=8)
    values = np.array([probability(r, IDS) for r in range(17)])
    expected = 0.4 + 0.3 * np.cos(2 * np.pi * np.arange(17) / 8)
    np.testing.assert_allclose(values, np.repeat(expected[:, None], 500, 1), rtol=1e-12)


@pytest.mark.parametrize("low", np.linspace(0, 1, 23))
def test_a_probability_stays_between_low_and_high(low):
    for high in np.linspace(low, 1, 7):
        probability = diurnal(low, high, rounds_per_day=24, key=KEY)
        for round_num in range(24):
            values = probability(round_num, IDS[:40])
            assert (values >= low).all() and (values <= high).all()


def test_best_hours_are_spread_over_the_day():
    day = 24
    values = np.array([diurnal(0.0, 1.0, rounds_per_day=day, key=KEY)(r, IDS) for r in range(day)])
    counts = np.bincount(values.argmax(0), minlength=day)
    assert ((counts - 500 / day) ** 2 / (500 / day)).sum() < 49.7  # chi-square, 23 degrees of freedom, p = 0.001
    np.testing.assert_allclose(values.mean(0), 0.5, atol=1e-9)
    np.testing.assert_array_equal(values[3, :10], diurnal(0.0, 1.0, rounds_per_day=day, key=KEY)(3 + day, IDS[:10]))


def test_more_clients_are_available_by_day():
    present = participation(
        fixed_cohorts([IDS], first_round=0), available(diurnal(0.1, 0.9, rounds_per_day=10), key=KEY)
    )
    numbers = [present(r).reported for r in range(11)]
    deviation = np.sqrt(500 * 0.25)
    expected = 500 * (0.5 + 0.4 * np.cos(2 * np.pi * np.arange(11) / 10))
    assert (np.abs(numbers - expected) < 4 * deviation).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-0.1, 1.0, 24), r"diurnal\(low=...\) must be from 0 to 1, got -0.1"),
        ((0.1, 1.1, 24), r"diurnal\(high=...\) must be from 0 to 1, got 1.1"),
        ((0.9, 0.1, 24), r"must have low <= high; use diurnal\(0.1, 0.9, ...\)"),
        ((0.1, 0.9, 0), r"rounds_per_day=...\) must be positive and finite, got 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    low, high, rounds_per_day = arguments
    with pytest.raises(ValueError, match=message):
        diurnal(low, high, rounds_per_day=rounds_per_day)


def test_what_is_no_number_is_refused():
    for arguments in (("0.1", 0.9, 24), (0.1, None, 24), (0.1, 0.9, "a day")):
        with pytest.raises(
            TypeError, match=r"diurnal\(\w+=...\) must be (from 0 to 1|positive and finite), got .*; write \w+="
        ):
            diurnal(*arguments[:2], rounds_per_day=arguments[2])
