"""Samplers: functions from the round number to the ids of the clients that are selected.

A sampler is a pure function of its arguments and of the round number, so a resumed run needs no other state. Any
function from an integer to a list of ids is a sampler. Those of this file return a view if they are given `ClientIds`,
such as `data.client_ids`, and a list otherwise.

A sampler's attribute `sampling` holds what privacy accounting needs: the name and the arguments of a function in
`fc.privacy`. A `Run` compares it with its accounting and raises if the two disagree. For a sampler without the
attribute it takes an accounting for `fc.privacy.everyone()` only.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from fedjax_core.data import _hashing, _ids
from fedjax_core.data._independent import Independent
from fedjax_core.data._permutation import permuted
from fedjax_core.data._sampling import check_ids, checked_cohort_size, checked_round, numbers, picked

Sampler = Callable[[int], Sequence]


def uniform_sampler(ids: Sequence, cohort_size: int, *, replace: bool = False, key: jax.Array) -> Sampler:
    """Selects every client with the same probability.

    Args:
      ids: the population, such as `data.client_ids`; its order matters.
      cohort_size: number of clients per round.
      replace: whether to draw with replacement. A client that is drawn several times in a round counts as several
        clients, each with its own randomness.
      key: draws the clients; the round number is folded in.

    Returns:
      A sampler: round number (at least 0) -> `cohort_size` ids in random order. Without replacement they are those
      of `sample_clients(round_num, ids, cohort_size, key=key)`.

    Raises:
      TypeError: `ids` is not a sequence, a number is not an integer, or `key` is not a typed key.
      ValueError: a number is negative, or `cohort_size` exceeds the population (without replacement).

    Example:
      >>> sampler = uniform_sampler(["ada", "bob", "eve"], 2, key=jax.random.key(0))
      >>> sampler(1), sampler(2), sampler(1) == sampler(1)
      (['ada', 'bob'], ['bob', 'ada'], True)
    """
    cohort_size = checked_cohort_size("uniform_sampler", ids, cohort_size, replace)
    seed = _hashing.seed(key, "uniform_sampler" if replace else "sample_clients")

    def sample(round_num: int) -> Sequence:
        here = _of_round("uniform_sampler", seed, round_num)
        if not replace:
            return picked(ids, permuted(here, len(ids), np.arange(cohort_size)))
        return picked(ids, (_draws(here, 0, cohort_size) * len(ids)).astype(np.int64))

    if not replace:
        sample.sampling = ("fixed_size", cohort_size, len(ids))
    return sample


def weighted_sampler(
    ids: Sequence, weights: Sequence, cohort_size: int, *, replace: bool = False, key: jax.Array
) -> Sampler:
    """Selects clients in proportion to weights, such as `data.sizes`.

    Without replacement, clients are drawn one after another, each in proportion to the weights of those that are
    left. The probability of being in a cohort is then about proportional to the weight, as long as the cohort holds a
    small part of the total weight.

    Args:
      ids: the population; its order matters.
      weights: `[len(ids)]`, finite and at least 0. A client of weight 0 is never drawn.
      cohort_size: number of clients per round.
      replace: whether to draw with replacement.
      key: draws the clients; the round number is folded in.

    Returns:
      A sampler: round number (at least 0) -> `cohort_size` ids in the order in which they are drawn.

    Raises:
      TypeError: `ids` is not a sequence, a number is not an integer, a weight is not a number, or `key` is not a
        typed key.
      ValueError: a weight is negative or not finite, there is not one weight per client, or fewer clients have a
        positive weight than are to be drawn.

    Example:
      >>> sampler = weighted_sampler(["ada", "bob", "eve"], [1, 0, 9], 2, key=jax.random.key(0))
      >>> sorted(sampler(1))
      ['ada', 'eve']
    """
    cohort_size = checked_cohort_size("weighted_sampler", ids, cohort_size, replace)
    relative = _checked_weights(ids, weights, cohort_size, replace)
    upto = np.cumsum(relative)
    seed = _hashing.seed(key, "weighted_sampler")

    def sample(round_num: int) -> Sequence:
        here = _of_round("weighted_sampler", seed, round_num)
        if not replace:
            return picked(ids, _successive(here, relative, upto, cohort_size))
        return picked(ids, _in_proportion(_draws(here, 0, cohort_size), upto))

    return sample


def _successive(seed: np.ndarray, weights: np.ndarray, upto: np.ndarray, cohort_size: int) -> np.ndarray:
    """Draws clients one after another, each from those that are left, by ignoring repeated draws from all clients.

    If most draws are repeats, the clients drawn so far get weight 0, which takes time in proportion to the population;
    at least the next draw is then a new client.
    """
    drawn, chosen = 0, np.empty(0, np.int64)
    while len(chosen) < cohort_size:
        missing = cohort_size - len(chosen)
        more = missing + missing // 8 + 8
        clients = np.concatenate([chosen, _in_proportion(_draws(seed, drawn, more), upto)])
        first = np.unique(clients, return_index=True)[1]
        new, chosen, drawn = len(first) - len(chosen), clients[np.sort(first)], drawn + more
        if new < more / 2 and len(chosen) < cohort_size:
            left = weights.copy()
            left[chosen] = 0
            upto = np.cumsum(left / left.max())
    return chosen[:cohort_size]


def _in_proportion(uniform: np.ndarray, upto: np.ndarray) -> np.ndarray:
    """The clients that numbers in [0, 1) fall on by cumulative weight, never one of weight 0: `u * total < total`."""
    return np.searchsorted(upto, uniform * upto[-1], side="right") if len(uniform) else np.empty(0, np.int64)


def _checked_weights(ids: Sequence, given: Sequence, cohort_size: int, replace: bool) -> np.ndarray:
    """The weights, scaled so that the largest is 1.0, float64 `[len(ids)]`."""
    weights = numbers("weighted_sampler(weights=...)", given, "for a dict use [weights[i] for i in ids]")
    if weights.shape != (len(ids),):
        raise ValueError(
            f"weighted_sampler(weights=...) must have one weight per client, got the shape {weights.shape} for "
            f"{len(ids)} ids; for example data.sizes with data.client_ids"
        )
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ValueError(
            f"weighted_sampler(weights=...) must be finite and at least 0, got {weights[wrong[0]]} for client "
            f"{ids[int(wrong[0])]!r}; use 0 for a client that is never drawn"
        )
    weights = weights / (weights.max(initial=0) or 1.0)
    positive = np.count_nonzero(weights)
    if positive < (min(cohort_size, 1) if replace else cohort_size):
        raise ValueError(
            f"weighted_sampler(cohort_size={cohort_size}) draws clients of positive weight, got {positive} of them; "
            f"use cohort_size={positive} or less"
        )
    return weights


def poisson_sampler(ids: Sequence, probability: float | Sequence, *, key: jax.Array) -> Sampler:
    """Selects every client independently of the others: the sampling that privacy accounting assumes.

    The cohort size varies and may be zero. A round without clients leaves the state of a `LearningProcess` unchanged,
    except for the round number, unless the aggregator always releases.

    Args:
      ids: the population; its order matters.
      probability: the probability that a client is selected in a round, from 0 to 1: a number, or one for each client,
        `[len(ids)]`.
      key: draws the clients; the round number is folded in.

    Returns:
      A sampler: round number (at least 0) -> ids in the order of the population.

    Raises:
      TypeError: `ids` is not a sequence, a probability is not a number, or `key` is not a typed key.
      ValueError: a probability is not from 0 to 1, or there is not one probability per client.

    Example:
      >>> sampler = poisson_sampler(range(1000), 0.01, key=jax.random.key(0))
      >>> [len(sampler(r)) for r in range(1, 6)]
      [10, 10, 12, 8, 12]
    """
    check_ids("poisson_sampler", ids)
    chances = numbers("poisson_sampler(probability=...)", probability, "for example 0.01")
    if chances.shape not in ((), (len(ids),)):
        raise ValueError(
            f"poisson_sampler(probability=...) must be a number or one number per client, got the shape "
            f"{chances.shape} for {len(ids)} ids; for example 0.01"
        )
    wrong = chances[~((chances >= 0) & (chances <= 1))]
    if wrong.size:
        raise ValueError(f"poisson_sampler(probability=...) must be from 0 to 1, got {wrong.flat[0]}; for example 0.01")
    seed, draw = _hashing.seed(key, "poisson_sampler"), Independent(len(ids), chances)

    def sample(round_num: int) -> Sequence:
        return picked(ids, draw(_of_round("poisson_sampler", seed, round_num)))

    # The largest probability bounds the privacy loss of every client.
    sample.sampling = ("poisson", float(chances.max(initial=0)))
    return sample


def fixed_cohorts(cohorts: Iterable[Iterable], *, first_round: int = 1) -> Sampler:
    """Goes through cohorts that are known in advance, one per round, and starts over after the last.

    Args:
      cohorts: the ids of the clients of each round. A single cohort is used in every round.
      first_round: the number of the round that uses the first cohort; `program.train` counts from 1.

    Returns:
      A sampler: round number (at least `first_round`) -> ids in the given order.

    Raises:
      TypeError: a cohort is not a sequence of ids, or `first_round` is not an integer.
      ValueError: there is no cohort, or `first_round` is negative.

    Example:
      >>> sampler = fixed_cohorts([["ada", "bob"], ["eve"]])
      >>> sampler(1), sampler(2), sampler(3)
      (['ada', 'bob'], ['eve'], ['ada', 'bob'])
    """
    cohorts = [_ids.sequence(cohort) for cohort in cohorts]
    first_round = checked_round("fixed_cohorts", "first_round", first_round)
    if not cohorts:
        raise ValueError("fixed_cohorts(cohorts=...) must have at least one cohort, got none; use [data.client_ids]")

    def sample(round_num: int) -> Sequence:
        cohort = cohorts[_since("fixed_cohorts", round_num, first_round) % len(cohorts)]
        return list(cohort) if isinstance(cohort, tuple) else cohort

    return sample


def cyclic_sampler(ids: Sequence, cohort_size: int, *, first_round: int = 1, key: jax.Array) -> Sampler:
    """Selects every client once before any client twice ("minimize reuse"), each time in a new random order.

    The rounds go through the population in epochs, each a random order of all clients that is cut into cohorts. A
    cohort that begins in one epoch and ends in the next never holds a client twice: the next epoch then begins with
    other clients. A round takes time in proportion to its cohort, not to the population.

    Args:
      ids: the population; its order matters.
      cohort_size: number of clients per round.
      first_round: the number of the round with which the first epoch begins; `program.train` counts from 1.
      key: draws the orders; the epoch is folded in.

    Returns:
      A sampler: round number (at least `first_round`) -> `cohort_size` distinct ids.

    Raises:
      TypeError: `ids` is not a sequence, a number is not an integer, or `key` is not a typed key.
      ValueError: a number is negative, or `cohort_size` exceeds the population.

    Example:
      >>> sampler = cyclic_sampler(["ada", "bob", "eve"], 2, key=jax.random.key(0))
      >>> sampler(1), sampler(2), sampler(3)
      (['bob', 'ada'], ['eve', 'bob'], ['eve', 'ada'])
    """
    cohort_size = checked_cohort_size("cyclic_sampler", ids, cohort_size)
    first_round = checked_round("cyclic_sampler", "first_round", first_round)
    seed, population = _hashing.seed(key, "cyclic_sampler"), len(ids)

    def clients(epoch: int, start: int, stop: int) -> np.ndarray:
        return permuted(_hashing.fold(seed, epoch), population, np.arange(start, stop))

    @functools.lru_cache(maxsize=2)  # a round needs at most two epochs
    def first(epoch: int) -> np.ndarray:
        return _first_of_epoch(epoch, clients, population, cohort_size)

    def sample(round_num: int) -> Sequence:
        epoch, start = divmod(_since("cyclic_sampler", round_num, first_round) * cohort_size, max(population, 1))
        stop, moved = min(start + cohort_size, population), len(first(epoch))
        drawn = [first(epoch)[start:stop], clients(epoch, max(start, moved), max(stop, moved))]
        if missing := start + cohort_size - stop:
            drawn.append(first(epoch + 1)[:missing])
        return picked(ids, np.concatenate(drawn))

    return sample


def _first_of_epoch(epoch: int, clients: Callable, population: int, cohort_size: int) -> np.ndarray:
    """The clients at the first `cohort_size` places of an epoch: shuffled, without repeats within a cohort.

    A cohort that began in the epoch before already holds some clients. Where these stand among the first places, they
    move back until right after the clients that complete this cohort, so nothing beyond the first `cohort_size` places
    changes. The end of an epoch, which the next epoch avoids, is therefore known without computing earlier epochs,
    unless the population is smaller than two cohorts.
    """
    number = min(cohort_size, population)

    def begun(epoch: int) -> int:
        return epoch * population % cohort_size if cohort_size else 0

    known = epoch
    while begun(known) and begun(known) + cohort_size > population:
        known -= 1
    end = clients(known - 1, population - begun(known), population) if begun(known) else ()
    for each in range(known, epoch + 1):
        first = _after(clients(each, 0, number), end, cohort_size)
        start = population - begun(each + 1)
        end = np.concatenate([first[start:], clients(each, max(start, number), population)])
    return first


def _after(order: np.ndarray, held, cohort_size: int) -> np.ndarray:
    """Reorders clients such that the first ones complete a cohort that already holds the clients `held`."""
    if not len(held):
        return order
    free = ~np.isin(order, held)
    first = free & (np.cumsum(free) <= cohort_size - len(held))
    return np.concatenate([order[first], order[~first]])


def _of_round(function: str, seed: np.ndarray, round_num: int) -> np.ndarray:
    return _hashing.fold(seed, checked_round(function, "round_num", round_num))


def _since(function: str, round_num: int, first_round: int) -> int:
    number = checked_round(function, "round_num", round_num) - first_round
    if number < 0:
        raise ValueError(
            f"{function}(first_round={first_round}) begins with round {first_round}, got round {round_num}; "
            f"use {function}(..., first_round={round_num})"
        )
    return number


def _draws(seed: np.ndarray, start: int, number: int) -> np.ndarray:
    """The `number` random numbers in [0, 1) from place `start` on in the stream of a seed, float64 `[number]`."""
    return _hashing.uniform(_hashing.tags(seed, np.arange(start, start + number)))
