"""Noise, budget and rounds: any two of them give the third."""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_core import _checks
from fedjax_core.privacy._one_round import check_match, cost, load, true_sensitivity
from fedjax_core.privacy._sampling import Sampling

_MOST_NOISE, _MOST_ROUNDS = 2**20, 2**30


class Accounting(NamedTuple):
    """The cost of a run after each of its rounds; made by `accounting`.

    Attributes:
      sampling: how the clients of a round are drawn.
      delta: the delta of the guarantee.
      epsilon_so_far: `(round_num) -> epsilon` after that many rounds, a pure function.
      noise_multiplier: the one of the `private_mean` that it is right for, which a run compares with that of its
        process; None in an accounting of your own for another mechanism, which is not compared.
    """

    sampling: Sampling
    delta: float
    epsilon_so_far: Callable[[int], float]
    noise_multiplier: float | None = None


def epsilon(
    *,
    noise_multiplier: float,
    rounds: int,
    delta: float,
    sampling: Sampling,
    accountant: str = "rdp",
    relation: str | None = None,
    sensitivity: float | None = None,
) -> float:
    r"""The epsilon of a run with `aggregators.private_mean`: its rounds are (epsilon, delta)-private for every client.

    A run is a function of its clients. Two populations are neighbours if they differ in one client. The run is
    :math:`(\varepsilon, \delta)`-differentially private if for all neighbours, and for all sets of results, the
    probability of a result in the set is at most :math:`e^\varepsilon` times that for the neighbour, plus
    :math:`\delta`.

    Args:
      noise_multiplier: the one of `private_mean`: the standard deviation of the noise on the sum, as a multiple of
        the clipping norm. At least 0.
      rounds: the number of rounds, at least 0.
      delta: above 0 and below 1; choose it well below 1 / population.
      sampling: `everyone()`, `poisson(probability)` or `fixed_size(cohort_size, population)`.
      accountant: "rdp" (Renyi divergences: any sampling, fast) or "pld" (privacy loss distributions:
        tighter and slower, without `fixed_size`).
      relation: which populations are neighbours: "add_or_remove_one" (one has one more client;
        for `everyone` and `poisson`) or "replace_one" (one client is replaced by another;
        for `everyone` and `fixed_size`). None takes the relation that fits the sampling, the first if both do.
      sensitivity: how far one client can move the sum, as a multiple of the clipping norm. None takes the
        true value for `private_mean`: 1 if a client is added or removed, 2 if one is replaced. With 1.0
        the noise multiplier is the ratio of noise to sensitivity whatever the relation, which is
        the convention of dp-accounting for "replace_one".

    Returns:
      Epsilon; infinity without noise.

    Raises:
      ImportError: dp-accounting is not installed.
      TypeError: an argument is of the wrong kind.
      ValueError: a number is out of range, or sampling, accountant and relation do not match.

    Example: 1,000 rounds with one percent of the clients each.

    >>> from fedjax_core.privacy import epsilon, poisson
    >>> spent = epsilon(noise_multiplier=1.0, rounds=1000, delta=1e-6, sampling=poisson(0.01))
    >>> print(f"{spent:.3f}")
    2.437

    References:
      Mironov 2017, Renyi Differential Privacy (arXiv:1702.07476). Mironov et al. 2019, Renyi Differential Privacy
      of the Sampled Gaussian Mechanism (arXiv:1908.10530). Wang et al. 2019, Subsampled Renyi Differential Privacy
      and Analytical Moments Accountant (arXiv:1808.00087).
    """
    _check("epsilon", noise_multiplier=noise_multiplier, delta=delta)
    _checks.check_integer("epsilon(rounds=...)", rounds, 0, "write rounds=100")
    _check_terms("epsilon", sampling, accountant, relation, sensitivity)
    return cost(noise_multiplier, sampling, accountant, relation, sensitivity)(rounds, delta)


def noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    sampling: Sampling,
    accountant: str = "rdp",
    relation: str | None = None,
    sensitivity: float | None = None,
) -> float:
    """The smallest noise multiplier with which a run keeps a budget, rounded up in the fourth digit or later.

    Args:
      epsilon: the epsilon of the budget, positive and finite.
      delta: the delta of the budget, see `epsilon`.
      rounds: at least 1.
      sampling: see `epsilon`.
      accountant: see `epsilon`.
      relation: see `epsilon`.
      sensitivity: see `epsilon`.

    Raises:
      ImportError: dp-accounting is not installed.
      TypeError: an argument is of the wrong kind.
      ValueError: a number is out of range, sampling, accountant and relation do not match, or no noise multiplier
        up to 2**20 keeps the budget.

    Example:
      >>> from fedjax_core.privacy import noise_multiplier, poisson
      >>> z = noise_multiplier(epsilon=2.4368, delta=1e-6, rounds=1000, sampling=poisson(0.01))
      >>> print(f"{z:.3f}")
      1.000
    """
    _check("noise_multiplier", epsilon=epsilon, delta=delta)
    _checks.check_integer("noise_multiplier(rounds=...)", rounds, 1, "write rounds=100")
    _check_terms("noise_multiplier", sampling, accountant, relation, sensitivity)

    def over(noise):
        return cost(noise, sampling, accountant, relation, sensitivity)(rounds, delta) - epsilon

    enough = 1.0
    while over(enough) > 0:
        enough *= 2
        if enough > _MOST_NOISE:
            raise ValueError(
                f"noise_multiplier(epsilon={epsilon}, delta={delta}, rounds={rounds}) is beyond {_MOST_NOISE}; allow a "
                "larger epsilon or delta, or fewer rounds"
            )
    return _root(over, enough)


def rounds(
    *,
    noise_multiplier: float,
    epsilon: float,
    delta: float,
    sampling: Sampling,
    accountant: str = "rdp",
    relation: str | None = None,
    sensitivity: float | None = None,
) -> int:
    """The largest number of rounds with which a run keeps a budget, up to 2**30; zero if one round is too many.

    Args:
      noise_multiplier: at least 0, see `epsilon`.
      epsilon: the epsilon of the budget, positive and finite.
      delta: the delta of the budget, see `epsilon`.
      sampling: see `epsilon`.
      accountant: see `epsilon`.
      relation: see `epsilon`.
      sensitivity: see `epsilon`.

    Raises:
      ImportError: dp-accounting is not installed.
      TypeError: an argument is of the wrong kind.
      ValueError: a number is out of range, or sampling, accountant and relation do not match.

    Example:
      >>> from fedjax_core.privacy import poisson, rounds
      >>> rounds(noise_multiplier=1.0, epsilon=2.4368, delta=1e-6, sampling=poisson(0.01))
      1000
    """
    _check("rounds", noise_multiplier=noise_multiplier, epsilon=epsilon, delta=delta)
    _check_terms("rounds", sampling, accountant, relation, sensitivity)
    spent = cost(noise_multiplier, sampling, accountant, relation, sensitivity)
    return _largest(lambda number: spent(number, delta) <= epsilon)


def accounting(
    *,
    noise_multiplier: float,
    delta: float,
    sampling: Sampling,
    accountant: str = "rdp",
    relation: str | None = None,
    sensitivity: float | None = None,
) -> Accounting:
    """The cost of a run after each of its rounds, for `fc.program.Run(..., accounting=...)` or a loop of your own.

    Args:
      noise_multiplier: see `epsilon`.
      delta: see `epsilon`.
      sampling: see `epsilon`.
      accountant: see `epsilon`.
      relation: see `epsilon`.
      sensitivity: see `epsilon`.

    Returns:
      An `Accounting(sampling, delta, epsilon_so_far, noise_multiplier)`.

    Raises:
      ImportError: dp-accounting is not installed.
      TypeError: an argument is of the wrong kind.
      ValueError: a number is out of range, or sampling, accountant and relation do not match.

    Example:
      >>> from fedjax_core.privacy import accounting, everyone
      >>> spent = accounting(noise_multiplier=10.0, delta=1e-6, sampling=everyone())
      >>> [f"{spent.epsilon_so_far(round_num):.2f}" for round_num in (1, 10, 100)]
      ['0.43', '1.47', '5.22']
    """
    _check("accounting", noise_multiplier=noise_multiplier, delta=delta)
    _check_terms("accounting", sampling, accountant, relation, sensitivity)
    spent = cost(noise_multiplier, sampling, accountant, relation, sensitivity)

    def epsilon_so_far(round_num: int) -> float:
        _checks.check_integer("epsilon_so_far(round_num=...)", round_num, 0, "write round_num=100")
        return spent(round_num, delta)

    true = true_sensitivity(sampling, relation)
    return Accounting(sampling, delta, epsilon_so_far, noise_multiplier * true / (sensitivity or true))


def _root(fn: Callable[[float], float], high: float) -> float:
    """The zero of a falling function that is not positive at `high`, rounded up by at most 1e-4 of itself."""
    low = 0.8 * high
    # In small steps, since the accountants take longer the less noise there is.
    while fn(low) <= 0:
        high, low = low, 0.8 * low
    tolerance = 2e-5 * low
    found = load("scipy.optimize").brentq(fn, low, high, xtol=tolerance, rtol=1e-5)
    return min(found + tolerance + 1e-5 * found, high)


def _largest(holds: Callable[[int], bool]) -> int:
    """The largest integer, at least 0, for which a condition holds that also holds for all smaller ones."""
    low, high = 0, 1
    while high <= _MOST_ROUNDS and holds(high):
        low, high = high, 2 * high
    if high > _MOST_ROUNDS:
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


_RULES = {
    "noise_multiplier": (_checks.Rule("from 0 to 2**20", lambda x: 0 <= x <= _MOST_NOISE), "1.0"),
    "epsilon": (_checks.POSITIVE, "2.0"),
    "delta": (_checks.Rule("above 0 and below 1", lambda x: 0 < x < 1), "1e-6"),
    "sensitivity": (_checks.POSITIVE, "1.0, or leave it out"),
}


def _check(function: str, **values: float) -> None:
    for name, value in values.items():
        rule, example = _RULES[name]
        _checks.checked_number(f"{function}({name}=...)", value, rule, f"write {name}={example}")


def _check_terms(function: str, sampling, accountant, relation, sensitivity) -> None:
    if not isinstance(sampling, Sampling):
        raise TypeError(
            f"{function}(sampling=...) must be everyone(), poisson(probability) or fixed_size(cohort_size, "
            f"population), got {sampling!r}; write sampling=fc.privacy.poisson(0.01)"
        )
    _checks.check_choice(f"{function}(accountant=...)", accountant, ("rdp", "pld"), "write accountant='rdp'")
    if relation is not None:
        repair = "leave it out for the one that belongs to the sampling"
        _checks.check_choice(f"{function}(relation=...)", relation, ("add_or_remove_one", "replace_one"), repair)
    if sensitivity is not None:
        _check(function, sensitivity=sensitivity)
    check_match(sampling, accountant, relation)
