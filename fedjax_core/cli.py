"""The command line: `fedjax-core train` and its options, `--help` and `--version`.

Wrong input is answered in one line on standard error with exit status 2.
"""

import contextlib
import dataclasses
import difflib
import io
import sys
from collections.abc import Sequence
from importlib import metadata

import tyro

from fedjax_core._cli_options import TrainOptions, UsageError
from fedjax_core.engine import use_all_cores, use_compilation_cache
from fedjax_core.engine._machine import available_cores

_HELP = """usage: fedjax-core train [OPTIONS]

A functional engine for federated computation in JAX.

  fedjax-core train          train a federated model on shipped data, from digits to Shakespeare
  fedjax-core train --help   all options of a run
  fedjax-core --version      the version of fedjax_core and of JAX
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments without the program's name; None for those of the process.

    Returns:
      The exit status: 0, 1 if a file could not be written, 2 for wrong input, 130 after Ctrl-C.

    Example:
      >>> main(["--version"])
      fedjax-core ... (JAX ...)
      0
    """
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except UsageError as error:
        return _failed(str(error), 2)
    except KeyboardInterrupt:
        return _failed("stopped by Ctrl-C", 130)
    except OSError as error:
        return _failed(str(error), 1)


def _failed(message: str, status: int) -> int:
    print(f"fedjax-core: {' '.join(message.split())}", file=sys.stderr)
    return status


def _run(argv: list[str]) -> int:
    if not argv:
        raise UsageError("a command is missing; write `fedjax-core train`, or `fedjax-core --help` for more")
    command, *rest = argv
    if command in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if command == "--version":
        print(f"fedjax-core {metadata.version('fedjax-core')} (JAX {metadata.version('jax')})")
        return 0
    if command != "train":
        raise UsageError(f"there is no command {command!r}; write `fedjax-core train`, or see `fedjax-core --help`")
    return _train(_parsed(rest))


def _parsed(argv: list[str]) -> TrainOptions:
    _check_values(argv)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            options, unknown = tyro.cli(TrainOptions, prog="fedjax-core train", args=argv, return_unknown_args=True)
    except SystemExit as end:
        if end.code in (None, 0):
            raise
        raise UsageError(message.getvalue()) from None
    if unknown:
        raise UsageError(_unknown(unknown))
    _check_combinations(options)
    return options


def _check_values(argv: list[str]) -> None:
    """Every option takes a value."""
    for text, following in zip(argv, [*argv[1:], "--"]):
        if text in _option_names() and following.startswith("--"):
            raise UsageError(f"{text} needs a value; `fedjax-core train --help` says which")


def _option_names() -> list[str]:
    return [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainOptions)]


def _unknown(unknown: list[str]) -> str:
    first = next((text for text in unknown if text.startswith("-")), unknown[0])
    name = first.partition("=")[0]
    close = difflib.get_close_matches(name, _option_names(), n=1, cutoff=0.7)
    advice = f"did you mean {close[0]}?" if close else "`fedjax-core train --help` lists all"
    return f"there is no option {name!r}; {advice}" if name.startswith("-") else f"unexpected {name!r}; {advice}"


def _check_combinations(options: TrainOptions) -> None:
    for name in ("client_lr", "epochs"):
        if options.algorithm == "fed-sgd" and getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for local training, which fed-sgd has none of; leave it out, or use "
                "--algorithm fed-avg"
            )


def _use_all_cores(options: TrainOptions) -> None:
    """Makes JAX see one CPU device per core, unless the user has set their number or JAX is in use."""
    with contextlib.suppress(RuntimeError):
        use_all_cores(options.devices or min(available_cores(), options.cohort_size or 10))


def _use_compilation_cache(options: TrainOptions) -> None:
    if options.compilation_cache == "off":
        return
    try:
        use_compilation_cache(None if options.compilation_cache == "on" else options.compilation_cache)
    except OSError as error:
        raise UsageError(f"the folder of --compilation-cache cannot be made: {error}; choose another") from None


def _train(options: TrainOptions) -> int:
    _use_all_cores(options)
    _use_compilation_cache(options)
    from fedjax_core import _cli_run

    return _cli_run.train(options)
