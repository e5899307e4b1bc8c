"""Computations: functions that are traced once, have a type, and are called with ordinary values.

federated_computation  makes one of a function of placed values
computation            makes one of a pure JAX function without placements
Computation            what both return: `type_signature`, calls, `as_function`, `describe`, `with_config`
PolymorphicComputation what both return if no types are given: its arguments determine the types at each call
CheckedResult          what `as_function` of a computation with secure sums returns
plan_text, signature_text    how a computation runs, and its type, as texts with names for long types
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
