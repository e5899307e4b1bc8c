"""What every room asks of its arguments: an error says the rule, what came, and the repaired call."""

import inspect
import math
import numbers
import operator
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def message(call: str, rule: str, value: Any, repair: str) -> str:
    """The sentence of all errors about an argument.

    Args:
      call: the function and the argument, such as "quantize(num_bits=...)".
      rule: what the argument must be.
      value: what was given for it.
      repair: what to write instead.

    Example:
      >>> message("quantize(num_bits=...)", "an integer", 1.5, "write num_bits=8")
      'quantize(num_bits=...) must be an integer, got 1.5; write num_bits=8'
    """
    return f"{call} must be {rule}, got {shown(value)}; {repair}"


# What Python raises for a pytree with too many levels, and what JAX's C++ code makes of that.
TOO_DEEP = (RecursionError, SystemError)


def too_deep(what: str) -> ValueError:
    """The error about a pytree with too many levels for Python's recursion.

    Example:
      >>> too_deep("an argument")
      ValueError('an argument must have at most some hundred levels, got more; stack its levels in arrays')
    """
    return ValueError(f"{what} must have at most some hundred levels, got more; stack its levels in arrays")


def shown(value: Any) -> str:
    """The `repr` of a value, at most 200 characters of it.

    Example:
      >>> shown(10**400)[-6:], shown(10**5000)
      ('000...', 'an int of more than 4300 digits')
    """
    try:
        text = repr(value)
    except ValueError:  # Python converts no longer integers
        return f"an int of more than {sys.get_int_max_str_digits()} digits"
    return text if len(text) <= 200 else f"{text[:197]}..."


def as_text(client_id: Any) -> str:
    """How to write the string for a client id that is neither a string nor an integer.

    Example:
      >>> as_text(b"ada"), as_text(1.5)
      ("'ada'", 'str(1.5)')
    """
    return repr(client_id.decode(errors="replace")) if isinstance(client_id, bytes) else f"str({client_id!r})"


def check_key(call: str, key: Any) -> None:
    """Raises a TypeError unless `key` is one typed key.

    Example:
      >>> check_key("quantize(key=...)", 7)
      Traceback (most recent call last):
      TypeError: quantize(key=...) must be one JAX key, got 7; write key=jax.random.key(0)
    """
    is_array = isinstance(key, jax.Array)
    if not is_array or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
        found = f"{key.dtype}{list(key.shape)}" if is_array else repr(key)
        raise TypeError(f"{call} must be one JAX key, got {found}; write key=jax.random.key(0)")


def check_integer(call: str, value: Any, least: int, repair: str) -> None:
    """Raises unless `value` is an integer of Python or NumPy, not an array. Otherwise as `checked_integer`.

    Example:
      >>> check_integer("mlp(num_features=...)", 0, 1, "write num_features=10")
      Traceback (most recent call last):
      ValueError: mlp(num_features=...) must be an integer of at least 1, got 0; write num_features=10
    """
    if not isinstance(value, numbers.Integral):
        raise TypeError(message(call, f"an integer of at least {least}", value, repair))
    checked_integer(call, value, least, repair)


def checked_integer(call: str, value: Any, least: int, repair: str, most: float = 2**63 - 1) -> int:
    """A count as a Python integer; it may also be an array without dimensions.

    Args:
      call: the function and the argument, to show, as `value` and `repair`: see `message`.
      value: the argument.
      least: the smallest that is allowed.
      repair: what to write instead.
      most: the largest that is allowed.

    Raises:
      TypeError: `value` is not an integer; a bool does not count as one.
      ValueError: `value` is less than `least` or greater than `most`.

    Example:
      >>> checked_integer("Run(rounds=...)", 0, 1, "write rounds=10")
      Traceback (most recent call last):
      ValueError: Run(rounds=...) must be an integer of at least 1, got 0; write rounds=10
    """
    wrong = message(call, f"an integer of at least {least}", value, repair)
    if isinstance(value, bool):
        raise TypeError(wrong)
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(wrong) from None
    if value < least:
        raise ValueError(wrong)
    if value > most:
        raise ValueError(message(call, f"an integer from {least} to {most}", value, repair))
    return value


class Rule(NamedTuple):
    """A condition on a number.

    Attributes:
      words: the condition in words, which follow "must be".
      holds: whether a number meets it. It is not asked about NaN, which meets none.
    """

    words: str
    holds: Callable[[Any], bool]


FINITE = Rule("a finite number", lambda x: abs(x) <= float(np.finfo(np.float32).max))
POSITIVE = Rule("positive and finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Rule("at least 0 and finite", lambda x: 0 <= x < math.inf)
FROM_0_TO_1 = Rule("from 0 to 1", lambda x: 0 <= x <= 1)


def checked_number(call: str, value: Any, rule: Rule, repair: str) -> float:
    """A real number that meets a rule, as a Python number.

    Args:
      call: the function and the argument, to show, as `value` and `repair`: see `message`.
      value: the argument.
      rule: the condition on it.
      repair: what to write instead.

    Raises:
      TypeError: `value` is not a number; a bool and an array do not count as one.
      ValueError: `value` does not meet the rule, is NaN, or is an integer beyond all floats.

    Example:
      >>> checked_number("deadline(seconds=...)", -1, POSITIVE, "write seconds=60.0")
      Traceback (most recent call last):
      ValueError: deadline(seconds=...) must be positive and finite, got -1; write seconds=60.0
    """
    wrong = message(call, rule.words, value, repair)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(wrong)
    # NumPy's numbers are compared in their own precision, in which the limits of a rule may overflow.
    value = value.item() if isinstance(value, np.generic) else value
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(wrong) from None
    if number != number or not rule.holds(value):
        raise ValueError(wrong)
    return value if isinstance(value, int | float) else number


def check_choice(call: str, value: Any, words: tuple[str, ...], repair: str) -> None:
    """Raises unless `value` is one of the words.

    Raises:
      TypeError: `value` is not a string.
      ValueError: `value` is another word.

    Example:
      >>> check_choice("EarlyStopping(mode=...)", "least", ("min", "max"), "write mode='min'")
      Traceback (most recent call last):
      ValueError: EarlyStopping(mode=...) must be 'min' or 'max', got 'least'; write mode='min'
    """
    *others, last = map(repr, words)
    wrong = message(call, f"{', '.join(others)} or {last}", value, repair)
    if not isinstance(value, str):
        raise TypeError(wrong)
    if value not in words:
        raise ValueError(wrong)


def checked_switch(call: str, value: Any, repair: str) -> bool:
    """A bool of Python or NumPy as a Python bool.

    Raises:
      TypeError: `value` is neither True nor False.

    Example:
      >>> checked_switch("Run(progress=...)", "yes", "write progress=True")
      Traceback (most recent call last):
      TypeError: Run(progress=...) must be True or False, got 'yes'; write progress=True
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(message(call, "True or False", value, repair))
    return bool(value)


def check_returned(function: str, result: Any) -> None:
    """Raises a TypeError if a user's function returned None, as one does whose author forgot `return`.

    Example:
      >>> check_returned("computation(half)", None)
      Traceback (most recent call last):
      TypeError: computation(half) must return a value, got None; add `return`, or write `return ()` for no value
    """
    if result is None:
        raise TypeError(f"{function} must return a value, got None; add `return`, or write `return ()` for no value")


def check_function(call: str, value: Any, what: str, repair: str) -> None:
    """Raises a TypeError unless `value` can be called.

    Example:
      >>> check_function("zero_large(norm=...)", 2, "of the value", "L2 is fc.trees.norm")
      Traceback (most recent call last):
      TypeError: zero_large(norm=...) must be a function of the value, got 2; L2 is fc.trees.norm
    """
    if not callable(value):
        raise TypeError(message(call, f"a function {what}", value, repair))


def check_not_async(call: str, fn: Any) -> None:
    """Raises TypeError if `fn`, which has to return a value at once, is declared with `async def`.

    Example:
      >>> async def until(result):
      ...     return True
      >>> check_not_async("watch(until=...)", until)
      Traceback (most recent call last):
      TypeError: watch(until=...) must be an ordinary function, got a coroutine function; write def for async def...
    """
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
        raise TypeError(
            f"{call} must be an ordinary function, got a coroutine function; write def for async def, or "
            "asyncio.run(...) in it"
        )


def check_not_masked(what: str, value: Any) -> None:
    """Raises a TypeError for a masked array, and for a list of such, since NumPy drops the mask without a word.

    Example:
      >>> check_not_masked("field 'x'", np.ma.masked_equal([1.0, 99.0, 2.0], 99.0))
      Traceback (most recent call last):
      TypeError: field 'x' is a masked array, whose mask would be lost; leave out what is masked, values.compressed(),
        or fill it and keep the mask as another field, values.filled(0) and ~values.mask
    """
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(v, np.ma.MaskedArray) for v in values):
        raise TypeError(
            f"{what} is a masked array, whose mask would be lost; leave out what is masked, values.compressed(), or "
            "fill it and keep the mask as another field, values.filled(0) and ~values.mask"
        )


def first_overflow(wide: np.ndarray, narrow: np.ndarray) -> tuple[int, ...] | None:
    """The place of the first finite number that became an infinity when an array was converted; None for none.

    Example:
      >>> first_overflow(np.array([1.0, 1e39, np.inf]), np.array([1.0, np.inf, np.inf], np.float32))
      (1,)
    """
    if not jnp.issubdtype(narrow.dtype, jnp.inexact) or np.isfinite(narrow).all():
        return None
    lost = np.isfinite(wide) & ~np.isfinite(narrow)
    return tuple(np.argwhere(lost)[0].tolist()) if lost.any() else None
