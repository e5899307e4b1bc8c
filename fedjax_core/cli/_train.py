"""`fedjax-core train` and `fedjax-core resume`."""

import contextlib
import csv
import pathlib
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
import rich.console

from fedjax_core import program
from fedjax_core.cli._choices import EXPORTS, RELEASES
from fedjax_core.cli._config import RunConfig
from fedjax_core.cli._folder import command, new_folder
from fedjax_core.cli._run import Run, checkpoints_of, plain_words, run_in, run_of
from fedjax_core.cli._toml import FILE, config_text
from fedjax_core.cli._values import UsageError
from fedjax_core.engine import EngineConfig
from fedjax_core.program._sole_writer import sole_writer


def train(config: RunConfig, out: pathlib.Path | None) -> None:
    """Trains in a new folder and prints what it gave.

    Raises:
      UsageError: a setting does not suit the data or the machine, or the folder is not new.
      OSError: a file cannot be written.
      KeyboardInterrupt: after Ctrl-C, with a message that says how to go on.
    """
    run = run_of(config)
    folder = new_folder(out, config).path
    _introduce(run)
    _train(run, folder)


def resume(config: RunConfig, folder: pathlib.Path) -> None:
    """Goes on with the run in a folder, as `train` does.

    Raises:
      UsageError: a setting does not suit the data, the machine or the run, or another process trains in the folder.
      OSError: a file cannot be written.
      KeyboardInterrupt: as for `train`.
    """
    with plain_words(folder):
        run = run_of(config)
        try:
            with sole_writer(folder):
                done = _prepared(run, folder)
        except BlockingIOError:
            seen = command("watch", folder)
            raise UsageError(f"another process is training in {folder}; see how it goes: {seen}") from None
    if done is None:
        more = command("resume", folder, "--rounds", run.config.rounds * 2)
        print(f"{folder} has all its {run.config.rounds} rounds, so there is nothing to do; for more: {more}")
        return
    _introduce(run)
    print(f"goes on after round {done}" if done else "begins with round 1, as it has no checkpoint", flush=True)
    _train(run, folder)


def _prepared(run: Run, folder: pathlib.Path) -> int | None:
    """Makes the folder ready for the rest of its run.

    Returns:
      The rounds behind it; None if nothing is left to do.
    """
    latest = checkpoints_of(run, folder).restore(run.process.initialize())
    if latest is not None:
        _check_goes_on(run, folder, latest)
    done = 0 if latest is None else latest.round
    if done == run.config.rounds and _is_finished(run, folder, latest):
        return None
    files = program.RunFolder(folder, resume=True)
    files.write_text(FILE, config_text(run.config.options()))
    if done == run.config.rounds:
        files.finish(run.process.get_model_weights(latest.state), latest.history)
    return done


def _check_goes_on(run: Run, folder: pathlib.Path, latest: program.Checkpoint) -> None:
    """Refuses fewer rounds than there were, and devices that would change the bits."""
    if run.config.rounds < latest.round:
        raise UsageError(
            f"--rounds {run.config.rounds} is less than the {latest.round} that the run in {folder} has behind it; "
            f"use --rounds {latest.round * 2}"
        )
    before = latest.environment["virtual_shards"]
    if run.process.next.config.resolve().shards != before:
        numbers = range(1, len(jax.devices()) + 1)
        fitting = [str(n) for n in numbers if EngineConfig(devices=n).resolve().shards == before]
        raise UsageError(
            f"--devices {run.config.devices} would change the last bits of the run in {folder}, which deals the "
            f"clients to {before} parts; use {' or '.join(fitting) or 'a machine with more'}"
        )


def _is_finished(run: Run, folder: pathlib.Path, latest: program.Checkpoint) -> bool:
    """Whether what the run leaves at its end is there: it may have died before."""
    weights = run.process.get_model_weights(latest.state)
    try:
        saved = program.load_weights(folder / "weights.npz", like=weights)
    except (OSError, ValueError):
        return False
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), saved, weights)
    return all(jax.tree.leaves(same)) and all((folder / "exports" / name).is_dir() for name in run.config.exports)


def _train(run: Run, folder: pathlib.Path) -> None:
    rounds = run.config.rounds
    try:
        with plain_words(folder), _releases(run, folder) as releases, _interrupt() as interrupt:
            exports = [EXPORTS[name].make(run.model) for name in run.config.exports]
            outlets = {"on_round": lambda round: _follow(round, rounds, interrupt), "releases": releases}
            result = run_in(run, folder, exports=exports, **outlets).train()
    except KeyboardInterrupt:
        kept = len(_table(folder))
        raise KeyboardInterrupt(
            f"stopped by Ctrl-C after {kept} of {rounds} rounds; {folder} holds {'their' if kept else 'no'} results; "
            f"go on: {command('resume', folder)}"
        ) from None
    _summarize(result.held_out, folder)


@contextlib.contextmanager
def _releases(run: Run, folder: pathlib.Path) -> Iterator[list[program.ReleaseManager]]:
    """Where the metrics of the rounds go, besides metrics.csv."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(RELEASES[name].make(folder))) for name in run.config.releases]


def _introduce(run: Run) -> None:
    config = run.config
    device = jax.devices()[0].platform.upper() + (" devices" if config.devices > 1 else " device")
    print(
        f"{config.data}: {len(run.train_data)} clients with {run.train_data.sizes.sum()} examples, and "
        f"{run.test_data.sizes.sum()} held out\n"
        f"{config.algorithm}: {config.rounds} rounds of {config.cohort_size} clients on {config.devices} {device}",
        flush=True,
    )


def _table(folder: pathlib.Path) -> list[dict[str, str]]:
    """What the folder has of each round: an interrupt may come anywhere in one."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the run ends after its round; a second one ends it at once.

    An exception from a signal handler can come anywhere, also where Python swallows it, as in the
    finalizer of an object.
    """
    requested = threading.Event()

    def request(number: int, frame) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield requested
        return
    earlier = signal.signal(signal.SIGINT, request)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, earlier)


def _follow(round: program.Round, rounds: int, interrupt: threading.Event) -> None:
    """Ends the run if that was asked for and, where there is no progress bar, prints a line after each evaluation."""
    if interrupt.is_set():
        raise KeyboardInterrupt
    if round.held_out is not None and not rich.console.Console(stderr=True).is_terminal:
        print(f"round {round.number}/{rounds}: {round.record.summary()}", flush=True)


def _summarize(metrics: dict, folder: pathlib.Path) -> None:
    held_out, rows = program.flatten_metrics(metrics), _table(folder)
    accuracy = 100 * held_out[program.find_metric(held_out, "accuracy")]
    counts = [f"client_work/train/num_non_finite_clients/{reason}" for reason in ("update", "weight", "metrics")]
    left_out = sum(int(row.get(count) or 0) for row in rows for count in counts)
    print(f"held-out accuracy {accuracy:.1f} % after {len(rows)} rounds in {float(rows[-1]['seconds']):.1f} s")
    if left_out:
        print(f"{left_out} updates of clients were not finite and left out; lower the learning rates")
    print(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
