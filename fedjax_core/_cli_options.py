"""The options of the command line, as tyro reads them."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import tyro


class UsageError(Exception):
    """Something is wrong with what the user typed; the message is one line."""


class Settings(NamedTuple):
    """What suits a data set: the options that the user does not give."""

    rounds: int
    fed_sgd_rounds: int
    cohort_size: int
    client_lr: float
    fed_sgd_lr: float
    batch_size: int
    epochs: int


SETTINGS = {
    "digits": Settings(100, 300, 20, 0.3, 0.5, 10, 3),
    "shakespeare": Settings(30, 100, 10, 1.0, 1.0, 4, 1),
    "synthetic": Settings(100, 300, 10, 0.01, 0.01, 10, 1),
}
SERVER_RATES = {"sgd": 1.0, "momentum": 0.5, "adam": 0.02, "yogi": 0.02, "adagrad": 0.1}
ALGORITHMS = ("fed-avg", "fed-sgd")
LARGEST_SEED = 2**32 - 1


def _option(metavar: str, read: Callable[[str], Any]) -> tyro.constructors.PrimitiveConstructorSpec:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def _integer(name: str, example: int, least: int = 1, most: int | None = None):
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UsageError(f"--{name} must be an integer, got {text!r}; for example --{name} {example}") from None
        if value < least:
            raise UsageError(f"--{name} must be at least {least}, got {value}; for example --{name} {example}")
        if most is not None and value > most:
            raise UsageError(f"--{name} must be at most {most}, got {value}; for example --{name} {example}")
        return value

    return _option("N", read)


def _rate(name: str, example: float):
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise UsageError(f"--{name} must be a number, got {text!r}; for example --{name} {example}") from None
        if not 0 < value < math.inf:
            raise UsageError(f"--{name} must be positive and finite, got {text}; for example --{name} {example}")
        return value

    return _option("RATE", read)


def _choice(name: str, choices: tuple[str, ...]):
    def read(text: str) -> str:
        if text not in choices:
            raise UsageError(f"--{name} must be one of {', '.join(choices)}, got {text!r}")
        return text

    return _option(f"{{{','.join(choices)}}}", read)


def _path(name: str):
    def read(text: str) -> pathlib.Path:
        if not text:
            raise UsageError(f"--{name} must be the name of a folder, got ''; for example --{name} runs/first")
        return pathlib.Path(text)

    return _option("FOLDER", read)


def _on_off_or_folder(name: str):
    def read(text: str) -> str:
        if not text:
            raise UsageError(f"--{name} must be on, off or the name of a folder, got ''")
        return text

    return _option("{on,off,FOLDER}", read)


def _default(hint: str):
    return tyro.conf.arg(help_behavior_hint=f"(default: {hint})")


def _by_data(field: str):
    """The default of each data set, as the help shows it."""
    return _default(", ".join(f"{getattr(settings, field)} for {name}" for name, settings in SETTINGS.items()))


_BY_OPTIMIZER = _default(", ".join(f"{rate} for {name}" for name, rate in SERVER_RATES.items()))


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains a federated model on shipped data and evaluates it on held-out data.

    Leaves a new folder with the weights (weights.npz), what every round measured (metrics.csv), the
    curves (curves.png) and the options (options.json). Without options it trains on handwritten digits.
    """

    data: Annotated[str, _choice("data", tuple(SETTINGS))] = "digits"
    """Handwritten digits of 100 clients, Shakespeare's 1,373 roles, or synthetic clients as in the FedProx paper."""

    algorithm: Annotated[str, _choice("algorithm", ALGORITHMS)] = "fed-avg"
    """fed-avg: clients train locally and the server averages what they learned. fed-sgd: clients send one gradient."""

    rounds: Annotated[int | None, _integer("rounds", 50), _by_data("rounds")] = None
    """How many rounds to train; fed-sgd takes about three times as many by default."""

    cohort_size: Annotated[int | None, _integer("cohort-size", 10), _by_data("cohort_size")] = None
    """How many clients take part in a round, drawn anew every time."""

    client_lr: Annotated[float | None, _rate("client-lr", 0.1), _by_data("client_lr")] = None
    """Learning rate of the SGD that clients train with; fed-avg only."""

    server_optimizer: Annotated[str, _choice("server-optimizer", tuple(SERVER_RATES))] = "sgd"
    """How the server applies what the clients send: FedAvg, or FedAvgM, FedAdam, FedYogi, FedAdagrad."""

    server_lr: Annotated[float | None, _rate("server-lr", 1.0), _BY_OPTIMIZER] = None
    """Learning rate of the server optimizer; for fed-sgd with sgd the default suits the data."""

    batch_size: Annotated[int | None, _integer("batch-size", 20), _by_data("batch_size")] = None
    """Examples in a batch of a client."""

    epochs: Annotated[int | None, _integer("epochs", 1), _by_data("epochs")] = None
    """How often a client goes through its examples in a round; fed-avg only."""

    evaluate_every: Annotated[int | None, _integer("evaluate-every", 5), _default("a tenth of the rounds")] = None
    """Evaluates on held-out data after every so many rounds, and after the last one."""

    seed: Annotated[int, _integer("seed", 0, least=0, most=LARGEST_SEED)] = 0
    """All randomness comes from it: the same seed gives the same run."""

    out: Annotated[pathlib.Path | None, _path("out"), _default("runs/DATE_DATA_ALGORITHM")] = None
    """The folder to leave the results in; it must be new or empty."""

    devices: Annotated[int | None, _integer("devices", 2), _default("all; on a CPU one per core")] = None
    """How many devices the clients are spread over."""

    lanes: Annotated[int | None, _integer("lanes", 8), _default("1 on a CPU, 16 elsewhere")] = None
    """How many clients run side by side on a device."""

    compilation_cache: Annotated[str, _on_off_or_folder("compilation-cache")] = "off"
    """Keeps what is compiled for the next run: on in the user's cache folder, or in a folder of your choice."""
