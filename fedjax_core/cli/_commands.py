"""The commands: the arguments of each, for tyro, and its action."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from fedjax_core.cli._config import RunOptions, on_this_machine
from fedjax_core.cli._folder import given_folder, options_of, resumed_options
from fedjax_core.cli._inspect import describe, evaluate, watch
from fedjax_core.cli._toml import read_config
from fedjax_core.cli._train import resume, train
from fedjax_core.cli._values import UsageError, number, option, path

_SECONDS = number(float, 10.0, "at least 0 and finite", lambda value: value >= 0, "S")
_ROUNDS = number(int, 2, "at least 0", lambda value: value >= 0)
_CONFIG = path("FILE", "config.toml", "the name of a TOML file")
_OUT = path("FOLDER", "runs/first", "the name of a folder")
_RUN = path("FOLDER", "runs/first", "the folder of a run")
_Folder = tyro.conf.Positional[Annotated[pathlib.Path | None, *option("folder", _RUN)]]
_File = Annotated[pathlib.Path | None, *option("config", _CONFIG, "none")]
_Out = Annotated[pathlib.Path | None, *option("out", _OUT, "runs/DATE_DATA_ALGORITHM")]
_Options = Annotated[RunOptions, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a federated model on shipped data, from digits to Shakespeare.

    It creates a folder with the weights (weights.npz), the metrics of every round (metrics.csv), their curves
    (curves.png), the options (config.toml) and checkpoints, from which `fedjax-core resume FOLDER` continues. Without
    options it trains on handwritten digits.
    """

    config: _File = None
    """A TOML file with options from below, such as `cohort_size = 10`; options on the command line override it."""

    out: _Out = None
    """The folder for the results; it must be new or empty."""

    options: _Options = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        train(on_this_machine(_from_file(self.config) | self.options), self.out)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continues a run after Ctrl-C or a crash, with the same bits, or with more rounds.

    It continues from the latest checkpoint. An option that is not given has the value of the run, not the default shown
    below. Only --rounds, --evaluate-every, --checkpoint-every, --patience, --releases, --exports, --devices and
    --compilation-cache may change; a new value for any other option is refused.
    """

    folder: _Folder = None
    """The folder of the run."""

    options: _Options = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        folder = given_folder("resume", self.folder)
        resume(on_this_machine(resumed_options(folder, self.options)), folder)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluates the latest checkpoint of a run on the held-out data, and writes nothing."""

    folder: _Folder = None
    """The folder of the run."""

    json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")] = False
    """Prints one line of JSON."""

    def run(self) -> None:
        folder = given_folder("evaluate", self.folder)
        evaluate(on_this_machine(options_of("evaluate", folder)), folder, self.json)


@dataclasses.dataclass(frozen=True)
class Watch:
    """Evaluates each new checkpoint of a run on the held-out data while another process trains.

    It prints a line for each checkpoint, writes nothing, and ends after the last round of the run or at Ctrl-C.
    """

    folder: _Folder = None
    """The folder of the run."""

    throttle_secs: Annotated[float, *option("throttle_secs", _SECONDS, "5.0")] = 5.0
    """Seconds from one look for a new checkpoint to the next."""

    def run(self) -> None:
        folder = given_folder("watch", self.folder)
        watch(on_this_machine(options_of("watch", folder)), folder, self.throttle_secs)


@dataclasses.dataclass(frozen=True)
class Describe:
    """Prints the types of a run, its passes over the clients, and the bytes and the time that they take.

    It prints the types of the process and of the evaluation; how a round runs: the passes over the clients, the values
    sent between them and the server, and the bytes in each direction; and the cost of the remaining rounds.
    """

    folder: _Folder = None
    """The folder of a run; without it, the options define the run to describe."""

    config: _File = None
    """A TOML file with options from below; options on the command line override it."""

    try_rounds: Annotated[int, *option("try_rounds", _ROUNDS, "0")] = 0
    """Runs this many rounds, without writing anything, to measure how long a round takes."""

    options: _Options = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        if self.folder is not None and self.config is not None:
            raise UsageError("describe takes a folder or --config, got both; leave out one of them")
        of_run = {} if self.folder is None else options_of("describe", self.folder)
        config = on_this_machine(of_run | _from_file(self.config) | self.options)
        describe(config, self.folder, self.try_rounds)


COMMANDS = {kind.__name__.lower(): kind for kind in (Train, Resume, Evaluate, Watch, Describe)}


def _from_file(config: pathlib.Path | None) -> RunOptions:
    return {} if config is None else read_config(config)
