"""The messages between the server and the participants of a real federation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class MessageFormatError(ValueError):
    """Bytes do not encode a message, or a message holds a value that it may not; the error says which, and where.

    Example:
      >>> from fedjax_core.participant import TrainReply, encode_message
      >>> encode_message(TrainReply({"w": [2**80]}, {}, n_epoch=1, n_steps=1, n_examples=20, t_spent=0.1))
      Traceback (most recent call last):
      fedjax_core.participant._messages.MessageFormatError: TrainReply.updates.w.0 is an integer of more than 64 bits...
    """


class TrainRequest(NamedTuple):
    """The server asks a participant to train.

    Attributes:
      round_i: the number of the round, an integer of at least 0 and below 2**31.
      weights: a pytree like the model's weights; None to continue from the participant's own.
      aux_var: the optimizer's auxiliary variables by name, a dict of pytrees; empty if there are none.
      batches: the arguments of `data.Batching`, a dict.
      n_epoch, n_steps: the largest numbers of epochs and steps; None for no limit.
      timeout: seconds after which no further step begins; None for no limit.

    Example: two epochs from the participant's own weights, and at most a minute.
      >>> request = TrainRequest(3, None, {}, {"batch_size": 20, "shuffle": True}, n_epoch=2, timeout=60.0)
      >>> request.n_steps is None
      True
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
      round_i: the number of the round, an integer of at least 0 and below 2**31.
      weights: a pytree like the model's weights; None for the participant's own.
      batches: the arguments of `data.Batching`, a dict.
      n_steps: the largest number of batches; None for no limit.
      timeout: seconds after which no further batch begins; None for no limit.
    """

    round_i: int
    weights: Any
    batches: dict
    n_steps: int | None = None
    timeout: float | None = None


class TrainReply(NamedTuple):
    """The result of a participant's training.

    Attributes:
      updates: the initial minus the trained weights, prepared for sharing; a pytree.
      aux_var: the optimizer's auxiliary variables by name, a dict of pytrees.
      n_epoch: the number of epochs begun.
      n_steps: the number of steps done.
      n_examples: the number of examples in these steps; one that occurs in two epochs counts twice.
      t_spent: the time in seconds, rounded to milliseconds.

    Example: the server subtracts the mean update, weighted by examples.
      >>> replies = [TrainReply(np.float32([1.0]), {}, 1, 1, 10, 0.1), TrainReply(np.float32([4.0]), {}, 1, 3, 20, 0.1)]
      >>> weights = np.float32([5.0])
      >>> weights - np.average([reply.updates for reply in replies], axis=0, weights=[r.n_examples for r in replies])
      array([2.])
    """

    updates: Any
    aux_var: dict
    n_epoch: int
    n_steps: int
    n_examples: int
    t_spent: float


class EvaluationReply(NamedTuple):
    """The result of a participant's evaluation.

    Attributes:
      loss: the mean loss over its examples.
      metrics: the unfinalized statistics of all metrics by name, which add up over participants field by field.
      n_steps: the number of batches done.
      t_spent: the time in seconds, rounded to milliseconds.

    Example: the accuracy over all participants, from correct predictions and examples.
      >>> counts = [(9, 10), (1, 2)]
      >>> replies = [EvaluationReply(0.5, {"accuracy": pair}, n_steps=1, t_spent=0.1) for pair in counts]
      >>> correct, total = jax.tree.map(lambda *n: sum(n), *[reply.metrics["accuracy"] for reply in replies])
      >>> round(correct / total, 3)
      0.833
    """

    loss: float
    metrics: dict
    n_steps: int
    t_spent: float


class ErrorReply(NamedTuple):
    """A participant could not answer a request.

    Attributes:
      message: the `repr` of the exception.
    """

    message: str


Message = TrainRequest | EvaluationRequest | TrainReply | EvaluationReply | ErrorReply


class _Kind(NamedTuple):
    """The kind of value that a field may hold.

    Attributes:
      rule: the kind in words.
      allows: whether a value is of this kind.
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


# The round's key folds the number in, and schedules of rates get it as int32, where 2**32 would be round 0 again.
_ROUND = _Kind("an integer from 0 to 2**31 - 1", lambda value: _is_integer(value) and 0 <= value < 2**31)
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
_REQUEST = {"round_i": _ROUND, "weights": _TREE.or_none(), "batches": _BATCHES, **_LIMITS}
_EFFORT = {"n_steps": _COUNT, "t_spent": _NUMBER}

_FIELDS = {
    TrainRequest: {**_REQUEST, "aux_var": _TREES, "n_epoch": _INTEGER.or_none()},
    EvaluationRequest: _REQUEST,
    TrainReply: {"updates": _TREE, "aux_var": _TREES, "n_epoch": _COUNT, "n_examples": _COUNT, **_EFFORT},
    EvaluationReply: {"loss": _NUMBER, "metrics": _TREES, **_EFFORT},
    ErrorReply: {"message": _TEXT},
}

_NUMBERS = {"round_i", "n_epoch", "n_steps", "n_examples", "timeout", "t_spent", "loss"}

MESSAGES = {message.__name__: message for message in _FIELDS}
"""The message types by name."""


def with_python_numbers(message: Message) -> Message:
    """The message with Python's numbers in place of NumPy's wherever a field holds one number.

    Example:
      >>> with_python_numbers(EvaluationRequest(np.int64(3), None, {"batch_size": np.int32(20)}))
      EvaluationRequest(round_i=3, weights=None, batches={'batch_size': 20}, n_steps=None, timeout=None)
    """
    fields = {name: _python(getattr(message, name)) for name in _NUMBERS & set(message._fields)}
    batches = getattr(message, "batches", None)
    if isinstance(batches, dict):
        fields["batches"] = {name: _python(value) for name, value in batches.items()}
    return message._replace(**fields)


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def check_message(message: Message) -> None:
    """Checks the value of every field.

    Raises:
      TypeError: `message` is not a message.
      MessageFormatError: a field does not hold what the message's documentation says.

    Example:
      >>> check_message(ErrorReply("out of memory"))
      >>> check_message(ErrorReply(3))
      Traceback (most recent call last):
      fedjax_core.participant._messages.MessageFormatError: ErrorReply(message=...) must be a string, got 3
    """
    if type(message) not in _FIELDS:
        raise TypeError(f"a message must be one of {', '.join(MESSAGES)}, got {type(message).__name__}")
    for name, kind in _FIELDS[type(message)].items():
        value = getattr(message, name)
        if not kind.allows(value):
            raise MessageFormatError(f"{type(message).__name__}({name}=...) must be {kind.rule}, got {_short(value)}")


def _short(value: Any) -> str:
    """A value in a few words, even if it is large."""
    if isinstance(value, str | int | float) and len(text := repr(value)) <= 60:
        return text
    return f"a {type(value).__name__}"
