"""The configuration of a run as a TOML file."""

import difflib
import json
import pathlib
import tomllib
from typing import Any

from fedjax_core._cli_config import KINDS, RunConfig
from fedjax_core._cli_values import UsageError

FILE = "config.toml"
_HEADER = f"# What this run is made of. `fedjax-core train --config {FILE}` repeats it, in a folder of its own.\n"
_ONLY_TYPED = {"out", "config"}


def read_config(path: pathlib.Path) -> RunConfig:
    """The options that a file gives.

    Raises:
      UsageError: it cannot be read, is no TOML, or has an unknown option or a wrong value.
    """
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except IsADirectoryError:
        advice = f"use {path / FILE}" if (path / FILE).is_file() else "give a TOML file"
        raise UsageError(f"{path} is a folder; {advice}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f'{path} is no TOML file: {error}; write lines such as `rounds = 50`, `data = "digits"`'
        ) from None
    return RunConfig(**{name: _checked(path, name, value) for name, value in values.items()})


def config_text(config: RunConfig) -> str:
    """The file, from which `read_config` makes the same configuration."""
    return _HEADER + "".join(f"{name} = {_literal(value)}\n" for name, value in config.given().items())


def word(value: Any) -> str:
    """A value as the command line takes it."""
    return ",".join(value) or "none" if isinstance(value, tuple) else str(value)


def _checked(path: pathlib.Path, name: str, value: Any) -> Any:
    if name not in KINDS:
        raise UsageError(f"{path}: there is no option {name!r}; {_advice(name)}")
    try:
        return KINDS[name].check(value)
    except ValueError as error:
        raise UsageError(f"{path}: {name} {error}; for example {name} = {_example(name)}") from None


def _advice(name: str) -> str:
    if name in _ONLY_TYPED:
        return f"leave it out and give --{name} on the command line"
    close = difflib.get_close_matches(name.replace("-", "_"), KINDS, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else "`fedjax-core train --help` lists all"


def _example(name: str) -> str:
    kind = KINDS[name]
    if kind.example is not None:
        return _literal(kind.read(kind.example))
    words = kind.metavar.strip("{}").split(",")
    return _literal(words[:1] if isinstance(kind.read(words[0]), tuple) else words[0])


def _literal(value: Any) -> str:
    """A TOML value; a text that can be printed is one as JSON writes it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
