"""`fedjax-core train`, from its options to the summary."""

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

import jax
import optax
import rich.console

from fedjax_core import algorithms, program
from fedjax_core._cli_options import SERVER_RATES, SETTINGS, TrainOptions, UsageError
from fedjax_core._cli_tasks import TASKS, Task
from fedjax_core.computation import Computation
from fedjax_core.data import Batching
from fedjax_core.engine import EngineConfig
from fedjax_core.templates import LearningProcess

_SERVER_OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": functools.partial(optax.adam, b2=0.99, eps=1e-3),
    "yogi": functools.partial(optax.yogi, b2=0.99, eps=1e-3),
    "adagrad": functools.partial(optax.adagrad, eps=1e-3),
}


def train(options: TrainOptions) -> int:
    """Runs what the options say, prints what it gave, and returns the exit status.

    Raises:
      UsageError: an option does not suit the data or the machine, or the folder is not new.
      OSError: a file cannot be written.
    """
    data_key, process_key, train_key = jax.random.split(jax.random.key(options.seed), 3)
    task = TASKS[options.data](data_key)
    options = _completed(options, task)
    process, evaluation = _programs(options, task, process_key)
    folder = _folder(options)
    _introduce(options, task)
    try:
        with _short_warnings(), _Interrupt() as interrupt:
            _, history = program.train(
                process,
                task.train_data,
                cohort_size=options.cohort_size,
                rounds=options.rounds,
                batching=Batching(options.batch_size, options.epochs, shuffle=True),
                key=train_key,
                evaluation=evaluation,
                test_data=task.test_data,
                evaluate_every=options.evaluate_every,
                folder=folder,
                on_round=lambda round: _follow(round, options, interrupt),
            )
    except KeyboardInterrupt:
        kept = _rounds_in(folder)
        left = f"{folder.path} holds {'their' if kept else 'no'} results"
        print(f"fedjax-core: stopped by Ctrl-C after {kept} of {options.rounds} rounds; {left}", file=sys.stderr)
        return 130
    _summarize(history, folder)
    return 0


def _completed(options: TrainOptions, task: Task) -> TrainOptions:
    """The options with a value for each, checked against the data and the machine."""
    settings = SETTINGS[options.data]
    one_gradient = options.algorithm == "fed-sgd"
    rounds = options.rounds or (settings.fed_sgd_rounds if one_gradient else settings.rounds)
    optimizer = options.server_optimizer
    usual_rate = settings.fed_sgd_lr if one_gradient and optimizer == "sgd" else SERVER_RATES[optimizer]
    options = dataclasses.replace(
        options,
        rounds=rounds,
        cohort_size=options.cohort_size or settings.cohort_size,
        client_lr=None if one_gradient else options.client_lr or settings.client_lr,
        server_lr=options.server_lr or usual_rate,
        batch_size=options.batch_size or settings.batch_size,
        epochs=1 if one_gradient else options.epochs or settings.epochs,
        evaluate_every=options.evaluate_every or max(1, rounds // 10),
        devices=options.devices or len(jax.devices()),
    )
    if options.cohort_size > len(task.train_data):
        raise UsageError(
            f"--cohort-size {options.cohort_size} is more than the {len(task.train_data)} clients of {options.data}; "
            f"use --cohort-size {len(task.train_data)} or less"
        )
    if options.devices > len(jax.devices()):
        raise UsageError(
            f"--devices {options.devices} is more than the {len(jax.devices())} that JAX sees here; leave it out, or "
            f"use --devices {len(jax.devices())}"
        )
    return options


def _programs(options: TrainOptions, task: Task, key: jax.Array) -> tuple[LearningProcess, Computation]:
    """The process to train with and the evaluation, on the lanes and devices that the options say."""
    server_optimizer = _SERVER_OPTIMIZERS[options.server_optimizer](options.server_lr)
    if options.algorithm == "fed-sgd":
        process = algorithms.fed_sgd(task.model, server_optimizer=server_optimizer, key=key)
    else:
        client_optimizer = optax.sgd(options.client_lr)
        process = algorithms.fed_avg(task.model, client_optimizer, server_optimizer=server_optimizer, key=key)
    config = EngineConfig(lanes=options.lanes, devices=options.devices)
    process = LearningProcess(
        process.initialize,
        process.next.with_config(config),
        process.report,
        process.get_model_weights,
        process.set_model_weights,
    )
    return process, algorithms.federated_evaluation(task.model).with_config(config)


def _folder(options: TrainOptions) -> program.RunFolder:
    try:
        if options.out is None:
            folder = program.RunFolder.dated("runs", f"{options.data}_{options.algorithm}")
        else:
            folder = program.RunFolder(options.out)
    except FileExistsError:
        raise UsageError(f"--out {options.out} exists and is never overwritten; choose a new folder") from None
    except OSError as error:
        raise UsageError(f"the folder for the results cannot be made: {error}; choose another by --out") from None
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name != "out"}
    folder.write_text("options.json", json.dumps(settings, indent=2) + "\n")
    return folder


def _introduce(options: TrainOptions, task: Task) -> None:
    device = jax.devices()[0].platform.upper() + (" devices" if options.devices > 1 else " device")
    print(
        f"{options.data}: {len(task.train_data)} clients with {task.train_data.sizes.sum()} examples, and "
        f"{task.test_data.sizes.sum()} held out\n"
        f"{options.algorithm}: {options.rounds} rounds of {options.cohort_size} clients on {options.devices} {device}",
        flush=True,
    )


def _rounds_in(folder: program.RunFolder) -> int:
    """How many rounds the folder has the metrics of: an interrupt may come anywhere in a round."""
    table = folder.path / "metrics.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


class _Interrupt:
    """Ctrl-C ends the run after the round that it comes in; a second one at once.

    An exception from a signal handler can come anywhere, also where Python swallows it, as in the
    finalizer of an object.
    """

    def __init__(self):
        self.requested = False
        self._earlier = None

    def __enter__(self) -> "_Interrupt":
        main_thread = threading.current_thread() is threading.main_thread()
        if main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._earlier = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *exception) -> None:
        if self._earlier is not None:
            signal.signal(signal.SIGINT, self._earlier)

    def _request(self, number: int, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _follow(round: program.Round, options: TrainOptions, interrupt: _Interrupt) -> None:
    """Ends the run if that was asked for and, where there is no progress bar, prints a line after each evaluation."""
    if interrupt.requested:
        raise KeyboardInterrupt
    if round.held_out is not None and not rich.console.Console(stderr=True).is_terminal:
        print(f"round {round.number}/{options.rounds}: {round.record.summary()}", flush=True)


def _summarize(history: program.History, folder: program.RunFolder) -> None:
    last = history.records[-1]
    found = program.find_metric(last.held_out, "accuracy")
    left_out = sum(record.metrics.get("client_work/train/num_non_finite_clients", 0) for record in history.records)
    print(f"held-out accuracy {100 * last.held_out[found]:.1f} % after {last.round} rounds in {last.seconds:.1f} s")
    if left_out:
        print(f"{left_out} updates of clients were not finite and left out; lower the learning rates")
    print(f"{folder.path}: {', '.join(sorted(file.name for file in folder.path.iterdir()))}")


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Prints warnings as one line, without the place in the program."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *place: print(f"fedjax-core: {message}", file=sys.stderr)
        yield
