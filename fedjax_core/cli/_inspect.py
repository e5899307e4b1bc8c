"""`fedjax-core evaluate`, `watch` and `describe`, which read a run and write nothing."""

import contextlib
import json
import logging
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from fedjax_core import program
from fedjax_core.cli._config import RunConfig
from fedjax_core.cli._folder import command
from fedjax_core.cli._run import arguments_of, plain_words, run_in
from fedjax_core.cli._values import UsageError
from fedjax_core.contracts import Model


def _reader(folder: pathlib.Path, config: RunConfig, hook: Callable[[program.EvaluationResult], None]) -> program.Run:
    """A run whose evaluations write nothing and call the hook."""
    arguments = arguments_of(config)
    evaluation = arguments["evaluation"]._replace(name=None, hooks=[hook])
    return run_in(folder, config, arguments | {"evaluation": evaluation})


def evaluate(config: RunConfig, folder: pathlib.Path, as_json: bool) -> None:
    """Prints what the evaluation of the latest checkpoint measures.

    Raises:
      UsageError: there is no checkpoint, or it is of another model.
    """
    results = []
    with plain_words(folder):
        run = _reader(folder, config, results.append)
        try:
            run.evaluate()
        except FileNotFoundError:
            wait = command("watch", folder)
            raise UsageError(f"{folder} has no checkpoint yet to evaluate; wait for one: {wait}") from None
    assert run.evaluation is not None  # `arguments_of` has one
    metrics = program.flatten_metrics(results[0].metrics)
    metrics = {name.removeprefix("eval/"): value for name, value in metrics.items()}
    if as_json:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # JSON has no NaN
        print(json.dumps({"round": results[0].round, **finite}))
        return
    print(f"round {results[0].round}/{config.rounds}, {len(run.evaluation.data)} clients with held-out data")
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:{width}}  {value:.6g}")


def watch(config: RunConfig, folder: pathlib.Path, throttle_secs: float) -> None:
    """Prints a line for each new checkpoint until the run is over.

    Raises:
      UsageError: a checkpoint is of another model.
    """

    def show(result: program.EvaluationResult) -> None:
        record = program.Record(result.round, 0.0, 0.0, 0, {}, program.flatten_metrics(result.metrics))
        print(f"round {result.round}/{config.rounds}: {record.summary()}", flush=True)

    with plain_words(folder), _quiet_log():
        run = _reader(folder, config, show)
        assert run.checkpoints is not None
        if not run.checkpoints.rounds:
            print(f"waiting for the first checkpoint in {folder}", flush=True)
        run.watch(throttle_secs)


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Silences the warning that there is no new checkpoint, which the user of `watch` expects."""
    logger = logging.getLogger("fedjax_core")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def describe(config: RunConfig, folder: pathlib.Path | None, try_rounds: int) -> None:
    """Prints the types of a run's process and evaluation, how they run, and the cost of the run.

    Raises:
      UsageError: the checkpoint in the folder is of another model.
    """
    arguments = arguments_of(config)
    without_exports: dict[str, Any] = {**arguments, "exports": ()}
    run = program.Run(**without_exports) if folder is None else run_in(folder, config, arguments)
    assert run.evaluation is not None and not isinstance(run.evaluation.by, Model)  # a run has replaced a model
    with plain_words(folder):
        texts = {
            "the process": run.process.describe(),
            "the evaluation": run.evaluation.by.describe(),
            "the run": run.estimate(try_rounds),
        }
    for title, text in texts.items():
        print(f"# {title}\n\n{text}\n")
