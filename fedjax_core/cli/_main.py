"""The entry point: finds the command, and lets tyro read its arguments."""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import tyro

from fedjax_core.cli._commands import COMMANDS
from fedjax_core.cli._config import SETTINGS
from fedjax_core.cli._values import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments without the program's name; None for the arguments of this process.

    Returns:
      The exit status: 0, 1 if a file could not be written, 2 for wrong input, 130 after Ctrl-C.

    Example:
      >>> main(["--version"])
      fedjax-core ... (JAX ...)
      0
    """
    try:
        _run(sys.argv[1:] if argv is None else list(argv))
    except UsageError as error:
        return _failed(str(error), 2)
    except KeyboardInterrupt as stop:
        return _failed(str(stop) or "stopped by Ctrl-C", 130)
    except OSError as error:
        return _failed(str(error), 1)
    return 0


def _failed(message: str, status: int) -> int:
    one_line = re.sub(r"\s*\n\s*", " ", message.strip())
    print(f"fedjax-core: {one_line}", file=sys.stderr)
    return status


def _run(argv: list[str]) -> None:
    if not argv:
        raise UsageError("a command is missing; write `fedjax-core train`, or `fedjax-core --help` for more")
    command, *rest = argv
    if command in ("-h", "--help", "help"):
        print(_help())
    elif command == "--version":
        print(f"fedjax-core {metadata.version('fedjax-core')} (JAX {metadata.version('jax')})")
    elif command in COMMANDS:
        _parsed(command, rest).run()
    else:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        advice = f"did you mean `fedjax-core {close[0]}`?" if close else "`fedjax-core --help` lists all"
        raise UsageError(f"there is no command {command!r}; {advice}")


def _help() -> str:
    lines = [(_usage(name), (kind.__doc__ or "").split("\n")[0]) for name, kind in COMMANDS.items()]
    lines += [("COMMAND --help", "All options of a command."), ("--version", "The versions of fedjax_core and JAX.")]
    shown = "\n".join(f"  fedjax-core {usage:17} {summary}" for usage, summary in lines)
    return f"usage: fedjax-core COMMAND [OPTIONS]\n\nA functional engine for federated computation in JAX.\n\n{shown}"


def _usage(command: str) -> str:
    """A command, followed by FOLDER if it requires one."""
    fields = _fields(command)
    return f"{command} FOLDER" if "folder" in fields and "config" not in fields else command


def _fields(command: str) -> list[str]:
    return [field.name for field in dataclasses.fields(COMMANDS[command])]


def _parsed(command: str, argv: Sequence[str]) -> Any:
    """The arguments of a command, read by tyro.

    Raises:
      UsageError: an argument is unknown, wrong or lacks its value.
      SystemExit: tyro has shown the help that the user asked for.
    """
    program, refused = f"fedjax-core {command}", io.StringIO()
    try:
        with contextlib.redirect_stderr(refused):
            arguments, unknown = tyro.cli(COMMANDS[command], prog=program, args=argv, return_unknown_args=True)
    except SystemExit as end:
        if not end.code:
            raise
        option = re.search(r"--[\w-]+", refused.getvalue())  # every option has a default, so it lacks its value
        assert option is not None
        raise UsageError(f"{option[0]} needs a value; `{program} --help` says which") from None
    if unknown:
        raise UsageError(_about_unknown(command, unknown[0], argv))
    return arguments


def _about_unknown(command: str, text: str, argv: Sequence[str]) -> str:
    """The message about the first text that tyro did not understand."""
    if text not in argv:  # it is the value in `--flag=value`, and the flag takes none
        flag = next(given for given in argv if given.endswith(f"={text}"))
        return f"{flag.partition('=')[0]} takes no value, got {flag!r}"
    everything = f"`fedjax-core {command} --help` lists all"
    if not text.startswith("-"):
        return f"unexpected {text!r}; {everything}"
    name = text.partition("=")[0]
    known = [*_fields(command), *(SETTINGS if "options" in _fields(command) else ())]
    known = [field.replace("_", "-") for field in known if field not in ("folder", "options")]
    close = difflib.get_close_matches(name.lstrip("-"), known, n=1, cutoff=0.7)
    return f"there is no option {name!r}; {f'did you mean --{close[0]}?' if close else everything}"
