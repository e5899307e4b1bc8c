"""The kinds of values that settings accept: how a value is checked, and how it is read from the command line."""

import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import tyro


class UsageError(Exception):
    """The user's input is wrong; the message is one line."""


class Kind(NamedTuple):
    """The kind of value that a setting accepts.

    Attributes:
      metavar: the placeholder in the help.
      check: a function from a value, as TOML holds it, to the setting's value; raises a ValueError that says what is
        wrong.
      example: a value, as TOML holds it, for error messages.
      read: a function from a text on the command line to the value as TOML holds it.
    """

    metavar: str
    check: Callable[[Any], Any]
    example: Any
    read: Callable[[str], Any] = str


def option(name: str, kind: Kind, default: str = "", help: str | None = None) -> tuple[Any, ...]:
    """The annotations with which tyro reads the field of this name; the help shows `default` after `help`."""
    typed = flag(name)

    def from_texts(texts: list[str]) -> Any:
        if not texts:  # a positional argument that was not given
            return None
        try:
            return kind.check(kind.read(texts[0]))
        except ValueError as error:
            raise UsageError(f"{typed} {error}; for example {typed} {word(kind.example)}") from None

    constructor = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.metavar,
        instance_from_str=from_texts,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [word(value)],
    )
    return constructor, tyro.conf.arg(help=help, help_behavior_hint=default and f"(default: {default})")


def flag(name: str) -> str:
    """The command-line option of a setting, such as `--cohort-size`."""
    return f"--{name.replace('_', '-')}"


def word(value: Any) -> str:
    """A value as the user types it on the command line."""
    return ",".join(value) or "none" if isinstance(value, list | tuple) else str(value)


def number(
    of: type[int] | type[float], example: float, rule: str, fits: Callable[[Any], bool], metavar: str = "N"
) -> Kind:
    """The kind of an integer, or of a finite number, for which `fits` is true; `rule` says the same in words."""

    def check(value: Any) -> Any:
        if type(value) not in (int, of):  # isinstance takes a bool for an int
            raise ValueError(f"must be {'an integer' if of is int else 'a number'}, got {value!r}")
        try:
            value = of(value)
        except OverflowError:  # an integer too large for a float
            value = math.inf
        if not (abs(value) <= sys.float_info.max and fits(value)):
            raise ValueError(f"must be {rule}, got {value}")
        return value

    def read(text: str) -> Any:
        try:
            return of(text)
        except ValueError:
            return text  # `check` then raises

    return Kind(metavar, check, example, read)


def choice(*choices: str) -> Kind:
    """The kind of one word out of several choices."""

    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, got {value!r}")
        return value

    return Kind(f"{{{','.join(choices)}}}", check, choices[0])


def several(*choices: str) -> Kind:
    """The kind of a list of words out of several choices; on the command line, comma-separated or `none`."""
    rule = f"must be any of {', '.join(choices)}"

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or any(word not in choices for word in value):
            raise ValueError(f"{rule}, got {value!r}")
        return tuple(word for word in choices if word in value)

    def read(text: str) -> list[str]:
        words = [] if text == "none" else text.split(",")
        if not set(words) <= set(choices):
            raise ValueError(f"{rule}, separated by commas, or none, got {text!r}")
        return words

    return Kind(f"{{{','.join(choices)},none}}", check, [choices[0]], read)


def text(metavar: str, example: str, what: str) -> Kind:
    """The kind of a text that is printable and not empty."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(f"must be {what}, got {value!r}")
        return value

    return Kind(metavar, check, example)


def path(metavar: str, example: str, what: str) -> Kind:
    """The kind of the name of a file or a folder."""
    kind = text(metavar, example, what)
    return kind._replace(check=lambda value: pathlib.Path(kind.check(value)))
