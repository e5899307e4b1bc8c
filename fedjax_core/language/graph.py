"""The graph of a federated program, as the engine, computations and the checks of a round read it.

* Nodes and the operations that make them: `Node`, `Parameter`, `Map`, `Broadcast`, `Aggregate`, `Collect`, `Trim`,
  `ClientIdentity`, `ClientIndex`, `ClientValue`, `Check`; `is_made_by`, `ancestors`; `user_location`.
* Placed values and the nodes behind them: `Placed`, `is_placed`, `node_of`, `derive`, `map_nodes`, `placed_argument`,
  `explained`; `replaced`, for nodes applied to other inputs.
* `IntegerRange`, `in_ranges`: what the engine checks where it reads the clients' data.
* Abstract values: `abstract_of`, `infer`, `traced`; `fingerprint` and `fingerprints` of what is traced.
* Concrete values and types: `strong`, `first_rows`, `leading_rows`, `batch_dimension`, `is_batched`.
"""

from fedjax_core._signposts import signpost
from fedjax_core.language._abstract import abstract_of, infer, strong, traced
from fedjax_core.language._client_batches import batch_dimension, is_batched
from fedjax_core.language._fingerprints import fingerprint, fingerprints
from fedjax_core.language._graph import (
    Aggregate,
    Broadcast,
    Check,
    ClientIdentity,
    ClientIndex,
    ClientValue,
    Collect,
    Map,
    Node,
    Parameter,
    Trim,
    ancestors,
    is_made_by,
    user_location,
)
from fedjax_core.language._inlining import replaced
from fedjax_core.language._placed import (
    Placed,
    derive,
    explained,
    is_placed,
    map_nodes,
    node_of,
    placed_argument,
)
from fedjax_core.language._ranges import IntegerRange, in_ranges
from fedjax_core.language._reductions import joint_sums
from fedjax_core.language._trim import first_rows, leading_rows

__all__ = [
    "Aggregate",
    "Broadcast",
    "Check",
    "ClientIdentity",
    "ClientIndex",
    "ClientValue",
    "Collect",
    "IntegerRange",
    "Map",
    "Node",
    "Parameter",
    "Placed",
    "Trim",
    "abstract_of",
    "ancestors",
    "batch_dimension",
    "derive",
    "explained",
    "fingerprint",
    "fingerprints",
    "first_rows",
    "in_ranges",
    "infer",
    "is_batched",
    "is_made_by",
    "is_placed",
    "joint_sums",
    "leading_rows",
    "map_nodes",
    "node_of",
    "placed_argument",
    "replaced",
    "strong",
    "traced",
    "user_location",
]

signpost(__name__)
