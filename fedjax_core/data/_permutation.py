"""A random permutation of a population that is never stored: each place is computed on its own.

Its bits are a promise: a resumed run selects the clients that it would have selected. It therefore uses unsigned
64-bit integer arithmetic only, which is the same in every version of Python, NumPy and JAX.
"""

import math

import numpy as np

from fedjax_core.data import _hashing

_SORTED = 1024  # populations of at most this size are shuffled as a whole, which is exactly uniform
_ROUNDS = 10
_CHUNK = 1 << 15  # places computed at a time, so that the arrays stay in the cache
_HALF = np.uint64(32)


def permuted(seed: np.ndarray, population: int, places: np.ndarray) -> np.ndarray:
    """The clients at some places of a random order of the population, int64 `[n]`; takes time in proportion to n.

    Args:
      seed: uint64 `[1]`, determines the order.
      population: `N`, the number of clients.
      places: integers `[n]` from 0 to `N - 1`.

    Example: every client has exactly one place.

      >>> sorted(permuted(np.uint64([7]), 2000, np.arange(2000))) == list(range(2000))
      True
    """
    if population <= _SORTED:
        return np.argsort(_hashing.tags(seed, np.arange(population)), kind="stable")[places]
    clients = np.empty(len(places), np.int64)
    for start in range(0, len(places), _CHUNK):
        here = slice(start, start + _CHUNK)
        clients[here] = walked(seed, population, places[here])
    return clients


def walked(seed: np.ndarray, population: int, places: np.ndarray) -> np.ndarray:
    r"""A keyed permutation of a population of any size: a Feistel network with cycle walking (Black and Rogaway 2002).

    A place is written as two digits, one of `a` values and one of `b` values, with :math:`a b \ge N`. Each round adds
    to one digit, modulo its number of values, a random function of the other digit. This permutes the pairs, whatever
    the functions are. A pair beyond the last client goes through the network again until it lands on a client; fewer
    than one place in :math:`\sqrt N` needs this. With fewer than about 20 clients, ten rounds leave a measurable bias;
    with more than 100, a million keys show none, hence `_SORTED`.
    """
    a = math.isqrt(max(population - 1, 0)) + 1
    b = -(-population // a)
    seeds = [_hashing.fold(seed, number) for number in range(_ROUNDS)]
    clients = _network(seeds, a, b, places)
    while len(outside := np.flatnonzero(clients >= population)):
        clients[outside] = _network(seeds, a, b, clients[outside])
    return clients


def _network(seeds: list[np.ndarray], a: int, b: int, places: np.ndarray) -> np.ndarray:
    left, right = (digit.astype(np.uint64) for digit in np.divmod(places.astype(np.int64), b))
    for number in range(0, _ROUNDS, 2):
        left = _added(left, _hashing.tags(seeds[number], right), a)
        right = _added(right, _hashing.tags(seeds[number + 1], left), b)
    return (left * np.uint64(b) + right).astype(np.int64)


def _added(digit: np.ndarray, tag: np.ndarray, size: int) -> np.ndarray:
    """The sum, modulo `size`, of a digit and a tag that is scaled to `size` values; `size` is below 2**32."""
    total = digit + ((tag >> _HALF) * np.uint64(size) >> _HALF)
    return np.where(total >= size, total - np.uint64(size), total)
