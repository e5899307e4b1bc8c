"""Selection of each client independently of the others: Bernoulli trials, in which runs of failures are skipped.

The bits are a promise, as in `_permutation.py`: they depend only on integer arithmetic and on the division of floats.
"""

import fractions

import numpy as np

from fedjax_core.data import _hashing

_FEW = 1 / 64  # from this probability on, a tag for every client is cheaper than a gap for each selected one
_CHUNK = 1 << 15  # clients hashed at a time, so that the arrays stay in the cache
_BITS = 8  # bits of a gap that are drawn at a time


class Independent:
    """Draws the clients of a round, each with its own probability.

    Args:
      population: `N`, the number of clients.
      probability: float64, a scalar or `[N]`, from 0 to 1.
    """

    def __init__(self, population: int, probability: np.ndarray):
        self._population = population
        self._probability = probability
        self._largest = float(probability.max(initial=0.0))
        self._gaps = gap_thresholds(self._largest, population) if 0 < self._largest < _FEW else None

    def __call__(self, seed: np.ndarray) -> np.ndarray:
        """The selected clients in ascending order, int64.

        Takes time for as many clients as are drawn where all of them have the largest probability.

        Args:
          seed: uint64 `[1]`, the seed of the round.
        """
        if not self._largest:
            return np.empty(0, np.int64)
        if self._gaps is None:
            return _below(seed, self._population, self._probability)
        clients = _skipped(seed, self._population, self._largest, self._gaps)
        if not self._probability.ndim:
            return clients
        share = self._probability[clients] / self._largest
        return clients[_hashing.uniform(_hashing.tags(_hashing.fold(seed, 1), clients)) < share]


def _below(seed: np.ndarray, population: int, probability: np.ndarray) -> np.ndarray:
    """The clients whose tag, mapped to [0, 1), is below their probability."""
    probability = np.broadcast_to(probability, (population,))
    found = [np.empty(0, np.int64)]
    for start in range(0, population, _CHUNK):
        stop = min(start + _CHUNK, population)
        tag = _hashing.tags(seed, np.arange(start, stop))
        found.append(np.flatnonzero(_hashing.uniform(tag) < probability[start:stop]) + start)
    return np.concatenate(found)


def _skipped(seed: np.ndarray, population: int, probability: float, thresholds: list[np.ndarray]) -> np.ndarray:
    """The clients that are reached by adding up gaps, which are geometrically distributed."""
    expected = population * probability
    number = min(int(expected + 8 * expected**0.5 + 8), _CHUNK)
    found, last, drawn = [], -1, 0
    while last < population:
        gap = _gaps(seed, np.arange(drawn, drawn + number), thresholds)
        clients = last + np.cumsum(np.minimum(gap, population) + 1)
        found.append(clients[clients < population])
        last, drawn = int(clients[-1]), drawn + number
    return np.concatenate(found)


def _gaps(seed: np.ndarray, numbers: np.ndarray, thresholds: list[np.ndarray]) -> np.ndarray:
    gap = np.zeros(len(numbers), np.int64)
    for place, threshold in enumerate(thresholds):
        tag = _hashing.tags(seed, numbers * len(thresholds) + place)
        gap += np.searchsorted(threshold, tag, side="right") << (_BITS * place)
    return gap


def gap_thresholds(probability: float, population: int) -> list[np.ndarray]:
    r"""The thresholds for drawing, digit by digit, how many clients are skipped before the next selected one.

    The gap :math:`G` has :math:`P(G \ge g) = q^g` with :math:`q = 1 - p`. Its digits in any base are independent of one
    another. In base 256, with :math:`x = q^{256^i}`, the i-th digit has
    :math:`P(D \le d) = (1 - x^{d+1}) / (1 - x^{256})`. What remains above k digits is positive with probability
    :math:`q^{256^k}`; with as many digits as are drawn here, such a gap exceeds the population.

    Args:
      probability: p, above 0 and below 1.
      population: `N`, the number of clients.

    Returns:
      uint64 arrays, one for each digit from the lowest: a digit is the number of entries that do not exceed 64 random
      bits. Each entry is exact to within :math:`2^{-64}`.
    """
    exact = fractions.Fraction(probability)
    bits = exact.denominator.bit_length() + 192  # so many that 1 - x keeps its leading bits through all squarings
    one = 1 << bits
    x = one - exact.numerator * one // exact.denominator
    thresholds, size = [], 1
    while size < population:
        powers = [one]
        for _ in range(1 << _BITS):
            powers.append(powers[-1] * x >> bits)
        below = [((one - power) << 64) // (one - powers[-1]) for power in powers[1:-1]]
        thresholds.append(np.array([t for t in below if t < 1 << 64], np.uint64))
        x, size = powers[-1], size << _BITS
    beyond = min(one - x << 64 >> bits, (1 << 64) - 1)
    return [*thresholds, np.array([beyond], np.uint64)]
