"""A permutation of a population that is never written down: each place is computed on its own.

Its bits are a promise: a resumed run draws the clients that it would have drawn. So the arithmetic is that of
unsigned 64-bit integers alone, the same in every version of Python, NumPy and JAX.
"""

import math

import numpy as np

from fedjax_core.data import _hashing

_SORTED = 1024  # up to so many clients are shuffled as a whole, which is exactly uniform
_ROUNDS = 10
_CHUNK = 1 << 15  # places at a time, so that the arrays stay in the cache
_HALF = np.uint64(32)


def permuted(seed: np.ndarray, population: int, places: np.ndarray) -> np.ndarray:
    """Who stands at these places of a random order of all clients, int64 `[n]`; takes time for `n` clients only.

    Args:
      seed: uint64 `[1]`, chooses the order.
      population: `N`, how many clients there are.
      places: integers `[n]` from 0 to `N - 1`.

    Example: everybody stands at one place.

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
    r"""A keyed permutation of any number of places by a Feistel network and cycle walking (Black and Rogaway 2002).

    A place is written as two digits, of `a` and of `b` values with :math:`a b \ge N`. Each round adds to one of
    them, modulo its number of values, a random function of the other: a permutation of all pairs, whatever the
    functions are. A pair beyond the last client goes through it again until it comes back among
    the clients, which fewer than one in :math:`\sqrt N` have to. Below some 20 clients ten rounds leave traces, above
    100 a million keys show none, hence `_SORTED`.
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
    """The sum modulo `size`, below 2**32, of a digit and of a tag that is scaled to as many values."""
    total = digit + ((tag >> _HALF) * np.uint64(size) >> _HALF)
    return np.where(total >= size, total - np.uint64(size), total)
