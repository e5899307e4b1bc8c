"""What an experiment is configured by, as plain values and as a file."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from typing import Any

import jax

from fedjax_core import types
from fedjax_core.data import Batching
from fedjax_core.program._checks import (
    check_batching,
    check_eval_batching,
    check_switch,
    checked_count,
    checked_not_negative,
)
from fedjax_core.program._run_folder import RunFolder

_PACKAGES = ("fedjax-core", "jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """The plain values of an `Experiment`, whose arguments they are.

    Attributes:
      run_dir: the folder, as a text.
      key_data: the bits of the key.
      cohort_size: clients a round; None where `participants` says who takes part.
      batching: how a client's examples become batches.
      eval_batching: the same of an evaluation.
      train_rounds: the number of the last round; None for ever.
      eval_steps: batches of an evaluation; None for all.
      eval_delay_secs: seconds before an evaluation.
      throttle_secs: seconds from the start of an evaluation to the next one.
      min_eval_frequency: rounds between two evaluations; 0 for one at the end.
      delay_by_round: whether a worker begins when the job has reached a round.
      delay_scale: the factor of that round.
      worker: the number of this process among the workers of the job.
    """

    run_dir: str
    key_data: tuple[int, ...]
    cohort_size: int | None
    batching: Batching
    eval_batching: Batching
    train_rounds: int | None
    eval_steps: int | None
    eval_delay_secs: float
    throttle_secs: float
    min_eval_frequency: int
    delay_by_round: bool
    delay_scale: float
    worker: int


def checked_config(
    *, run_dir: str | os.PathLike, key: jax.Array, batching: Batching, eval_batching: Batching | None, **values: Any
) -> ExperimentConfig:
    """The configuration of the arguments of an `Experiment`.

    Raises:
      TypeError, ValueError: one of them is of another kind, or out of its range.
    """
    check_batching("Experiment", "batching", batching)
    eval_batching = Batching(batching.batch_size) if eval_batching is None else eval_batching
    check_eval_batching("Experiment", eval_batching)
    for name in ("train_rounds", "eval_steps"):
        values[name] = None if values[name] is None else checked_count("Experiment", name, values[name])
    values["min_eval_frequency"] = 0 if values["min_eval_frequency"] is None else values["min_eval_frequency"]
    for name in ("min_eval_frequency", "worker"):
        values[name] = checked_count("Experiment", name, values[name], least=0)
    for name in ("eval_delay_secs", "throttle_secs", "delay_scale"):
        values[name] = checked_not_negative("Experiment", name, values[name])
    check_switch("Experiment", "delay_by_round", values["delay_by_round"])
    key_data = tuple(jax.random.key_data(key).tolist())
    return ExperimentConfig(os.fspath(run_dir), key_data, batching=batching, eval_batching=eval_batching, **values)


def save_config(folder: RunFolder, config: ExperimentConfig, state_type: types.Type) -> None:
    """Writes `experiment.json`: the configuration, and what else the results depend on.

    Args:
      folder: of the run.
      config: the configuration.
      state_type: of the process's state.
    """
    about = {
        "config": dataclasses.asdict(config),
        "state": str(state_type),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "devices": _devices(),
    }
    folder.write_text("experiment.json", json.dumps(about, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    kinds = [device.device_kind for device in jax.devices()]
    return {
        "platform": jax.default_backend(),
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "processes": jax.process_count(),
    }
