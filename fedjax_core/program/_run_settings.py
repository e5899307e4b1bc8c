"""The settings of a run, as plain values and as a file."""

import dataclasses
import importlib.metadata
import json
import platform
from typing import Any

import jax

from fedjax_core import types
from fedjax_core.data import Batching
from fedjax_core.program._early_stopping import EarlyStopping
from fedjax_core.program._run_folder import RunFolder

_PACKAGES = ("fedjax-core", "jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The plain values among the arguments of a `Run`.

    Attributes:
      key_data: the bits of the key.
      cohort_size: the number of clients a round; None if a function draws them.
      population: the number of clients in the training data.
      batching: how a client's examples become batches.
      rounds: the number of the last round, or an `EarlyStopping`; None for no end.
      eval_batching: the batching of an evaluation; None without an evaluation.
      eval_steps: the number of batches at which an evaluation stops; None for no limit, or without an evaluation.
      eval_every: the rounds from one evaluation to the next; None for only one at the end, or without an evaluation.
      checkpoint_every: the rounds from one checkpoint to the next; None without checkpoints.
    """

    key_data: tuple[int, ...]
    cohort_size: int | None
    population: int
    batching: Batching
    rounds: int | EarlyStopping | None
    eval_batching: Batching | None
    eval_steps: int | None
    eval_every: int | None
    checkpoint_every: int | None

    def identity(self) -> dict[str, Any]:
        """What decides, with the number of a round, who takes part and in which batches, as a JSON value."""
        return {
            "key": list(self.key_data),
            "cohort_size": self.cohort_size,
            "population": self.population,
            "batching": dataclasses.asdict(self.batching),
        }


def save_settings(folder: RunFolder, settings: RunSettings, state_type: types.Type) -> None:
    """Writes `run.json`: the settings, and everything else that the results depend on.

    Args:
      folder: the run's folder.
      settings: the settings.
      state_type: the type of the process's state.
    """
    about = {
        "settings": dataclasses.asdict(settings),
        "state": str(state_type),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "devices": _devices(),
    }
    folder.write_text("run.json", json.dumps(about, indent=2) + "\n")


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
