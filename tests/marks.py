"""Marks of some cases of a test."""

from collections.abc import Collection, Iterable

import pytest


def with_slow(cases: Iterable, slow: Collection) -> list:
    """The cases as parameters, a tuple for several arguments, and those in `slow` with the mark of that name.

    Mark those that other cases, which stay in every run, cover nearly as well.

    Raises:
      ValueError: one of `slow` is not among the cases.

    Example:

    >>> [len(param.marks) for param in with_slow(["lstm", "gru"], {"gru"})]
    [0, 1]
    """
    cases = list(cases)
    unknown = [case for case in slow if case not in cases]
    if unknown:
        raise ValueError(f"with_slow(slow=...) must be among {cases}, got {unknown}")
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*value, marks=[pytest.mark.slow] * (case in slow)) for case, value in zip(cases, values)]
