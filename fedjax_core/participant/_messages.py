"""What the server and the participants of a real federation tell each other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class MessageFormatError(ValueError):
    """Bytes are no message, or a message holds what no message may hold; the error says what and where."""


class TrainRequest(NamedTuple):
    """The server asks a participant to train.

    Attributes:
      round_i: the number of the round, an integer of at least 0.
      weights: a pytree like the model's weights, or None to go on from the participant's own.
      aux_var: the optimizer's auxiliary variables by name, a dict of pytrees; empty if there are none.
      batches: the arguments of `data.Batching`, a dict.
      n_epoch, n_steps: most epochs and steps, or None.
      timeout: seconds after which no further step begins, or None.
    """

    round_i: int
    weights: Any
    aux_var: dict
    batches: dict
    n_epoch: int | None = None
    n_steps: int | None = None
    timeout: float | None = None


class EvaluationRequest(NamedTuple):
    """The server asks a participant to evaluate.

    Attributes:
      round_i: the number of the round, an integer of at least 0.
      weights: a pytree like the model's weights, or None for the participant's own.
      batches: the arguments of `data.Batching`, a dict.
      n_steps: most batches, or None.
      timeout: seconds after which no further batch begins, or None.
    """

    round_i: int
    weights: Any
    batches: dict
    n_steps: int | None = None
    timeout: float | None = None


class TrainReply(NamedTuple):
    """What a participant's training gave.

    Attributes:
      updates: weights at the start minus weights at the end, prepared for sharing: a pytree.
      aux_var: the optimizer's auxiliary variables by name, a dict of pytrees.
      n_epoch: epochs begun.
      n_steps: steps done.
      n_examples: examples in these steps, one that occurs in two epochs counts twice.
      t_spent: seconds, to the millisecond.
    """

    updates: Any
    aux_var: dict
    n_epoch: int
    n_steps: int
    n_examples: int
    t_spent: float


class EvaluationReply(NamedTuple):
    """What a participant's evaluation gave.

    Attributes:
      loss: the mean over its examples.
      metrics: the unfinalized statistics of all metrics by name, which add up over participants field by field.
      n_steps: batches done.
      t_spent: seconds, to the millisecond.
    """

    loss: float
    metrics: dict
    n_steps: int
    t_spent: float


class ErrorReply(NamedTuple):
    """A participant could not do what it was asked.

    Attributes:
      message: the `repr` of the exception.
    """

    message: str


Message = TrainRequest | EvaluationRequest | TrainReply | EvaluationReply | ErrorReply


class _Kind(NamedTuple):
    """What a field may hold.

    Attributes:
      rule: the same in words.
      allows: whether a value is of it.
    """

    rule: str
    allows: Callable[[Any], bool]

    def or_none(self) -> "_Kind":
        return _Kind(f"{self.rule}, or None", lambda value: value is None or self.allows(value))


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return type(value) is float or _is_integer(value)


def _is_tree(value) -> bool:
    numbers = int | float | np.ndarray | np.generic | jax.Array
    return all(isinstance(leaf, numbers) for leaf in jax.tree.leaves(value))


def _is_dict_of(is_entry: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(isinstance(name, str) and is_entry(entry) for name, entry in value.items())
    )


_COUNT = _Kind("an integer of at least 0", lambda value: _is_integer(value) and value >= 0)
_INTEGER = _Kind("an integer", _is_integer)
_NUMBER = _Kind("a number, not an array", _is_number)
_TREE = _Kind("a pytree of arrays and numbers", _is_tree)
_TREES = _Kind("a dict from name to pytree of arrays and numbers", _is_dict_of(_is_tree))
_BATCHES = _Kind(
    "a dict of Batching arguments, numbers and switches",
    _is_dict_of(lambda value: value is None or isinstance(value, int)),
)
_TEXT = _Kind("a string", lambda value: isinstance(value, str))

_LIMITS = {"n_steps": _INTEGER.or_none(), "timeout": _NUMBER.or_none()}
_REQUEST = {"round_i": _COUNT, "weights": _TREE.or_none(), "batches": _BATCHES, **_LIMITS}
_EFFORT = {"n_steps": _COUNT, "t_spent": _NUMBER}

_FIELDS = {
    TrainRequest: {**_REQUEST, "aux_var": _TREES, "n_epoch": _INTEGER.or_none()},
    EvaluationRequest: _REQUEST,
    TrainReply: {"updates": _TREE, "aux_var": _TREES, "n_epoch": _COUNT, "n_examples": _COUNT, **_EFFORT},
    EvaluationReply: {"loss": _NUMBER, "metrics": _TREES, **_EFFORT},
    ErrorReply: {"message": _TEXT},
}

MESSAGES = {message.__name__: message for message in _FIELDS}
"""The types of messages by name."""


def check_message(message: Message) -> None:
    """Checks the kind of every field.

    Raises:
      TypeError: it is no message.
      MessageFormatError: a field is of another kind than its message's documentation says.

    Example:
      >>> check_message(ErrorReply("out of memory"))
      >>> check_message(ErrorReply(3))
      Traceback (most recent call last):
      fedjax_core.participant._messages.MessageFormatError: ErrorReply(message=...) must be a string, got 3
    """
    if type(message) not in _FIELDS:
        raise TypeError(f"a message is one of {', '.join(MESSAGES)}, got {type(message).__name__}")
    for name, kind in _FIELDS[type(message)].items():
        value = getattr(message, name)
        if not kind.allows(value):
            raise MessageFormatError(f"{type(message).__name__}({name}=...) must be {kind.rule}, got {_short(value)}")


def _short(value: Any) -> str:
    """What came, in a line even if it is large."""
    if isinstance(value, str | int | float) and len(text := repr(value)) <= 60:
        return text
    return f"a {type(value).__name__}"
