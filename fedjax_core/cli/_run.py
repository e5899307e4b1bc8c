"""Builds a `program.Run` from settings."""

import contextlib
import importlib.util
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from fedjax_core import aggregators, data, privacy, program
from fedjax_core.algorithms import federated_evaluation
from fedjax_core.cli._choices import ALGORITHMS, EXPORTS, RELEASES, SERVER_OPTIMIZERS, TASKS
from fedjax_core.cli._config import RunConfig
from fedjax_core.cli._toml import FILE
from fedjax_core.cli._values import UsageError
from fedjax_core.engine import EngineConfig


def arguments_of(config: RunConfig) -> dict[str, Any]:
    """The arguments of `program.Run`, except those that need its folder.

    Raises:
      UsageError: a setting does not fit the data, or needs a package that is not installed.
    """
    _check_installed(config)
    data_key, process_key, key = jax.random.split(jax.random.key(config.seed), 3)
    task = TASKS[config.data]
    train_data, test_data = task.data(data_key)
    if config.cohort_size > len(train_data):
        raise UsageError(
            f"--cohort-size {config.cohort_size} is more than the {len(train_data)} clients of {config.data}; use "
            f"--cohort-size {len(train_data)} or less"
        )
    model, engine = task.model(), EngineConfig(lanes=config.lanes, devices=config.devices)
    server_optimizer = SERVER_OPTIMIZERS[config.server_optimizer].make(config.server_lr)
    process = ALGORITHMS[config.algorithm](
        model, config, server_optimizer=server_optimizer, aggregator=_aggregator(config, process_key), key=process_key
    )
    evaluation = federated_evaluation(model).with_config(engine)
    every, batches_of_100 = config.evaluate_every or None, data.Batching(batch_size=100)
    return {
        "process": process.with_config(engine),
        "train_data": train_data,
        "sampler": _sampler(config, train_data, key),
        "batching": data.Batching(config.batch_size, config.epochs or 1, shuffle=True),
        "rounds": _rounds(config),
        "evaluation": program.Evaluation(test_data, evaluation, batching=batches_of_100, every=every),
        "accounting": _accounting(config, len(train_data)),
        "exports": [EXPORTS[name].make(model) for name in config.exports],
        "key": key,
    }


def run_in(folder: pathlib.Path, config: RunConfig, arguments: dict[str, Any]) -> program.Run:
    """The run in a folder, with its checkpoints."""
    checkpoints = program.Checkpoints(folder / "checkpoints", every=config.checkpoint_every)
    return program.Run(**arguments, folder=folder, checkpoints=checkpoints)


def _aggregator(config: RunConfig, key: jax.Array) -> Any:
    if not config.noise_multiplier:
        return aggregators.mean()
    key = jax.random.fold_in(key, 1)  # the process consumes the key itself
    return aggregators.private_mean(config.max_norm, config.noise_multiplier, config.cohort_size, key=key)


def _accounting(config: RunConfig, population: int) -> privacy.Accounting | None:
    """The privacy cost of the rounds; a client that fails after it was selected costs no less."""
    if not config.noise_multiplier:
        return None
    sampling = privacy.fixed_size(config.cohort_size, population)
    return privacy.accounting(noise_multiplier=config.noise_multiplier, delta=config.delta, sampling=sampling)


def _sampler(config: RunConfig, train_data: data.FederatedData, key: jax.Array) -> Any:
    """The cohort size, or a sampler that leaves out the clients that fail."""
    if not config.dropout:
        return config.cohort_size
    drawn = data.uniform_sampler(train_data.client_ids, config.cohort_size, key=key)
    return data.participation(drawn, data.dropout(config.dropout, key=key), data.minimum_reports(1))


def _rounds(config: RunConfig) -> int | program.EarlyStopping:
    if not config.patience:
        return config.rounds
    return program.EarlyStopping("held_out/eval/loss", config.patience, max_rounds=config.rounds)


def _check_installed(config: RunConfig) -> None:
    outlets = {f"--releases {name}": RELEASES[name] for name in config.releases}
    outlets |= {f"--exports {name}": EXPORTS[name] for name in config.exports}
    needed = {option: (outlet.packages, outlet.extra) for option, outlet in outlets.items()}
    if config.noise_multiplier:
        needed[f"--noise-multiplier {config.noise_multiplier:g}"] = (("dp_accounting",), "privacy")
    for option, (packages, extra) in needed.items():
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"{option} needs {package}, which is not installed; run: pip install 'fedjax-core[{extra}]'"
                )


@contextlib.contextmanager
def plain_words(folder: pathlib.Path | None) -> Iterator[None]:
    """Prints warnings as one line without a source location; checkpoints of another model raise a UsageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *place: print(f"fedjax-core: {message}", file=sys.stderr)
        try:
            yield
        except program.CheckpointTypeError as error:
            assert folder is not None  # it holds the checkpoints
            raise UsageError(f"{folder / FILE} has changed since the checkpoints were written: {error}") from None
