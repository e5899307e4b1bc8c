"""Clipping, zeroing and estimated quantiles in plain NumPy float64; a client's value is a dict of arrays."""

import math

import numpy as np


class Quantile:
    """The estimate of a quantile by the geometric update `C *= exp(-rate * (below - target))`."""

    def __init__(self, estimate, target, rate):
        self.estimate, self.target, self.rate = float(estimate), target, rate

    def move(self, sizes):
        """Updates the estimate with the sizes of one round's clients."""
        if len(sizes):
            below = np.mean([size <= self.estimate for size in sizes])
            self.estimate *= math.exp(-self.rate * (below - self.target))


class Fixed:
    """A bound that stays the same."""

    def __init__(self, estimate):
        self.estimate = float(estimate)

    def move(self, sizes):
        pass


def norm(value: dict) -> float:
    return math.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in value.values()))


def largest(value: dict) -> float:
    return max(np.max(np.abs(np.float64(leaf))) for leaf in value.values())


def scaled(value: dict, factor: float) -> dict:
    return {name: np.float64(leaf) * factor for name, leaf in value.items()}


def clip(values: list[dict], bound) -> tuple[list[dict], int]:
    """The values clipped to the bound, and how many were clipped; the bound then moves."""
    norms, limit = [norm(value) for value in values], bound.estimate
    bound.move(norms)
    clipped = [scaled(value, min(1.0, limit / n) if n else 1.0) for value, n in zip(values, norms)]
    return clipped, sum(n > limit for n in norms)


def zero(values: list[dict], bound, multiplier=1.0, increment=0.0) -> tuple[list[dict], int]:
    """The values, zero where they exceed `multiplier * bound + increment`, and how many do; the bound then moves."""
    sizes, limit = [largest(value) for value in values], multiplier * bound.estimate + increment
    bound.move(sizes)
    return [scaled(value, float(size <= limit)) for value, size in zip(values, sizes)], sum(s > limit for s in sizes)


def mean(values: list[dict], weights) -> dict:
    weights = np.float64(weights)
    return {name: sum(w * np.float64(v[name]) for v, w in zip(values, weights)) / weights.sum() for name in values[0]}
