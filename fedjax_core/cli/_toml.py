"""The settings of a run as a TOML file."""

import difflib
import json
import pathlib
import tomllib
from typing import Any

from fedjax_core.cli._config import SETTINGS, RunOptions
from fedjax_core.cli._values import UsageError

FILE = "config.toml"
_MOST_BYTES = 2**20
_HEADER = f"# The settings of this run. `fedjax-core train --config {FILE}` repeats it in a folder of its own.\n"


def read_config(path: pathlib.Path) -> RunOptions:
    """The settings in a TOML file.

    Raises:
      UsageError: the file cannot be read, is not TOML, or has an unknown setting or a wrong value.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise UsageError(f"{path} is larger than {_MOST_BYTES:,} bytes; give a TOML file of settings")
        values = tomllib.loads(text.decode())
    except IsADirectoryError:
        advice = f"use {path / FILE}" if (path / FILE).is_file() else "give a TOML file"
        raise UsageError(f"{path} is a folder; {advice}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give a TOML file") from None
    # Brackets within brackets end in a RecursionError, an integer of many digits in a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f'{path} is not a TOML file: {error}; write lines such as `rounds = 50`, `data = "digits"`'
        ) from None
    return {name: _checked(path, name, value) for name, value in values.items()}


def config_text(options: RunOptions) -> str:
    """The text of a file from which `read_config` reads the same settings."""
    return _HEADER + "".join(f"{name} = {_literal(value)}\n" for name, value in options.items())


def _checked(path: pathlib.Path, name: str, value: Any) -> Any:
    if name not in SETTINGS:
        raise UsageError(f"{path}: there is no option {name!r}; {_advice(name)}")
    kind = SETTINGS[name].kind
    try:
        return kind.check(value)
    except ValueError as error:
        raise UsageError(f"{path}: {name} {error}; for example {name} = {_literal(kind.example)}") from None


def _advice(name: str) -> str:
    if name in ("out", "config"):
        return f"leave it out and give --{name} on the command line"
    close = difflib.get_close_matches(name.replace("-", "_"), SETTINGS, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else "`fedjax-core train --help` lists all"


def _literal(value: Any) -> str:
    """A value in TOML's notation; a printable string is written as in JSON."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
