"""Rounds that are tried again with other clients, because a function of the user's says so."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fedjax_core import _checks
from fedjax_core.program._history import History
from fedjax_core.program._warn import warn
from fedjax_core.templates import LearningProcessOutput

_NAME = "program_metrics/num_retries"
_REPAIR = 'write lambda output: bool(output.metrics["finalizer"]["update_non_finite"])'


class Retrying(NamedTuple):
    """When a round is tried again.

    Attributes:
      should_retry_round: `(LearningProcessOutput) -> bool`; None for never.
      max_retries: how often at most, for each round.

    Example:
      >>> retrying = Retrying(lambda output: output.metrics["loss"] > 9, 1)
      >>> retrying.asks(LearningProcessOutput(None, {"loss": 10}), round_num=1, num_retries=0)
      True
      >>> retrying.measured(1), Retrying(None, 1).measured(0)
      ({'program_metrics/num_retries': 1}, {})
    """

    should_retry_round: Callable[[LearningProcessOutput], bool] | None
    max_retries: int

    def asks(self, output: LearningProcessOutput, *, round_num: int, num_retries: int) -> bool:
        """Whether the round has to be tried once more.

        Args:
          output: what the round returned.
          round_num: the number of the round.
          num_retries: how often it was tried again already.

        Warns:
          UserWarning: the function says so, but the round has been tried often enough, and counts.

        Raises:
          TypeError: the function does not return a bool.
        """
        if self.should_retry_round is None:
            return False
        answer = self.should_retry_round(output)
        if np.asarray(answer).dtype != bool or np.shape(answer) != ():
            rule = "a function that returns a bool"
            raise TypeError(_checks.message("Run(should_retry_round=...)", rule, answer, _REPAIR))
        if answer and num_retries == self.max_retries:
            warn(
                f"round {round_num} counts although `should_retry_round` asks for another try: it was tried again "
                f"{num_retries} times, and max_retries={self.max_retries}"
            )
        return bool(answer) and num_retries < self.max_retries

    def measured(self, num_retries: int) -> dict[str, int]:
        """What a round's record says of its retries; nothing if no round is ever tried again."""
        return {} if self.should_retry_round is None else {_NAME: num_retries}


NEVER = Retrying(None, 0)


def checked_retrying(should_retry_round: Any, max_retries: Any, accounting: Any) -> Retrying:
    """The `Retrying` of two arguments of `Run`.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: `max_retries` is negative, or a privacy accounting would not know of the rounds that are given up.
    """
    if should_retry_round is not None:
        call = "Run(should_retry_round=...)"
        _checks.check_function(call, should_retry_round, "of a round's LearningProcessOutput", _REPAIR)
        if accounting is not None:
            raise ValueError(
                f"{call} must not come with an accounting: a round that is given up has a privacy cost, too, and the "
                "next one would draw the same noise; leave out one of the two"
            )
    max_retries = _checks.checked_integer("Run(max_retries=...)", max_retries, 0, "write max_retries=1")
    return Retrying(should_retry_round, max_retries)


def retries_so_far(history: History) -> int:
    """The number of retries in all rounds of a history."""
    return sum(int(record.metrics.get(_NAME, 0)) for record in history.records)
