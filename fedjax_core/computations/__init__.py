"""Computations: functions that were traced once, have a type, and are called with ordinary values.

federated_computation  a function of placed values, with or without the types of its arguments
computation            a pure JAX function without placements
Computation            what both give: `type_signature`, calls, `as_function`, `describe`, `with_config`
PolymorphicComputation one that is typed at each first use by its arguments
CheckedResult          what `as_function` returns of a computation with secure sums
"""

from fedjax_core._signposts import signpost
from fedjax_core.computations._computation import Computation, plan_text, signature_text
from fedjax_core.computations._decorators import PolymorphicComputation, computation, federated_computation
from fedjax_core.computations._federated_body import CheckedResult

__all__ = [
    "CheckedResult",
    "Computation",
    "PolymorphicComputation",
    "computation",
    "federated_computation",
    "plan_text",
    "signature_text",
]

signpost(__name__)
