"""What a run is set to, as plain values and as a file."""

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
      cohort_size: clients a round; None where a function draws them.
      population: how many clients there are.
      batching: how a client's examples become batches.
      rounds: the number of the last round, what else ends the run, or None for neither.
      eval_batching: the batching of an evaluation; None without an evaluation, like what follows.
      eval_steps: batches of an evaluation; None for all.
      eval_every: rounds between two evaluations; None for one at the end alone.
      checkpoint_every: rounds between two checkpoints; None without checkpoints.
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
        """What decides, with the number of a round, who takes part in it and in which batches; JSON."""
        return {
            "key": list(self.key_data),
            "cohort_size": self.cohort_size,
            "population": self.population,
            "batching": dataclasses.asdict(self.batching),
        }


def save_settings(folder: RunFolder, settings: RunSettings, state_type: types.Type) -> None:
    """Writes `run.json`: the settings, and what else the results depend on.

    Args:
      folder: of the run.
      settings: the settings.
      state_type: of the process's state.
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
