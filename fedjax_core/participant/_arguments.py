"""Checks of what a participant is made of."""

import logging
from typing import Any

from fedjax_core.contracts import Aggregator


def logger_of(logger: Any) -> logging.Logger | logging.LoggerAdapter:
    """A logger, or the one of a name.

    Raises:
      TypeError: `logger` is neither.
    """
    if isinstance(logger, str):
        return logging.getLogger(logger)
    if isinstance(logger, logging.Logger | logging.LoggerAdapter):
        return logger
    raise TypeError(f"TrainingManager(logger=...) is a logger or the name of one, got {logger!r}")


def check_aggregator(aggregator: Any):
    """Raises unless updates can be made ready for it.

    Raises:
      TypeError: with the repaired call.
    """
    prepares = callable(getattr(aggregator, "prepare", None))
    if isinstance(aggregator, type) or not (isinstance(aggregator, Aggregator) or prepares):
        called = f"; call it: {aggregator.__name__}()" if callable(aggregator) else "; use fc.aggregators.mean()"
        raise TypeError(
            "TrainingManager(aggregator=...) is an Aggregator, or has a `prepare(update, n_steps, n_examples)`, got "
            f"{aggregator!r}{called}"
        )
