"""What a configuration stands for: data, model, process, evaluation, and the experiment of them."""

import contextlib
import dataclasses
import functools
import importlib.util
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import optax

from fedjax_core import algorithms, data, program
from fedjax_core._cli_config import RunConfig
from fedjax_core._cli_tasks import TASKS, Task
from fedjax_core._cli_toml import FILE
from fedjax_core._cli_values import UsageError
from fedjax_core.computations import Computation
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
_EXTRAS = {
    "tensorboard": ("tensorboard", ["tensorboardX"]),
    "weights": ("export", ["safetensors"]),
    "predict": ("export", ["safetensors", "flatbuffers"]),
}


class Run(NamedTuple):
    """All that a run is made of.

    Attributes:
      config: with a value for every option.
      task: its data and model.
      process: what is trained.
      evaluation: on the held-out data.
      key: draws cohorts and shuffling.
    """

    config: RunConfig
    task: Task
    process: LearningProcess
    evaluation: Computation
    key: jax.Array


def run_of(config: RunConfig) -> Run:
    """What a configuration from `with_defaults` stands for, on this machine.

    Raises:
      UsageError: an option does not suit the data or the machine.
    """
    _check_installed(config)
    data_key, process_key, train_key = jax.random.split(jax.random.key(config.seed), 3)
    task = TASKS[config.data](data_key)
    config = _on_machine(config, task)
    return Run(config, task, *_programs(config, task, process_key), train_key)


def experiment_of(run: Run, folder: pathlib.Path, **more: Any) -> program.Experiment:
    """The experiment in a folder; `more` are arguments of `Experiment`."""
    config = run.config
    return program.Experiment(
        run.process,
        run.task.train_data,
        run.task.test_data,
        cohort_size=None if config.dropout else config.cohort_size,
        participants=_participants(run) if config.dropout else None,
        batching=Batching(config.batch_size, config.epochs or 1, shuffle=True),
        eval_batching=Batching(batch_size=100),
        key=run.key,
        evaluation=run.evaluation,
        train_rounds=config.rounds,
        min_eval_frequency=config.evaluate_every,
        checkpoints=checkpoints_of(run, folder),
        run_dir=folder,
        **more,
    )


def checkpoints_of(run: Run, folder: pathlib.Path) -> program.Checkpoints:
    """The checkpoints in the folder of a run."""
    return program.Checkpoints(folder / "checkpoints", every=run.config.checkpoint_every)


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


def _check_installed(config: RunConfig) -> None:
    for option, values in (("releases", config.releases), ("exports", config.exports)):
        for value in values:
            extra, packages = _EXTRAS.get(value, ("", []))
            missing = [package for package in packages if importlib.util.find_spec(package) is None]
            if missing:
                raise UsageError(
                    f"--{option} {value} needs {missing[0]}, which is not installed; run: "
                    f"pip install 'fedjax-core[{extra}]'"
                )


def _on_machine(config: RunConfig, task: Task) -> RunConfig:
    """The configuration with devices and lanes, checked against the data and the machine."""
    clients, available = len(task.train_data), len(jax.devices())
    if config.cohort_size > clients:
        raise UsageError(
            f"--cohort-size {config.cohort_size} is more than the {clients} clients of {config.data}; use "
            f"--cohort-size {clients} or less"
        )
    devices = config.devices or available
    if devices > available:
        raise UsageError(
            f"--devices {devices} is more than the {available} that JAX sees here; leave it out, or use "
            f"--devices {available}"
        )
    layout = EngineConfig(lanes=config.lanes, devices=devices).resolve()
    return dataclasses.replace(config, devices=devices, lanes=layout.lanes)


def _programs(config: RunConfig, task: Task, key: jax.Array) -> tuple[LearningProcess, Computation]:
    """The process to train with and the evaluation, on the lanes and devices of the configuration."""
    server_optimizer = _SERVER_OPTIMIZERS[config.server_optimizer](config.server_lr)
    if config.algorithm == "fed-sgd":
        process = algorithms.fed_sgd(task.model, server_optimizer=server_optimizer, key=key)
    else:
        client_optimizer = optax.sgd(config.client_lr)
        process = algorithms.fed_avg(task.model, client_optimizer, server_optimizer=server_optimizer, key=key)
    engine = EngineConfig(lanes=config.lanes, devices=config.devices)
    return process.with_config(engine), algorithms.federated_evaluation(task.model).with_config(engine)


def _participants(run: Run) -> Any:
    """The clients that are drawn where none fails, without those that do."""
    drawn = data.uniform_sampler(run.task.train_data.client_ids, run.config.cohort_size, key=run.key)
    return data.participation(drawn, data.dropout(run.config.dropout, key=run.key), data.minimum_reports(1))
