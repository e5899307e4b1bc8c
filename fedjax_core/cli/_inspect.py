"""`fedjax-core evaluate`, `watch` and `describe`, which look at a run and write nothing."""

import contextlib
import json
import logging
import math
import pathlib
from collections.abc import Iterator

from fedjax_core import program
from fedjax_core.cli._config import RunConfig
from fedjax_core.cli._folder import command
from fedjax_core.cli._run import checkpoints_of, plain_words, run_in, run_of
from fedjax_core.cli._values import UsageError


def evaluate(config: RunConfig, folder: pathlib.Path, as_json: bool) -> None:
    """Prints what the evaluation of the latest checkpoint measures.

    Raises:
      UsageError: there is no checkpoint, or it is of another model.
    """
    with plain_words(folder):
        run, told = run_of(config), []
        if not checkpoints_of(run, folder).rounds:
            raise UsageError(f"{folder} has no checkpoint yet to evaluate; wait for one: {command('watch', folder)}")
        run_in(run, folder, {"name": None, "hooks": [told.append]}).evaluate()
    number, metrics = told[0].round, program.flatten_metrics(told[0].metrics)
    metrics = {name.removeprefix("eval/"): value for name, value in metrics.items()}
    if as_json:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # JSON has no NaN
        print(json.dumps({"round": number, **finite}))
        return
    print(f"round {number}/{config.rounds}, {len(run.test_data)} clients with held-out data")
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:{width}}  {value:.6g}")


def watch(config: RunConfig, folder: pathlib.Path, throttle_secs: float) -> None:
    """Prints a line for each new checkpoint until the last round of the run.

    Raises:
      UsageError: a checkpoint is of another model.
    """

    def tell(told: program.EvaluationResult) -> None:
        record = program.Record(told.round, 0.0, 0.0, 0, {}, program.flatten_metrics(told.metrics))
        print(f"round {told.round}/{config.rounds}: {record.summary()}", flush=True)

    with plain_words(folder), _quiet_log():
        run = run_of(config)
        if not checkpoints_of(run, folder).rounds:
            print(f"waiting for the first checkpoint in {folder}", flush=True)
        run_in(run, folder, {"name": None, "hooks": [tell]}).watch(throttle_secs)


def describe(config: RunConfig) -> None:
    """Prints the types of a run's process and evaluation and how they run."""
    run = run_of(config)
    for title, described in (("the process", run.process), ("the evaluation", run.evaluation)):
        print(f"# {title}\n\n{described.describe()}\n")


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Without the remark that there is no new checkpoint, which is no news to those who wait for one."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("fedjax_core")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
