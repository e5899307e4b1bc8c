"""Rows that lie one after another: where the batches and the examples of some clients are."""

import numpy as np


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Concatenates `arange(start, start + size)` over all pairs, int64 `[sum(sizes)]`.

    Args:
      starts: integers `[C]`.
      sizes: int64 `[C]`, not negative.

    Example:

    >>> ranges(np.array([10, 0]), np.array([3, 2])).tolist()
    [10, 11, 12, 0, 1]
    """
    offsets = np.cumsum(sizes) - sizes
    return np.repeat(starts - offsets, sizes) + np.arange(sizes.sum())
