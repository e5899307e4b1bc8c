"""How a program runs: plan, packing, execution, and the traced entry.

* `EngineConfig`: the lanes, devices and memory budget of a computation (`computation.with_config`).
* `Layout`: where a computation runs on this machine (`computation.layout`).
* `use_all_cores`: one CPU device per core. `use_compilation_cache`: keeps compiled programs for the next process.
* `CallEstimate`: what a call costs, from `computation.estimate(cohort)`.
* `Cohort`, `ClientSequences`: what a data source gives the engine.
* `PackedCohort`, `pack_cohort`, `stack_cohorts`: cohorts as arrays, for `as_function`.
* `client_digests`, `identities`: the source of all randomness of a client; `mix` and `GOLDEN`: the parts of splitmix64
  that they, and all draws on the host, are made of.
* `ranges`: the rows of several clients, one client after another, and `batch_width`: the size to which batches are
  padded, for writing a `ClientSequences`.
* What computations are built on: `plan_of` and `Executable`, which takes and returns values by node; `as_member`,
  `concrete_member`, `traced_member`, `conform`, `member_type_of_list` and `read_streams` for values without a plan.
"""

from fedjax_core._signposts import signpost
from fedjax_core.engine._cache import use_compilation_cache
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._config import EngineConfig, Layout
from fedjax_core.engine._entries import read_streams
from fedjax_core.engine._executable import CallEstimate, Executable
from fedjax_core.engine._identity import GOLDEN, client_digests, identities, mix
from fedjax_core.engine._lists import member_type_of_list, ranges
from fedjax_core.engine._machine import use_all_cores
from fedjax_core.engine._members import concrete_member, traced_member
from fedjax_core.engine._packed_cohort import PackedCohort, pack_cohort, stack_cohorts
from fedjax_core.engine._plan import plan_of
from fedjax_core.engine._schedule import batch_width
from fedjax_core.engine._values import as_member, conform

__all__ = [
    "GOLDEN",
    "CallEstimate",
    "ClientSequences",
    "Cohort",
    "EngineConfig",
    "Executable",
    "Layout",
    "PackedCohort",
    "as_member",
    "batch_width",
    "client_digests",
    "concrete_member",
    "conform",
    "identities",
    "member_type_of_list",
    "mix",
    "pack_cohort",
    "plan_of",
    "ranges",
    "read_streams",
    "stack_cohorts",
    "traced_member",
    "use_all_cores",
    "use_compilation_cache",
]

signpost(__name__)
