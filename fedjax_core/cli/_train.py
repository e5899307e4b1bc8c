"""`fedjax-core train` and `fedjax-core resume`."""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import rich.console

from fedjax_core import program
from fedjax_core.cli._choices import RELEASES
from fedjax_core.cli._config import RunConfig
from fedjax_core.cli._folder import command, new_folder, save_options
from fedjax_core.cli._run import arguments_of, plain_words, run_in
from fedjax_core.cli._values import UsageError
from fedjax_core.engine import EngineConfig


def train(config: RunConfig, out: pathlib.Path | None) -> None:
    """Trains in a new folder and prints a summary of the results.

    Raises:
      UsageError: a setting does not fit the data or the machine, or the folder is not new.
      OSError: a file cannot be written.
      KeyboardInterrupt: the user has pressed Ctrl-C; the message says how to continue.
    """
    arguments = arguments_of(config)
    folder = new_folder(out, config).path
    _introduce(config, arguments)
    _train(folder, config, arguments)


def resume(config: RunConfig, folder: pathlib.Path) -> None:
    """Continues the run in a folder, and prints a summary as `train` does.

    Raises:
      UsageError: a setting does not fit the data, the machine or the run, or another process trains in the folder.
      OSError: a file cannot be written.
      KeyboardInterrupt: as in `train`.
    """
    with plain_words(folder):
        arguments = arguments_of(config)
        run = run_in(folder, config, arguments)
        try:
            with program.sole_writer(folder):
                latest = run.restore()
                if latest is not None:
                    _check_goes_on(run, config, latest)
                save_options(program.RunFolder(folder, resume=True), config)
        except BlockingIOError:
            seen = command("watch", folder)
            raise UsageError(f"another process is training in {folder}; to watch it: {seen}") from None
        done = 0 if latest is None else latest.round
        if done == config.rounds:
            run.train()  # writes what a process that was killed at the very end did not
            more = command("resume", folder, "--rounds", done * 2)
            print(f"{folder} has all its {done} rounds, so there is nothing to do; for more: {more}")
            return
    _introduce(config, arguments)
    print(f"continues after round {done}" if done else "begins with round 1, since there is no checkpoint", flush=True)
    _train(folder, config, arguments)


def _check_goes_on(run: program.Run, config: RunConfig, latest: program.Checkpoint) -> None:
    """Raises UsageError for fewer rounds than the run has completed, or for devices that would change its bits."""
    if config.rounds < latest.round:
        raise UsageError(
            f"--rounds {config.rounds} is less than the {latest.round} rounds that the run in {run.folder} has "
            f"completed; use --rounds {latest.round * 2}"
        )
    before = latest.environment["virtual_shards"]
    if _virtual_shards(run, config.devices) != before:
        numbers = range(1, len(jax.devices()) + 1)
        fitting = [str(n) for n in numbers if _virtual_shards(run, n) == before]
        raise UsageError(
            f"--devices {config.devices} would change the last bits of the run in {run.folder}, which has {before} "
            f"virtual shards; use {' or '.join(fitting) or 'a machine with more'}"
        )


def _virtual_shards(run: program.Run, devices: int | None) -> int:
    layout = run.process.next.with_config(EngineConfig(devices=devices)).layout
    assert layout is not None  # a round has placements
    return layout.leaves


def _train(folder: pathlib.Path, config: RunConfig, arguments: dict[str, Any]) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(plain_words(folder))
        releases = [RELEASES[name].make(folder) for name in config.releases]
        for manager in releases:
            stack.callback(manager.close)
        interrupt = stack.enter_context(_interrupt())
        more = {"releases": releases, "on_round": lambda round: _follow(round, config.rounds, interrupt)}
        run = run_in(folder, config, arguments | more)
        try:
            result = run.train()
        except KeyboardInterrupt:
            assert run.checkpoints is not None
            kept = max(run.checkpoints.rounds, default=0)
            raise KeyboardInterrupt(
                f"stopped by Ctrl-C after {kept} of {config.rounds} rounds; {folder} holds "
                f"{'their' if kept else 'no'} results; to continue: {command('resume', folder)}"
            ) from None
    _summarize(result, config, folder)


def _introduce(config: RunConfig, arguments: dict[str, Any]) -> None:
    train_data, test_data = arguments["train_data"], arguments["evaluation"].data
    device = jax.devices()[0].platform.upper() + (" devices" if config.devices > 1 else " device")
    print(
        f"{config.data}: {len(train_data)} clients with {train_data.sizes.sum()} examples, and "
        f"{test_data.sizes.sum()} held out\n"
        f"{config.algorithm}: {config.rounds} rounds of {config.cohort_size} clients on {config.devices} {device}",
        flush=True,
    )


@contextlib.contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the run ends after its round; a second one ends it at once.

    Raising from the signal handler would not do: the exception may come anywhere, even where Python swallows it, as in
    the finalizer of an object.
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
    """Ends the run after Ctrl-C; without a progress bar, prints a line after each evaluation."""
    if interrupt.is_set():
        raise KeyboardInterrupt
    if round.held_out is not None and not rich.console.Console(stderr=True).is_terminal:
        print(f"round {round.number}/{rounds}: {round.record.summary()}", flush=True)


def _summarize(result: program.TrainResult, config: RunConfig, folder: pathlib.Path) -> None:
    held_out, records = program.flatten_metrics(result.held_out), result.history.records
    name = program.find_metric(held_out, "accuracy")
    assert name is not None  # every task measures it
    accuracy = 100 * held_out[name]
    print(f"held-out accuracy {accuracy:.1f} % after {len(records)} rounds in {records[-1].seconds:.1f} s")
    if len(records) < config.rounds:
        print(f"ended before round {config.rounds}, since the held-out loss no longer improved (--patience)")
    if config.noise_multiplier:
        print(f"privacy: epsilon {records[-1].metrics['privacy/epsilon']:.2f} at delta {config.delta:g}")
    counts = "client_work/train/num_non_finite_clients"
    left_out = sum(value for record in records for name, value in record.metrics.items() if name.startswith(counts))
    if left_out:
        print(f"{left_out:.0f} client updates were not finite and were left out; lower the learning rates")
    print(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
