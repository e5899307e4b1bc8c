"""A functional engine for federated computation in JAX."""

from fedjax_core import engine, language, trees, types
from fedjax_core.computation import Computation, computation, federated_computation
from fedjax_core.engine import EngineConfig, pack_cohort, stack_cohorts
from fedjax_core.language import *  # noqa: F403
from fedjax_core.types import *  # noqa: F403
