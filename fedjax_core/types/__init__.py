"""Types of federated values: placements, the type classes, their notation, assignability.

A type says what a value is and, if it is federated, where it lives. `str(t)` is its compact
notation and `parse_type` reads it back; two types are equal if their notations are equal. Any
registered pytree is a struct. Its type keeps the Python container, so that a value comes back in
its own container; the notation hides the container.

Example:
  >>> from fedjax_core.types import at_clients, parse_type
  >>> weights = at_clients({"w": "float32[784,10]", "b": "float32[10]"})
  >>> str(weights)
  '{<b=float32[10],w=float32[784,10]>}@CLIENTS'
  >>> parse_type("<float32[?],int32>").is_assignable_from(parse_type("<float32[3],int32>"))
  True
"""

from fedjax_core._signposts import signpost
from fedjax_core.types._base import CLIENTS, SERVER, Placement, Type, TypeNotAssignableError, of_kind
from fedjax_core.types._classes import (
    FederatedType,
    FunctionType,
    SequenceType,
    StructType,
    TensorType,
    parse_type,
    to_type,
)
from fedjax_core.types._layout import laid_out, shortened
from fedjax_core.types._values import (
    at_clients,
    at_server,
    matched,
    matched_type,
    member_of,
    tree_of_types,
    type_leaves,
    type_of,
)

__all__ = [
    "CLIENTS",
    "SERVER",
    "FederatedType",
    "FunctionType",
    "Placement",
    "SequenceType",
    "StructType",
    "TensorType",
    "Type",
    "TypeNotAssignableError",
    "at_clients",
    "at_server",
    "laid_out",
    "matched",
    "matched_type",
    "member_of",
    "of_kind",
    "parse_type",
    "shortened",
    "to_type",
    "tree_of_types",
    "type_leaves",
    "type_of",
]

signpost(__name__)
