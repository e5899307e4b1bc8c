"""The arguments of each command, as tyro reads them."""

import contextlib
import dataclasses
import difflib
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeVar

import tyro

from fedjax_core._cli_config import RunConfig
from fedjax_core._cli_values import Kind, UsageError, option, seconds, words

_Arguments = TypeVar("_Arguments")


def _path(name: str, metavar: str, what: str, example: str) -> tyro.constructors.PrimitiveConstructorSpec:
    text = words(what, metavar, example)
    return option(name, Kind(metavar, lambda given: pathlib.Path(text.read(given)), text.check, example))


_FILE = _path("config", "FILE", "the name of a TOML file", "config.toml")
_OUT = _path("out", "FOLDER", "the name of a folder", "runs/first")
_RUN = Annotated[pathlib.Path | None, _path("folder", "FOLDER", "the folder of a run", "runs/first")]
_FOLDER = tyro.conf.Positional[Annotated[_RUN, tyro.conf.arg(help_behavior_hint="")]]
_NOT_GIVEN = tyro.conf.arg(help_behavior_hint="(default: none)")
_OPTIONS, _NOTHING = Annotated[RunConfig, tyro.conf.arg(name="")], RunConfig()


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a federated model on shipped data and evaluates it on held-out data.

    Leaves a new folder with the weights (weights.npz), what every round measured (metrics.csv), the
    curves (curves.png), the options (config.toml) and checkpoints, from which `fedjax-core resume FOLDER`
    goes on. Without options it trains on handwritten digits.
    """

    config: Annotated[pathlib.Path | None, _FILE, _NOT_GIVEN] = None
    """A TOML file of the options below, such as `cohort_size = 10`; those on the command line come before it."""

    out: Annotated[
        pathlib.Path | None, _OUT, tyro.conf.arg(help_behavior_hint="(default: runs/DATE_DATA_ALGORITHM)")
    ] = None
    """The folder to leave the results in; it must be new or empty."""

    options: _OPTIONS = _NOTHING


@dataclasses.dataclass(frozen=True)
class Resume:
    """Goes on with a run from its latest checkpoint, after Ctrl-C, a crash or its last round.

    It ends with the same bits as a run that was never interrupted. An option that is not given is that of the run,
    whatever the defaults below. Given anew can be --rounds, --evaluate-every, --checkpoint-every, --releases,
    --exports, --devices and --compilation-cache; another value of another option is refused.
    """

    folder: _FOLDER = None
    """The folder of the run."""

    options: _OPTIONS = _NOTHING


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluates the latest checkpoint of a run on the held-out data. Writes nothing."""

    folder: _FOLDER = None
    """The folder of the run."""

    json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")] = False
    """Prints one line of JSON."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Evaluates new checkpoints of a run on the held-out data, a line each, while another process trains.

    It ends with the last round of the run, or at Ctrl-C, and writes nothing.
    """

    folder: _FOLDER = None
    """The folder of the run."""

    throttle_secs: Annotated[float, option("throttle-secs", seconds(10))] = 5.0
    """Seconds from the start of an evaluation, or of a look in vain, to the next one."""


@dataclasses.dataclass(frozen=True)
class Describe:
    """Prints what a run computes, without running it.

    The types of the process and of the evaluation; and how a round runs: the passes over the clients, what
    crosses between them and the server, and how many bytes go each way.
    """

    folder: _FOLDER = None
    """The folder of a run; without it the options say what is described."""

    config: Annotated[pathlib.Path | None, _FILE, _NOT_GIVEN] = None
    """A TOML file of the options below; those on the command line come before it."""

    options: _OPTIONS = _NOTHING


def parsed(kind: type[_Arguments], argv: Sequence[str]) -> _Arguments:
    """The arguments of a command, `kind`.

    Raises:
      UsageError: one is unknown or wrong.
      SystemExit: help was asked for, and shown.
    """
    program = f"fedjax-core {kind.__name__.lower()}"
    _check_options(program, _option_names(kind), argv)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            arguments, surplus = tyro.cli(kind, prog=program, args=argv, return_unknown_args=True)
    except SystemExit as end:
        if end.code in (None, 0):
            raise
        raise UsageError(message.getvalue()) from None
    if surplus:
        raise UsageError(f"unexpected {surplus[0]!r}; `{program} --help` lists all")
    return arguments


def _option_names(kind: type) -> dict[str, bool]:
    """The options of a command, and whether they take a value."""
    names = {}
    for field in dataclasses.fields(kind):
        if field.name == "options":
            names |= _option_names(RunConfig)
        elif field.name != "folder":
            names[f"--{field.name.replace('_', '-')}"] = field.default is not False
    return names


def _check_options(program: str, names: dict[str, bool], argv: Sequence[str]) -> None:
    """Refuses unknown options, and those without the value that they take."""
    rest = list(argv)
    while rest:
        text = rest.pop(0)
        name, equals, _ = text.partition("=")
        if not text.startswith("-") or text in ("-h", "--help"):
            continue
        if name not in names:
            raise UsageError(f"there is no option {name!r}; {_advice(program, name, names)}")
        if equals and not names[name]:
            raise UsageError(f"{name} takes no value, got {text!r}")
        if names[name] and not equals and (not rest or rest.pop(0).startswith("--")):
            raise UsageError(f"{name} needs a value; `{program} --help` says which")


def _advice(program: str, name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lstrip("-"), [known[2:] for known in names], n=1, cutoff=0.7)
    return f"did you mean --{close[0]}?" if close else f"`{program} --help` lists all"
