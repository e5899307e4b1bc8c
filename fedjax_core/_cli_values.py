"""The values of options: read from the command line or taken from a file, and checked."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tyro


class UsageError(Exception):
    """Something is wrong with what the user typed; the message is one line."""


class Kind(NamedTuple):
    """What an option takes.

    Attributes:
      metavar: its name in the help.
      read: gives the value of a text from the command line; a ValueError says what is wrong with it.
      check: gives the value of what a TOML file holds; a ValueError says what is wrong with it.
      example: a value as the command line takes it, None where the errors need none.
    """

    metavar: str
    read: Callable[[str], Any]
    check: Callable[[Any], Any]
    example: str | None


def option(name: str, kind: Kind) -> tyro.constructors.PrimitiveConstructorSpec:
    """How tyro reads the option of a name."""

    def read(texts: list[str]) -> Any:
        try:
            return kind.read(texts[0])
        except ValueError as error:
            example = f"; for example --{name} {kind.example}" if kind.example else ""
            raise UsageError(f"--{name} {error}{example}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def integer(example: int, least: int = 1, most: int | None = None) -> Kind:
    """An integer from `least` to `most`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be an integer, got {value!r}")
        if value < least:
            raise ValueError(f"must be at least {least}, got {value}")
        if most is not None and value > most:
            raise ValueError(f"must be at most {most}, got {value}")
        return value

    return Kind("N", _converted(int, check), check, str(example))


def rate(example: float) -> Kind:
    """A positive number."""
    return _real("RATE", lambda value: 0 < value < math.inf, "positive and finite", example)


def seconds(example: float) -> Kind:
    """A number from 0."""
    return _real("S", lambda value: 0 <= value < math.inf, "at least 0 and finite", example)


def probability(example: float) -> Kind:
    """A number from 0, less than 1."""
    return _real("P", lambda value: 0 <= value < 1, "at least 0 and less than 1", example)


def _real(metavar: str, fits: Callable[[float], bool], rule: str, example: float) -> Kind:
    def check(value: Any) -> float:
        value = _number(value)
        if not fits(value):
            raise ValueError(f"must be {rule}, got {value}")
        return value

    return Kind(metavar, _converted(float, check), check, str(example))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _converted(kind: type, check: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Reads a number from a text; what is none is refused by `check`."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = text
        return check(value)

    return read


def choice(*choices: str) -> Kind:
    """One of some words."""

    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, got {value!r}")
        return value

    return Kind(f"{{{','.join(choices)}}}", check, check, None)


def several(*choices: str) -> Kind:
    """Some of some words; on the command line with commas between them, or `none`."""

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or any(word not in choices for word in value):
            raise ValueError(f"must be some of {', '.join(choices)}, got {value!r}")
        return tuple(word for word in choices if word in value)

    def read(text: str) -> tuple[str, ...]:
        try:
            return check([] if text == "none" else text.split(","))
        except ValueError:
            raise ValueError(f"must be some of {', '.join(choices)}, with commas, or none, got {text!r}") from None

    return Kind(f"{{{','.join(choices)},none}}", read, check, None)


def words(what: str, metavar: str, example: str) -> Kind:
    """A text that is not empty, such as the name of a folder."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(f"must be {what}, got {value!r}")
        return value

    return Kind(metavar, check, check, example)
