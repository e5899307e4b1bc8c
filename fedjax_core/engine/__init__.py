"""How a program runs: plan, packing, execution, and the traced entry.

* `EngineConfig`: lanes and devices of a computation (`computation.with_config`).
* `use_all_cores`: one CPU device per core. `use_compilation_cache`: what is compiled is kept for the next process.
* `Cohort`, `ClientSequences`: what a data source gives the engine.
* `PackedCohort`, `pack_cohort`, `stack_cohorts`: cohorts as arrays, for `as_function`.
* `client_digests`, `identities`: where all randomness of a client comes from.
"""

from fedjax_core._signposts import signpost
from fedjax_core.engine._cohort import ClientSequences, Cohort, client_digests, identities
from fedjax_core.engine._compilation_cache import use_compilation_cache
from fedjax_core.engine._config import EngineConfig
from fedjax_core.engine._machine import use_all_cores
from fedjax_core.engine._traced import PackedCohort, pack_cohort, stack_cohorts

__all__ = [
    "ClientSequences",
    "Cohort",
    "EngineConfig",
    "PackedCohort",
    "client_digests",
    "identities",
    "pack_cohort",
    "stack_cohorts",
    "use_all_cores",
    "use_compilation_cache",
]

signpost(__name__)
