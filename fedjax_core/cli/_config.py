"""The settings of a run: those that a user gives (`RunOptions`), and the complete ones (`RunConfig`)."""

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
    """The properties of a setting besides its name and its type.

    Attributes:
      kind: the values that it accepts.
      help: a line or two for the help.
      default: the value if none is given; None if that depends on other settings.
      depends: how the default depends on other settings, in words; "" if the task decides.
      algorithms: the algorithms that have the setting; () for all.
      may_change: whether a run may be resumed with another value, because no bit of a round depends on it.
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
    """A setting that the bits of a run depend on, so a resumed run must keep its value."""
    return dataclasses.field(metadata={"setting": Setting(kind, help, *default, **more)})


def _free(kind: Kind, help: str, *default: Any, **more: Any) -> Any:
    """A setting that may change when a run is resumed."""
    return _fixed(kind, help, *default, may_change=True, **more)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The complete settings of a run; a setting that the algorithm does not have is None.

    This class is the table of settings: the options of the command line and of TOML files, their help, their checks and
    their defaults all come from it, except the defaults that depend on the task.
    """

    data: str = _fixed(
        choice(*TASKS), "Handwritten digits of 100 clients, Shakespeare's roles, or the FedProx paper's data.", "digits"
    )
    algorithm: str = _fixed(
        choice(*ALGORITHMS),
        "Clients train locally (fed-avg), stay close to the server's weights (fed-prox), or send a gradient (fed-sgd).",
        "fed-avg",
    )
    rounds: int = _free(_COUNT, "How many rounds to train; the default for fed-sgd is about three times as many.")
    cohort_size: int = _fixed(_COUNT, "How many clients take part in a round; each round draws them again.")
    dropout: float = _fixed(_FRACTION, "The probability that a selected client fails before it reports.", 0.0)
    client_lr: float | None = _fixed(
        _RATE, "Learning rate of the clients' SGD; not for fed-sgd.", algorithms=_LOCAL_TRAINING
    )
    server_optimizer: str = _fixed(
        choice(*SERVER_OPTIMIZERS), "The server's optimizer: FedAvg, FedAvgM, FedAdam, FedYogi or FedAdagrad.", "sgd"
    )
    server_lr: float = _fixed(
        _RATE,
        "Learning rate of the server optimizer; for fed-sgd with sgd the default depends on the data.",
        depends=", ".join(f"{optimizer.rate} for {name}" for name, optimizer in SERVER_OPTIMIZERS.items()),
    )
    batch_size: int = _fixed(_COUNT, "Examples in a batch of a client.")
    epochs: int | None = _fixed(
        _COUNT, "A client's passes over its examples in a round; not for fed-sgd.", algorithms=_LOCAL_TRAINING
    )
    proximal: float | None = _fixed(
        _NOT_NEGATIVE, "How strongly fed-prox pulls clients to the server's weights.", 0.1, algorithms=("fed-prox",)
    )
    noise_multiplier: float = _fixed(
        _NOT_NEGATIVE,
        "Noise on the clipped updates, which hides each client (differential privacy); 0 for no noise.",
        0.0,
    )
    max_norm: float = _fixed(_RATE, "The norm that updates are clipped to; with noise only.", 1.0)
    delta: float = _fixed(_DELTA, "The delta at which epsilon is reported; with noise only.", 1e-5)
    evaluate_every: int = _free(
        _COUNT_OR_0,
        "Evaluates on held-out data after every N rounds and after the last one; 0 for only after the last one.",
        depends="a tenth of the rounds",
    )
    checkpoint_every: int = _free(
        _COUNT,
        "Writes a checkpoint, from which the run can continue, after every N rounds, the last round and Ctrl-C.",
        depends=f"the largest divisor of evaluate-every up to {_MOST_ROUNDS_LOST}",
    )
    patience: int = _free(
        _COUNT_OR_0, "Ends the run after N evaluations in a row without a lower held-out loss; 0 for never.", 0
    )
    releases: tuple[str, ...] = _free(
        several(*RELEASES), "Where the metrics go besides metrics.csv; separate several with commas.", ()
    )
    exports: tuple[str, ...] = _free(
        several(*EXPORTS),
        "Written at the end: weights as safetensors, predict by jax.export; separate several with commas.",
        (),
    )
    seed: int = _fixed(_SEED, "The seed of all randomness: the same seed gives the same run.", 0)
    devices: int = _free(_COUNT, "How many devices the clients are spread over.", depends="all; on a CPU one per core")
    lanes: int = _fixed(_COUNT, "How many clients run side by side on a device.", depends="1 on a CPU, 16 elsewhere")
    compilation_cache: str = _free(
        _CACHE, "Keeps compiled programs for the next run: in the user's cache folder (on), or in FOLDER.", "off"
    )

    def options(self) -> dict[str, Any]:
        """The settings that have a value, in the form in which a user gives them."""
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
    RunOptions.__doc__ = "The settings that a user gives, any number of them."


def with_defaults(given: RunOptions) -> RunOptions:
    """The given settings, and defaults for all others that the algorithm has, except those that the machine decides.

    Raises:
      UsageError: two settings contradict each other.
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
                f"{flag(name)} is only for {' and '.join(has_it)}, got --algorithm {algorithm}; leave it out, or use "
                f"--algorithm {has_it[0]}"
            )
        del options[name]
    options.setdefault("evaluate_every", max(1, options["rounds"] // 10))
    options.setdefault("checkpoint_every", _dividing(options["evaluate_every"]))
    _check_evaluations(options["evaluate_every"], options["checkpoint_every"], options["patience"])
    return {name: options[name] for name in SETTINGS if name in options}


def _dividing(evaluate_every: int) -> int:
    """The default number of rounds between checkpoints, such that every evaluated round has one."""
    return max(n for n in range(1, _MOST_ROUNDS_LOST + 1) if evaluate_every % n == 0)


def _check_evaluations(evaluate: int, save: int, patience: int) -> None:
    if patience and not evaluate:
        raise UsageError(
            f"--patience {patience} needs evaluations during the run, got --evaluate-every 0; leave it out"
        )
    if evaluate % save:
        raise UsageError(
            f"--evaluate-every {evaluate} must be a multiple of --checkpoint-every {save}, since only checkpoints are "
            f"evaluated; use --checkpoint-every {_dividing(evaluate)}"
        )


def on_this_machine(given: RunOptions) -> RunConfig:
    """Prepares JAX for a run, before its first use, and returns the complete settings.

    It uses all cores unless `devices` is given, and turns on the compilation cache if the settings ask for it.

    Raises:
      UsageError: two settings contradict each other, or the machine has too few devices.
    """
    options = with_defaults(given)
    with contextlib.suppress(RuntimeError):  # JAX is already in use, and keeps the devices that it has
        use_all_cores(options.get("devices"))
    cache = options["compilation_cache"]
    if cache != "off":
        try:
            use_compilation_cache(None if cache == "on" else cache)
        except OSError as error:
            raise UsageError(f"the folder of --compilation-cache cannot be created: {error}; choose another") from None
    available = len(jax.devices())
    devices = options.get("devices", min(available, options["cohort_size"]))
    if devices > available:
        raise UsageError(
            f"--devices {devices} is more than the {available} devices that JAX sees here; leave it out, or use "
            f"--devices {available}"
        )
    lanes = EngineConfig(lanes=options.get("lanes"), devices=devices).resolve().lanes
    settings: dict[str, Any] = dict.fromkeys(SETTINGS) | options | {"devices": devices, "lanes": lanes}
    return RunConfig(**settings)
