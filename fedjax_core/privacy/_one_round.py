"""The cost of a number of equal rounds, computed by dp-accounting."""

import importlib
import math
from collections.abc import Callable

from fedjax_core.privacy._sampling import Sampling


def cost(
    noise_multiplier: float, sampling: Sampling, accountant: str, relation: str | None, sensitivity: float | None
) -> Callable[[int, float], float]:
    """The epsilon of rounds of the Gaussian mechanism over sampled clients, `(rounds, delta) -> epsilon`.

    The arguments are those of `epsilon`, checked; whatever depends on a single round is computed once.

    Example:
      >>> spent = cost(10.0, Sampling(1.0, None, None), "rdp", None, None)
      >>> print(f"{spent(0, 1e-6)} {spent(1, 1e-6):.3f} {spent(100, 1e-6):.3f}")
      0.0 0.430 5.222
    """
    if noise_multiplier == 0:
        return lambda rounds, delta: math.inf if rounds else 0.0
    if sensitivity is None:
        sensitivity = true_sensitivity(sampling, relation)
    curve = {"rdp": _rdp_curve, "pld": _pld_curve}[accountant](noise_multiplier / sensitivity, sampling)
    return lambda rounds, delta: curve(rounds, delta) if rounds else 0.0


def true_sensitivity(sampling: Sampling, relation: str | None) -> float:
    """How far one client moves the sum of `private_mean`, as a multiple of the clipping norm."""
    return 2.0 if _relation(sampling, relation) == "replace_one" else 1.0


def _relation(sampling: Sampling, relation: str | None) -> str:
    if relation is None:
        return "add_or_remove_one" if sampling.cohort_size is None else "replace_one"
    return relation


def check_match(sampling: Sampling, accountant: str, relation: str | None) -> None:
    """Checks that dp-accounting has a bound for this combination.

    Raises:
      ValueError: it has none; the message says what does not match and what to write instead.
    """
    relation = _relation(sampling, relation)
    if sampling.probability == 1:
        return
    fixed = sampling.cohort_size is not None
    if fixed and accountant == "pld":
        raise ValueError(
            f"the accountant 'pld' has no bound for sampling without replacement, got sampling={sampling}; write "
            "accountant='rdp', or draw the clients by poisson(...)"
        )
    if fixed and relation != "replace_one":
        raise ValueError(
            "sampling without replacement is accounted for under relation='replace_one' only, got "
            f"relation={relation!r} with sampling={sampling}; leave out `relation`, or draw the clients by poisson(...)"
        )
    if not fixed and relation != "add_or_remove_one":
        raise ValueError(
            "Poisson sampling is accounted for under relation='add_or_remove_one' only, got "
            f"relation={relation!r} with sampling={sampling}; leave out `relation`"
        )


def _rdp_curve(noise: float, sampling: Sampling) -> Callable[[int, float], float]:
    """The cost by Renyi divergences, which add up over the rounds, so those of one round are computed once.

    `noise` is relative to the sensitivity; without sampling the relation then makes no difference.
    """
    dp, rdp = load("dp_accounting"), load("dp_accounting.rdp")
    event, relation = dp.GaussianDpEvent(noise), dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    if sampling.probability < 1 and sampling.cohort_size is None:
        event = dp.PoissonSampledDpEvent(sampling.probability, event)
    elif sampling.probability < 1:
        event = dp.SampledWithoutReplacementDpEvent(sampling.population, sampling.cohort_size, event)
        relation = dp.NeighboringRelation.REPLACE_ONE
    one = rdp.RdpAccountant(neighboring_relation=relation).compose(event)
    return lambda rounds, delta: float(rdp.compute_epsilon(one.orders, float(rounds) * one.rdp, delta)[0])


def _pld_curve(noise: float, sampling: Sampling) -> Callable[[int, float], float]:
    """The cost by privacy loss distributions; that of one round is computed once.

    Without sampling all rounds together are one Gaussian, whose cost has a closed form.
    """
    if sampling.probability == 1:
        exact = load("dp_accounting").get_epsilon_gaussian
        return lambda rounds, delta: float(exact(noise / math.sqrt(rounds), delta))
    distribution = load("dp_accounting.pld.privacy_loss_distribution")
    one = distribution.from_gaussian_mechanism(noise, sampling_prob=sampling.probability)
    return lambda rounds, delta: float(one.self_compose(rounds).get_epsilon_for_delta(delta))


def load(name: str):
    """A module of dp-accounting, imported at its first use.

    Raises:
      ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            "fedjax_core.privacy accounts with dp-accounting, which is not installed; run pip install "
            "'fedjax_core[privacy]'"
        ) from error
