"""Checks of the arguments of metrics."""

import math
import numbers
from collections.abc import Mapping


def is_pair(value) -> bool:
    """Whether `value` is a pair, which is a tuple or list of two real numbers.

    Example:
      >>> is_pair((0, 1.5)), is_pair((0, None)), is_pair(((0, 1), (0, 1)))
      (True, False, False)
    """
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(is_real_number, value))


def is_real_number(value) -> bool:
    """Whether `value` is a real number and not a boolean.

    Example:
      >>> is_real_number(1), is_real_number(True), is_real_number("1")
      (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_range(what: str, value) -> None:
    """Checks that `value` is a pair of finite numbers, the lower first.

    Args:
      what: the argument, such as "roc_auc(range=...)".
      value: its value.

    Raises:
      TypeError: it is not a pair of numbers.
      ValueError: the lower end is not below the upper one, or one of them is not finite.

    Example:
      >>> check_range("roc_auc(range=...)", (1, 0))
      Traceback (most recent call last):
      ValueError: roc_auc(range=...) must be two finite numbers, the lower first, such as (0.0, 1.0), got (1, 0)
    """
    rule = f"{what} must be two finite numbers, the lower first, such as (0.0, 1.0), got {value!r}"
    if not is_pair(value):
        raise TypeError(rule)
    if not all(map(math.isfinite, value)) or value[0] >= value[1]:
        raise ValueError(rule)


def check_names(what: str, ranges: Mapping, names) -> None:
    """Checks that every range belongs to a metric.

    Args:
      what: the argument, such as "client_distribution(ranges=...)".
      ranges: the ranges by metric name.
      names: the names of the metrics.

    Raises:
      ValueError: there is no metric of that name.

    Example:
      >>> check_names("client_distribution(ranges=...)", {"acc": (0, 1)}, ["accuracy", "loss"])
      Traceback (most recent call last):
      ValueError: client_distribution(ranges=...) must name metrics, got ['acc']; the metrics are ['accuracy', 'loss']
    """
    unknown = sorted(set(ranges) - set(names), key=str)
    if unknown:
        raise ValueError(f"{what} must name metrics, got {unknown}; the metrics are {sorted(names)}")
