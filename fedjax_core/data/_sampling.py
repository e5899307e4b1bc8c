"""Who takes part in a round."""

import operator
from collections.abc import Sequence

import jax
import numpy as np

from fedjax_core.data import _hashing


def sample_clients(key: jax.Array, round_num: int, ids: Sequence, num_clients: int) -> list:
    """Draws the clients of a round, uniformly and without replacement.

    A pure function of its arguments, so a resumed run draws what it would have drawn.

    Args:
      key: the experiment's key; the round number is folded in.
      round_num: the number of the round, at least 0.
      ids: the population, such as `data.client_ids`.
      num_clients: how many to draw.

    Returns:
      `num_clients` of the ids, in random order.

    Raises:
      TypeError: `key` is not a typed key, or a number is no integer.
      ValueError: there are fewer ids than `num_clients`, or a number is negative.

    Example:
      >>> ids = sample_clients(jax.random.key(0), 1, range(1000), 5)
      >>> len(set(ids)), ids == sample_clients(jax.random.key(0), 1, range(1000), 5)
      (5, True)
      >>> sample_clients(jax.random.key(0), 1, ["ada", "bob"], 3)
      Traceback (most recent call last):
      ValueError: sample_clients(num_clients=3) draws without replacement, got 2 ids; use num_clients=2 or less
    """
    round_num, num_clients = _count("round_num", round_num), _count("num_clients", num_clients)
    if num_clients > len(ids):
        raise ValueError(
            f"sample_clients(num_clients={num_clients}) draws without replacement, got {len(ids)} ids; "
            f"use num_clients={len(ids)} or less"
        )
    seed = _hashing.fold(_hashing.seed(key, "sample_clients"), round_num)
    tag = _hashing.tags(seed, np.arange(len(ids)))
    chosen = np.argpartition(tag, num_clients)[:num_clients] if num_clients < len(ids) else np.arange(len(ids))
    chosen = chosen[np.argsort(tag[chosen], kind="stable")]
    return [ids[i] for i in chosen.tolist()]


def _count(name: str, value) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"sample_clients({name}=...) must be an integer, got {value!r}; use int({name})") from None
    if value < 0:
        raise ValueError(f"sample_clients({name}=...) must be at least 0, got {value}; use 0")
    return value
