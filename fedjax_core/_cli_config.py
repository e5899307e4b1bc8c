"""The configuration of a run."""

import dataclasses
from typing import Annotated, Any, NamedTuple

import tyro

from fedjax_core._cli_values import Kind, UsageError, choice, integer, option, probability, rate, several, words


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
KINDS: dict[str, Kind] = {
    "data": choice(*SETTINGS),
    "algorithm": choice("fed-avg", "fed-sgd"),
    "rounds": integer(50),
    "cohort_size": integer(10),
    "dropout": probability(0.1),
    "client_lr": rate(0.1),
    "server_optimizer": choice(*SERVER_RATES),
    "server_lr": rate(1.0),
    "batch_size": integer(20),
    "epochs": integer(1),
    "evaluate_every": integer(5, least=0),
    "checkpoint_every": integer(5),
    "releases": several("jsonl", "tensorboard"),
    "exports": several("weights", "predict"),
    "seed": integer(0, least=0, most=2**32 - 1),
    "devices": integer(2),
    "lanes": integer(8),
    "compilation_cache": words("on, off or the name of a folder", "{on,off,FOLDER}", "on"),
}
MAY_CHANGE = ("rounds", "evaluate_every", "checkpoint_every", "releases", "exports", "devices", "compilation_cache")
"""The options that a run which is resumed may have anew: none of them decides the bits of a round."""

_MOST_ROUNDS_LOST = 10


def _value(name: str) -> tyro.constructors.PrimitiveConstructorSpec:
    return option(name.replace("_", "-"), KINDS[name])


def _default(hint: str):
    return tyro.conf.arg(help_behavior_hint=f"(default: {hint})")


def _by_data(field: str):
    """The default of each data set, as the help shows it."""
    return _default(", ".join(f"{getattr(settings, field)} for {name}" for name, settings in SETTINGS.items()))


_BY_OPTIMIZER = _default(", ".join(f"{rate} for {name}" for name, rate in SERVER_RATES.items()))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a run is made of. None is an option that was not given, until `with_defaults` gives it its value."""

    data: Annotated[str | None, _value("data"), _default("digits")] = None
    """Handwritten digits of 100 clients, Shakespeare's 1,373 roles, or synthetic clients as in the FedProx paper."""

    algorithm: Annotated[str | None, _value("algorithm"), _default("fed-avg")] = None
    """fed-avg: clients train locally and the server averages what they learned. fed-sgd: clients send one gradient."""

    rounds: Annotated[int | None, _value("rounds"), _by_data("rounds")] = None
    """How many rounds to train; fed-sgd takes about three times as many by default."""

    cohort_size: Annotated[int | None, _value("cohort_size"), _by_data("cohort_size")] = None
    """How many clients take part in a round, drawn anew every time."""

    dropout: Annotated[float | None, _value("dropout"), _default("0")] = None
    """The probability that such a client fails before it reports. A round that nobody reports in is skipped."""

    client_lr: Annotated[float | None, _value("client_lr"), _by_data("client_lr")] = None
    """Learning rate of the SGD that clients train with; fed-avg only."""

    server_optimizer: Annotated[str | None, _value("server_optimizer"), _default("sgd")] = None
    """How the server applies what the clients send: FedAvg, or FedAvgM, FedAdam, FedYogi, FedAdagrad."""

    server_lr: Annotated[float | None, _value("server_lr"), _BY_OPTIMIZER] = None
    """Learning rate of the server optimizer; for fed-sgd with sgd the default suits the data."""

    batch_size: Annotated[int | None, _value("batch_size"), _by_data("batch_size")] = None
    """Examples in a batch of a client."""

    epochs: Annotated[int | None, _value("epochs"), _by_data("epochs")] = None
    """How often a client goes through its examples in a round; fed-avg only."""

    evaluate_every: Annotated[int | None, _value("evaluate_every"), _default("a tenth of the rounds")] = None
    """Evaluates on held-out data after every so many rounds, and after the last one; 0: only after that."""

    checkpoint_every: Annotated[
        int | None, _value("checkpoint_every"), _default(f"what divides evaluate-every, {_MOST_ROUNDS_LOST} at most")
    ] = None
    """Leaves a checkpoint, from which the run can go on, after every so many rounds, the last one and Ctrl-C."""

    releases: Annotated[tuple[str, ...] | None, _value("releases"), _default("none")] = None
    """Where else than in metrics.csv is what every round measured: rounds.jsonl, tensorboard/; several with commas."""

    exports: Annotated[tuple[str, ...] | None, _value("exports"), _default("none")] = None
    """What else is left at the end: the weights as safetensors, the predictions by jax.export; several with commas."""

    seed: Annotated[int | None, _value("seed"), _default("0")] = None
    """All randomness comes from it: the same seed gives the same run."""

    devices: Annotated[int | None, _value("devices"), _default("all; on a CPU one per core")] = None
    """How many devices the clients are spread over."""

    lanes: Annotated[int | None, _value("lanes"), _default("1 on a CPU, 16 elsewhere")] = None
    """How many clients run side by side on a device."""

    compilation_cache: Annotated[str | None, _value("compilation_cache"), _default("off")] = None
    """Keeps what is compiled for the next run: on in the user's cache folder, or in a folder of your choice."""

    def given(self) -> dict[str, Any]:
        """The options that have a value."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def overridden(self, by: "RunConfig") -> "RunConfig":
        """The configuration with the options that are given in another one."""
        return dataclasses.replace(self, **by.given())

    def _filled(self, **defaults: Any) -> "RunConfig":
        return dataclasses.replace(self, **{**defaults, **self.given()})


def with_defaults(config: RunConfig) -> RunConfig:
    """The configuration with a value for all that the machine does not decide.

    With fed-sgd there are no `client_lr` and no `epochs`.

    Raises:
      UsageError: two options do not go together.
    """
    config = config._filled(data="digits", algorithm="fed-avg", server_optimizer="sgd", seed=0, dropout=0.0)
    config = config._filled(releases=(), exports=(), compilation_cache="off")
    settings, optimizer = SETTINGS[config.data], config.server_optimizer
    one_gradient = config.algorithm == "fed-sgd"
    _check_local_training(config)
    if not one_gradient:
        config = config._filled(client_lr=settings.client_lr, epochs=settings.epochs)
    config = config._filled(
        rounds=settings.fed_sgd_rounds if one_gradient else settings.rounds,
        cohort_size=settings.cohort_size,
        server_lr=settings.fed_sgd_lr if one_gradient and optimizer == "sgd" else SERVER_RATES[optimizer],
        batch_size=settings.batch_size,
    )
    config = config._filled(evaluate_every=max(1, config.rounds // 10))
    config = config._filled(checkpoint_every=_dividing(config.evaluate_every))
    _check_checkpoints(config)
    return config


def _dividing(evaluate_every: int) -> int:
    """Rounds from one checkpoint to the next, such that there is one where the run evaluates."""
    return max(n for n in range(1, _MOST_ROUNDS_LOST + 1) if evaluate_every % n == 0)


def _check_local_training(config: RunConfig) -> None:
    for name in ("client_lr", "epochs"):
        if config.algorithm == "fed-sgd" and getattr(config, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for local training, which fed-sgd has none of; leave it out, or use "
                "--algorithm fed-avg"
            )


def _check_checkpoints(config: RunConfig) -> None:
    evaluate, save = config.evaluate_every, config.checkpoint_every
    if evaluate % save:
        raise UsageError(
            f"--evaluate-every {evaluate} must be a multiple of --checkpoint-every {save}, because checkpoints are "
            f"what is evaluated; use --checkpoint-every {_dividing(evaluate)}"
        )
