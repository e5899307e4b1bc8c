"""What settings stand for: data, model, process, evaluation, and the run of them."""

import contextlib
import importlib.util
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from fedjax_core import data, program
from fedjax_core.algorithms import federated_evaluation
from fedjax_core.cli._choices import ALGORITHMS, EXPORTS, RELEASES, SERVER_OPTIMIZERS, TASKS
from fedjax_core.cli._config import RunConfig
from fedjax_core.cli._toml import FILE
from fedjax_core.cli._values import UsageError
from fedjax_core.computations import Computation
from fedjax_core.contracts import Model
from fedjax_core.data import Batching, FederatedData
from fedjax_core.engine import EngineConfig
from fedjax_core.templates import LearningProcess


class Run(NamedTuple):
    """All that a run is made of.

    Attributes:
      config: its settings.
      train_data: the population.
      test_data: what is held out.
      model: to train.
      process: trains it.
      evaluation: measures its weights.
      key: draws cohorts and shuffling.
    """

    config: RunConfig
    train_data: FederatedData
    test_data: FederatedData
    model: Model
    process: LearningProcess
    evaluation: Computation
    key: jax.Array


def run_of(config: RunConfig) -> Run:
    """What settings stand for.

    Raises:
      UsageError: a setting does not suit the data, or needs a package that is not installed.
    """
    _check_installed("releases", config.releases, RELEASES)
    _check_installed("exports", config.exports, EXPORTS)
    data_key, process_key, key = jax.random.split(jax.random.key(config.seed), 3)
    task = TASKS[config.data]
    train_data, test_data = task.data(data_key)
    if config.cohort_size > len(train_data):
        raise UsageError(
            f"--cohort-size {config.cohort_size} is more than the {len(train_data)} clients of {config.data}; use "
            f"--cohort-size {len(train_data)} or less"
        )
    model = task.model()
    engine = EngineConfig(lanes=config.lanes, devices=config.devices)
    server_optimizer = SERVER_OPTIMIZERS[config.server_optimizer].make(config.server_lr)
    process = ALGORITHMS[config.algorithm](model, config, server_optimizer=server_optimizer, key=process_key)
    evaluation = federated_evaluation(model).with_config(engine)
    return Run(config, train_data, test_data, model, process.with_config(engine), evaluation, key)


def _check_installed(option: str, chosen: tuple[str, ...], outlets: dict) -> None:
    for name in chosen:
        for package in outlets[name].packages:
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"--{option} {name} needs {package}, which is not installed; run: "
                    f"pip install 'fedjax-core[{outlets[name].extra}]'"
                )


def run_in(run: Run, folder: pathlib.Path, evaluation: dict[str, Any] | None = None, **more: Any) -> program.Run:
    """The run in a folder; `evaluation` are fields of its `Evaluation`, and `more` arguments of `program.Run`."""
    config = run.config
    every, batching = config.evaluate_every or None, Batching(batch_size=100)
    held_out = program.Evaluation(run.test_data, run.evaluation, batching=batching, every=every)
    return program.Run(
        run.process,
        run.train_data,
        sampler=_participants(run) if config.dropout else config.cohort_size,
        batching=Batching(config.batch_size, config.epochs or 1, shuffle=True),
        rounds=config.rounds,
        folder=folder,
        evaluation=held_out._replace(**(evaluation or {})),
        checkpoints=checkpoints_of(run, folder),
        key=run.key,
        **more,
    )


def checkpoints_of(run: Run, folder: pathlib.Path) -> program.Checkpoints:
    """The checkpoints in the folder of a run."""
    return program.Checkpoints(folder / "checkpoints", every=run.config.checkpoint_every)


def _participants(run: Run) -> Any:
    """The clients that are drawn where none fails, without those that do."""
    drawn = data.uniform_sampler(run.train_data.client_ids, run.config.cohort_size, key=run.key)
    return data.participation(drawn, data.dropout(run.config.dropout, key=run.key), data.minimum_reports(1))


@contextlib.contextmanager
def plain_words(folder: pathlib.Path) -> Iterator[None]:
    """Prints warnings as one line without the place in the program, and refuses the checkpoints of another model."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *place: print(f"fedjax-core: {message}", file=sys.stderr)
        try:
            yield
        except program.CheckpointTypeError as error:
            raise UsageError(f"{folder / FILE} was changed since the checkpoints were written: {error}") from None
