"""The command line: `fedjax-core train`, `resume`, `evaluate`, `watch` and `describe`, `--help` and `--version`.

Wrong input is answered in one line on standard error with exit status 2.
"""

import contextlib
import difflib
import pathlib
import sys
from collections.abc import Sequence
from importlib import metadata

from fedjax_core import _cli_arguments as arguments
from fedjax_core._cli_config import RunConfig, with_defaults
from fedjax_core._cli_folder import config_of, resumed_config
from fedjax_core._cli_toml import read_config
from fedjax_core._cli_values import UsageError
from fedjax_core.engine import use_all_cores, use_compilation_cache
from fedjax_core.engine._machine import available_cores

_HELP = """usage: fedjax-core COMMAND [OPTIONS]

A functional engine for federated computation in JAX.

  fedjax-core train             train a federated model on shipped data, from digits to Shakespeare
  fedjax-core resume FOLDER     go on with a run after Ctrl-C or a crash, with the same bits, or with more rounds
  fedjax-core evaluate FOLDER   evaluate the latest checkpoint of a run
  fedjax-core watch FOLDER      evaluate each new checkpoint while another process trains
  fedjax-core describe          the types of a run, its passes over the clients, and the bytes that they exchange

  fedjax-core COMMAND --help    all options of a command
  fedjax-core --version         the version of fedjax_core and of JAX
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
    if command in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if command == "--version":
        print(f"fedjax-core {metadata.version('fedjax-core')} (JAX {metadata.version('jax')})")
        return 0
    if command not in _COMMANDS:
        raise UsageError(f"there is no command {command!r}; {_advice(command)}")
    kind, run = _COMMANDS[command]
    return run(arguments.parsed(kind, rest))


def _advice(command: str) -> str:
    close = difflib.get_close_matches(command, _COMMANDS, n=1)
    return f"did you mean `fedjax-core {close[0]}`?" if close else "`fedjax-core --help` lists all"


def _train(given: arguments.Train) -> int:
    config = _given(given.config, given.options)
    complete = with_defaults(config)
    _set_up(config)
    from fedjax_core._cli_train import train

    return train(complete, given.out)


def _resume(given: arguments.Resume) -> int:
    config = resumed_config(given.folder, given.options)
    _set_up(config)
    from fedjax_core._cli_train import resume

    return resume(config, given.folder)


def _evaluate(given: arguments.Evaluate) -> int:
    config = config_of("evaluate", given.folder)
    _set_up(config)
    from fedjax_core._cli_inspect import evaluate

    return evaluate(config, given.folder, given.json)


def _watch(given: arguments.Watch) -> int:
    config = config_of("watch", given.folder)
    _set_up(config)
    from fedjax_core._cli_inspect import watch

    return watch(config, given.folder, given.throttle_secs)


def _describe(given: arguments.Describe) -> int:
    if given.folder is not None and given.config is not None:
        raise UsageError("describe takes a folder or --config, got both; leave out one of them")
    of_run = RunConfig() if given.folder is None else config_of("describe", given.folder)
    config = of_run.overridden(_given(given.config, given.options))
    complete = with_defaults(config)
    _set_up(config)
    from fedjax_core._cli_inspect import describe

    return describe(complete)


_COMMANDS = {
    "train": (arguments.Train, _train),
    "resume": (arguments.Resume, _resume),
    "evaluate": (arguments.Evaluate, _evaluate),
    "watch": (arguments.Watch, _watch),
    "describe": (arguments.Describe, _describe),
}


def _given(path: pathlib.Path | None, options: RunConfig) -> RunConfig:
    """The options of a file, and before these the ones on the command line."""
    return options if path is None else read_config(path).overridden(options)


def _set_up(config: RunConfig) -> None:
    """What has to be done before JAX is used: all cores, unless the user has set their number, and its cache."""
    with contextlib.suppress(RuntimeError):
        use_all_cores(config.devices or min(available_cores(), config.cohort_size or 10))
    if config.compilation_cache in (None, "off"):
        return
    try:
        use_compilation_cache(None if config.compilation_cache == "on" else config.compilation_cache)
    except OSError as error:
        raise UsageError(f"the folder of --compilation-cache cannot be made: {error}; choose another") from None
