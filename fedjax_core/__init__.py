"""A functional engine for federated computation in JAX.

The rooms, each importing only from those above it:

  types         placements, types, their notation
  trees         arithmetic on pytrees
  language      placed values, the `federated_*` operators, `ClientBatches`
  engine        how a program runs: plan, packing, execution
  computations  `federated_computation`, `computation`
  templates     processes and their contracts
  contracts     the NamedTuples that the rooms below fill
  model_calls   how a model is called: predictions, losses, metrics of a batch
  data          federated data sets, batching, partitioners
  aggregators, metrics, models, clients, privacy    the catalogue
  algorithms    the round and its callers
  program       training loops, files, plots
  participant   one real participant of a federation and its messages
  cli           the command line
  testing       laws to check your own against

The everyday names are here:

  >>> import fedjax_core as fc
  >>> @fc.federated_computation(fc.at_clients("float32"))
  ... def mean_temperature(readings):
  ...     return fc.federated_mean(readings)
  >>> mean_temperature([68.0, 70.0, 71.5])
  Array(69.833336, dtype=float32)
"""

import importlib
from typing import TYPE_CHECKING

from fedjax_core import computations, contracts, engine, language, model_calls, templates, trees, types
from fedjax_core._signposts import missing
from fedjax_core.computations import computation, federated_computation
from fedjax_core.contracts import Aggregator, Metric, Model
from fedjax_core.engine import EngineConfig, pack_cohort, stack_cohorts, use_all_cores, use_compilation_cache
from fedjax_core.language import (
    federated_aggregate,
    federated_broadcast,
    federated_client_index,
    federated_client_value,
    federated_collect,
    federated_eval,
    federated_map,
    federated_max,
    federated_mean,
    federated_min,
    federated_scatter,
    federated_secure_modular_sum,
    federated_secure_sum,
    federated_secure_sum_bitwidth,
    federated_select,
    federated_split_key,
    federated_sum,
    federated_trim,
    federated_value,
    federated_zip,
)
from fedjax_core.types import CLIENTS, SERVER, at_clients, at_server

if TYPE_CHECKING:  # for editors and type checkers: the heavier rooms are imported only at their first use
    from fedjax_core import (
        aggregators,
        algorithms,
        cli,
        clients,
        data,
        metrics,
        models,
        participant,
        privacy,
        program,
        testing,
    )

__version__ = "0.1.0"
__all__ = [
    "CLIENTS",
    "SERVER",
    "Aggregator",
    "EngineConfig",
    "Metric",
    "Model",
    "aggregators",
    "algorithms",
    "at_clients",
    "at_server",
    "cli",
    "clients",
    "computation",
    "computations",
    "contracts",
    "data",
    "engine",
    "federated_aggregate",
    "federated_broadcast",
    "federated_client_index",
    "federated_client_value",
    "federated_collect",
    "federated_computation",
    "federated_eval",
    "federated_map",
    "federated_max",
    "federated_mean",
    "federated_min",
    "federated_scatter",
    "federated_secure_modular_sum",
    "federated_secure_sum",
    "federated_secure_sum_bitwidth",
    "federated_select",
    "federated_split_key",
    "federated_sum",
    "federated_trim",
    "federated_value",
    "federated_zip",
    "language",
    "metrics",
    "model_calls",
    "models",
    "pack_cohort",
    "participant",
    "privacy",
    "program",
    "stack_cohorts",
    "templates",
    "testing",
    "trees",
    "types",
    "use_all_cores",
    "use_compilation_cache",
]


if not TYPE_CHECKING:  # type checkers assume that a module with a `__getattr__` has every name

    def __getattr__(name: str):
        """Imports a room at its first use, or raises an error that says where the name is."""
        if name in __all__:
            return importlib.import_module(f"fedjax_core.{name}")
        raise missing(__name__, name)


def __dir__():
    return sorted(__all__)
