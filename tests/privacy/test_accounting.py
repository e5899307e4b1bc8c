"""Noise, budget and rounds: golden values, the three inverse functions, and arguments that do not match."""

import math
import subprocess
import sys

import numpy as np
import pytest

from fedjax_core import privacy
from fedjax_core.privacy import everyone, fixed_size, poisson

DELTA = 1e-6
GOLDEN = {
    "poisson, rdp": (1.0, 1000, poisson(0.01), {"accountant": "rdp"}, 2.4367),
    "poisson, pld": (1.0, 1000, poisson(0.01), {"accountant": "pld"}, 2.1245),
    "everyone, rdp": (10.0, 100, everyone(), {"accountant": "rdp"}, 5.2215),
    "everyone, pld": (10.0, 100, everyone(), {"accountant": "pld"}, 4.88655),
    "fixed size, noise relative to the sensitivity": (1.0, 1000, fixed_size(10, 1000), {"sensitivity": 1.0}, 4.0212),
    "fixed size, noise relative to the clipping norm": (2.0, 1000, fixed_size(10, 1000), {}, 4.0212),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name):
    noise, rounds, sampling, settings, expected = GOLDEN[name]
    spent = privacy.epsilon(noise_multiplier=noise, rounds=rounds, delta=DELTA, sampling=sampling, **settings)
    assert abs(spent - expected) < 6e-5


def _gaussian_delta(epsilon, mu):
    """The exact delta of a Gaussian whose sensitivity is `mu` deviations (Balle and Wang 2018, theorem 8)."""
    from scipy.stats import norm

    return norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("noise", "rounds"), [(10.0, 100), (3.0, 1), (5.0, 7)])
def test_rounds_of_everyone_are_one_gaussian(noise, rounds):
    spent = privacy.epsilon(noise_multiplier=noise, rounds=rounds, delta=DELTA, sampling=everyone(), accountant="pld")
    np.testing.assert_allclose(_gaussian_delta(spent, math.sqrt(rounds) / noise), DELTA, rtol=5e-3)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_replacing_a_client_moves_the_sum_twice_as_far(accountant):
    terms = {"rounds": 10, "delta": DELTA, "sampling": everyone(), "accountant": accountant}
    replaced = privacy.epsilon(noise_multiplier=8.0, relation="replace_one", **terms)
    assert replaced == privacy.epsilon(noise_multiplier=4.0, **terms)
    assert replaced == privacy.epsilon(noise_multiplier=8.0, sensitivity=2.0, **terms)


def test_a_cohort_of_the_whole_population_is_everyone():
    terms = {"noise_multiplier": 8.0, "rounds": 10, "delta": DELTA}
    expected = privacy.epsilon(sampling=everyone(), relation="replace_one", **terms)
    assert privacy.epsilon(sampling=fixed_size(20, 20), **terms) == expected
    assert privacy.epsilon(sampling=poisson(1.0), relation="replace_one", **terms) == expected


def test_no_rounds_cost_nothing_and_no_noise_everything():
    terms = {"delta": DELTA, "sampling": poisson(0.1)}
    assert privacy.epsilon(noise_multiplier=1.0, rounds=0, **terms) == 0.0
    assert privacy.epsilon(noise_multiplier=0.0, rounds=0, **terms) == 0.0
    assert privacy.epsilon(noise_multiplier=0.0, rounds=1, **terms) == math.inf
    assert privacy.rounds(noise_multiplier=0.0, epsilon=1.0, **terms) == 0


SAMPLINGS = {"rdp": [everyone(), poisson(0.05), fixed_size(5, 100)], "pld": [everyone(), poisson(0.05)]}


@pytest.mark.parametrize(("accountant", "sampling"), [(a, s) for a in SAMPLINGS for s in SAMPLINGS[a]], ids=str)
def test_the_three_are_inverse(accountant, sampling):
    terms = {"delta": 1e-5, "sampling": sampling, "accountant": accountant}
    spent = privacy.epsilon(noise_multiplier=3.0, rounds=20, **terms)
    least = privacy.noise_multiplier(epsilon=spent, rounds=20, **terms)
    assert 3.0 * (1 - 1e-6) < least < 3.0 * (1 + 2e-4)
    assert privacy.epsilon(noise_multiplier=least, rounds=20, **terms) <= spent
    assert privacy.rounds(noise_multiplier=3.0, epsilon=spent, **terms) == 20
    assert privacy.rounds(noise_multiplier=3.0, epsilon=spent * 0.999, **terms) == 19


def test_budgets_far_off():
    terms = {"delta": DELTA, "sampling": everyone()}
    for budget in (0.015, 200.0):
        least = privacy.noise_multiplier(epsilon=budget, rounds=1, **terms)
        assert privacy.epsilon(noise_multiplier=least, rounds=1, **terms) <= budget
        assert privacy.epsilon(noise_multiplier=0.999 * least, rounds=1, **terms) > budget
    assert privacy.rounds(noise_multiplier=0.1, epsilon=1.0, **terms) == 0
    with pytest.raises(ValueError, match=r"\(epsilon=1e-12, .* is beyond 1048576; allow a larger epsilon"):
        privacy.noise_multiplier(epsilon=1e-12, rounds=1000, **terms)


def test_what_is_spent_so_far_grows_to_the_whole():
    terms = {"noise_multiplier": 2.0, "delta": DELTA, "sampling": fixed_size(10, 200)}
    spent = privacy.accounting(**terms)
    assert spent.sampling == fixed_size(10, 200) and spent.delta == DELTA
    so_far = [spent.epsilon_so_far(round_num) for round_num in (0, 1, 2, 50)]
    assert so_far[0] == 0 and np.all(np.diff(so_far) > 0)
    assert so_far[3] == privacy.epsilon(rounds=50, **terms)


@pytest.mark.parametrize(
    ("sampling", "settings", "message"),
    [
        (fixed_size(10, 100), {"accountant": "pld"}, r"'pld' has no bound .* sampling=fixed_size\(10, 100\); write"),
        (fixed_size(10, 100), {"relation": "add_or_remove_one"}, "under relation='replace_one' only, .* leave out"),
        (poisson(0.1), {"relation": "replace_one"}, "Poisson sampling .* under relation='add_or_remove_one' only"),
        (poisson(0.1), {"relation": "replace_one", "accountant": "pld"}, "Poisson sampling .* only"),
    ],
)
def test_sampling_and_accountant_that_do_not_match_are_refused(sampling, settings, message):
    terms = {"sampling": sampling, "delta": DELTA, **settings}
    with pytest.raises(ValueError, match=message):
        privacy.epsilon(noise_multiplier=1.0, rounds=10, **terms)
    with pytest.raises(ValueError, match=message):
        privacy.noise_multiplier(epsilon=1.0, rounds=10, **terms)
    with pytest.raises(ValueError, match=message):
        privacy.rounds(noise_multiplier=1.0, epsilon=1.0, **terms)
    with pytest.raises(ValueError, match=message):
        privacy.accounting(noise_multiplier=1.0, **terms)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"noise_multiplier": -1}, ValueError, r"\(noise_multiplier=...\) must be from 0 to 2\*\*20, got -1"),
        ({"noise_multiplier": math.nan}, ValueError, "got nan; write noise_multiplier=1.0"),
        ({"noise_multiplier": "1"}, TypeError, "got '1'"),
        ({"rounds": -1}, ValueError, r"\(rounds=...\) must be an integer of at least 0, got -1; write"),
        ({"rounds": 1.5}, TypeError, "got 1.5"),
        ({"rounds": True}, TypeError, "got True"),
        ({"delta": 0}, ValueError, "must be above 0 and below 1, got 0; write delta=1e-6"),
        ({"delta": 1}, ValueError, "above 0 and below 1"),
        ({"sampling": 0.01}, TypeError, r"must be everyone\(\), .*got 0.01; write sampling=fc.privacy.poi"),
        ({"accountant": "moments"}, ValueError, "must be 'rdp' or 'pld', got 'moments'; write accountant='rdp'"),
        ({"relation": "zero_out"}, ValueError, "'add_or_remove_one' or 'replace_one', got 'zero_out'; leave"),
        ({"sensitivity": 0}, ValueError, "must be positive and finite, got 0"),
    ],
)
def test_refuses(change, error, message):
    terms = {"noise_multiplier": 1.0, "rounds": 10, "delta": DELTA, "sampling": everyone()} | change
    with pytest.raises(error, match=message):
        privacy.epsilon(**terms)


def test_refuses_a_budget_and_rounds_out_of_range():
    terms = {"delta": DELTA, "sampling": everyone()}
    with pytest.raises(ValueError, match=r"noise_multiplier\(epsilon=...\) must be positive and finite, got 0"):
        privacy.noise_multiplier(epsilon=0, rounds=1, **terms)
    with pytest.raises(ValueError, match=r"noise_multiplier\(rounds=...\) must be an integer of at least 1, got 0"):
        privacy.noise_multiplier(epsilon=1.0, rounds=0, **terms)
    with pytest.raises(ValueError, match=r"epsilon_so_far\(round_num=...\) must be an integer of at least 0, got -1"):
        privacy.accounting(noise_multiplier=1.0, **terms).epsilon_so_far(-1)


def test_without_dp_accounting_the_extra_is_named_when_something_is_computed():
    program = """
import sys
sys.modules["dp_accounting"] = None
from fedjax_core import privacy
try:
    privacy.epsilon(noise_multiplier=1.0, rounds=1, delta=1e-6, sampling=privacy.everyone())
except ImportError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip().endswith("run pip install 'fedjax_core[privacy]'")
