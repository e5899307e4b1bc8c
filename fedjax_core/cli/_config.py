"""The settings of a run: what a user gives of them (`RunOptions`), and what runs (`RunConfig`)."""

import contextlib
import dataclasses
import typing
from typing import Annotated, Any, NamedTuple

import jax

from fedjax_core.cli._choices import ALGORITHMS, EXPORTS, RELEASES, SERVER_OPTIMIZERS, TASKS
from fedjax_core.cli._values import Kind, UsageError, choice, flag, number, option, several, text, word
from fedjax_core.engine import EngineConfig, use_all_cores, use_compilation_cache

_MOST_ROUNDS_LOST = 10
_LOCAL_TRAINING = ("fed-avg", "fed-prox")
_RATE = number(float, 0.1, "positive and finite", lambda value: value > 0, "RATE")
_FRACTION = number(float, 0.1, "at least 0 and less than 1", lambda value: 0 <= value < 1, "P")
_DELTA = number(float, 1e-6, "positive and less than 1", lambda value: 0 < value < 1, "P")
_NOT_NEGATIVE = number(float, 1.0, "at least 0 and finite", lambda value: value >= 0, "X")
_COUNT = number(int, 10, "at least 1", lambda value: value >= 1)
_COUNT_OR_0 = number(int, 5, "at least 0", lambda value: value >= 0)
_SEED = number(int, 0, f"from 0 to {2**32 - 1}", lambda value: 0 <= value < 2**32)
_CACHE = text("{on,off,FOLDER}", "on", "on, off or the name of a folder")


class Setting(NamedTuple):
    """What there is to know of a setting besides its name and its type.

    Attributes:
      kind: the values that it takes.
      help: a line or two.
      default: what it is unless it is given; None where that depends on other settings.
      depends: how; "" where the task decides.
      algorithms: those that have it; () where all have.
      may_change: whether a run may be resumed with another value, as no bit of a round depends on it.
    """

    kind: Kind
    help: str
    default: Any = None
    depends: str = ""
    algorithms: tuple[str, ...] = ()
    may_change: bool = False

    def belongs_to(self, algorithm: str) -> bool:
        """Whether an algorithm has the setting."""
        return not self.algorithms or algorithm in self.algorithms

    def shown_default(self, name: str) -> str:
        """The default, as the help shows it."""
        if self.default is not None:
            return word(self.default)
        return self.depends or ", ".join(f"{task.settings[name]} for {of}" for of, task in TASKS.items())


def _fixed(kind: Kind, help: str, *default: Any, **more: Any) -> Any:
    """A setting that decides the bits of a run, and stays as it is when the run is resumed."""
    return dataclasses.field(metadata={"setting": Setting(kind, help, *default, **more)})


def _free(kind: Kind, help: str, *default: Any, **more: Any) -> Any:
    """A setting with which a run may be resumed anew."""
    return _fixed(kind, help, *default, may_change=True, **more)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What runs: every setting has a value, which is None for those that the algorithm does not have.

    This is the table of the settings: from it come the options of the command line and of a TOML file, their help,
    their checks and their defaults, but for those that a task carries.
    """

    data: str = _fixed(
        choice(*TASKS), "Handwritten digits of 100 clients, Shakespeare's roles, or the FedProx paper's data.", "digits"
    )
    algorithm: str = _fixed(
        choice(*ALGORITHMS),
        "Clients train locally, close to the server's weights (fed-prox), or send a gradient.",
        "fed-avg",
    )
    rounds: int = _free(_COUNT, "How many rounds to train; by default fed-sgd takes about three times as many.")
    cohort_size: int = _fixed(_COUNT, "How many clients take part in a round, drawn anew every time.")
    dropout: float = _fixed(_FRACTION, "The probability that such a client fails before it reports.", 0.0)
    client_lr: float | None = _fixed(
        _RATE, "Learning rate of the clients' SGD; not for fed-sgd.", algorithms=_LOCAL_TRAINING
    )
    server_optimizer: str = _fixed(
        choice(*SERVER_OPTIMIZERS), "FedAvg, or FedAvgM, FedAdam, FedYogi, FedAdagrad: how the server learns.", "sgd"
    )
    server_lr: float = _fixed(
        _RATE,
        "Learning rate of the server optimizer; for fed-sgd with sgd the default suits the data.",
        depends=", ".join(f"{optimizer.rate} for {name}" for name, optimizer in SERVER_OPTIMIZERS.items()),
    )
    batch_size: int = _fixed(_COUNT, "Examples in a batch of a client.")
    epochs: int | None = _fixed(
        _COUNT, "How often a client goes through its examples in a round; not for fed-sgd.", algorithms=_LOCAL_TRAINING
    )
    proximal: float | None = _fixed(
        _NOT_NEGATIVE, "How strongly fed-prox pulls clients to the server's weights.", 0.1, algorithms=("fed-prox",)
    )
    noise_multiplier: float = _fixed(
        _NOT_NEGATIVE,
        "Hides every client by this noise on the clipped updates (differential privacy); 0: no noise.",
        0.0,
    )
    max_norm: float = _fixed(_RATE, "The norm that updates are clipped to; with noise only.", 1.0)
    delta: float = _fixed(_DELTA, "The delta at which epsilon is reported; with noise only.", 1e-5)
    evaluate_every: int = _free(
        _COUNT_OR_0,
        "Evaluates on held-out data after every so many rounds, and after the last one; 0: only after that.",
        depends="a tenth of the rounds",
    )
    checkpoint_every: int = _free(
        _COUNT,
        "Leaves a checkpoint, from which the run can go on, after every so many rounds, the last one and Ctrl-C.",
        depends=f"what divides evaluate-every, {_MOST_ROUNDS_LOST} at most",
    )
    patience: int = _free(
        _COUNT_OR_0, "Ends the run after so many evaluations in a row without a lower held-out loss; 0: never.", 0
    )
    releases: tuple[str, ...] = _free(
        several(*RELEASES), "Where else than in metrics.csv the metrics go; several with commas.", ()
    )
    exports: tuple[str, ...] = _free(
        several(*EXPORTS), "Left at the end: weights as safetensors, predict by jax.export; several with commas.", ()
    )
    seed: int = _fixed(_SEED, "All randomness comes from it: the same seed gives the same run.", 0)
    devices: int = _free(_COUNT, "How many devices the clients are spread over.", depends="all; on a CPU one per core")
    lanes: int = _fixed(_COUNT, "How many clients run side by side on a device.", depends="1 on a CPU, 16 elsewhere")
    compilation_cache: str = _free(
        _CACHE, "Keeps what is compiled for the next run: in the user's cache folder, or in yours.", "off"
    )

    def options(self) -> dict[str, Any]:
        """The settings that have a value, as a user gives them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


SETTINGS: dict[str, Setting] = {field.name: field.metadata["setting"] for field in dataclasses.fields(RunConfig)}

if typing.TYPE_CHECKING:
    RunOptions = dict[str, Any]
else:
    RunOptions = typing.TypedDict(
        "RunOptions",
        {
            name: Annotated[Any, *option(name, setting.kind, setting.shown_default(name), setting.help)]
            for name, setting in SETTINGS.items()
        },
        total=False,
    )
    RunOptions.__doc__ = "What a user gives: any of the settings."


def with_defaults(given: RunOptions) -> RunOptions:
    """The settings with a value for each that the algorithm has, but for those that the machine decides.

    Raises:
      UsageError: two settings do not go together.
    """
    options = {name: setting.default for name, setting in SETTINGS.items() if setting.default is not None} | given
    algorithm, optimizer, task = options["algorithm"], options["server_optimizer"], TASKS[options["data"]]
    suited = task.settings | (task.fed_sgd if algorithm == "fed-sgd" else {})
    if "server_lr" not in suited or optimizer != "sgd":
        suited["server_lr"] = SERVER_OPTIMIZERS[optimizer].rate
    options = suited | options
    for name in [name for name in options if not SETTINGS[name].belongs_to(algorithm)]:
        if name in given:
            has_it = SETTINGS[name].algorithms
            raise UsageError(
                f"{flag(name)} is for {' and '.join(has_it)}, got --algorithm {algorithm}; leave it out, or use "
                f"--algorithm {has_it[0]}"
            )
        del options[name]
    options.setdefault("evaluate_every", max(1, options["rounds"] // 10))
    options.setdefault("checkpoint_every", _dividing(options["evaluate_every"]))
    _check_evaluations(options["evaluate_every"], options["checkpoint_every"], options["patience"])
    return {name: options[name] for name in SETTINGS if name in options}


def _dividing(evaluate_every: int) -> int:
    """Rounds from one checkpoint to the next, such that there is one where the run evaluates."""
    return max(n for n in range(1, _MOST_ROUNDS_LOST + 1) if evaluate_every % n == 0)


def _check_evaluations(evaluate: int, save: int, patience: int) -> None:
    if patience and not evaluate:
        raise UsageError(
            f"--patience {patience} needs evaluations while it trains, got --evaluate-every 0; leave it out"
        )
    if evaluate % save:
        raise UsageError(
            f"--evaluate-every {evaluate} must be a multiple of --checkpoint-every {save}, because checkpoints are "
            f"what is evaluated; use --checkpoint-every {_dividing(evaluate)}"
        )


def on_this_machine(given: RunOptions) -> RunConfig:
    """Prepares JAX for a run, before its first use, and gives what runs.

    All cores are used unless their number is set, and the compilation cache if it is wanted.

    Raises:
      UsageError: two settings do not go together, or the machine lacks what is asked for.
    """
    options = with_defaults(given)
    with contextlib.suppress(RuntimeError):  # JAX is in use already, with the devices that it has
        use_all_cores(options.get("devices"))
    cache = options["compilation_cache"]
    if cache != "off":
        try:
            use_compilation_cache(None if cache == "on" else cache)
        except OSError as error:
            raise UsageError(f"the folder of --compilation-cache cannot be made: {error}; choose another") from None
    available = len(jax.devices())
    devices = options.get("devices", min(available, options["cohort_size"]))
    if devices > available:
        raise UsageError(
            f"--devices {devices} is more than the {available} that JAX sees here; leave it out, or use "
            f"--devices {available}"
        )
    lanes = EngineConfig(lanes=options.get("lanes"), devices=devices).resolve().lanes
    settings: dict[str, Any] = dict.fromkeys(SETTINGS) | options | {"devices": devices, "lanes": lanes}
    return RunConfig(**settings)
