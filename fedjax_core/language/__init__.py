"""What a federated program is made of: placed values, the operators on them, and `ClientBatches`.

Inside a federated computation every argument is a *placed value*. It knows its type and gives access
to its fields; the operators do everything else:

* place and move: `federated_value`, `federated_eval`, `federated_broadcast`, `federated_zip`;
* compute where the values are: `federated_map`;
* combine the clients' values at the server: `federated_sum`, `federated_mean`, `federated_min`,
  `federated_max`, `federated_aggregate`, `federated_collect`, and in exact integers
  `federated_secure_sum`, `federated_secure_sum_bitwidth`, `federated_secure_modular_sum`;
* read and write the rows of a table at the server: `federated_select`, `federated_scatter`,
  `federated_client_index`;
* read the side information that comes with a cohort: `federated_client_value`;
* give every client a key of its own: `federated_split_key`;
* return rows whose number is known only after the run: `federated_trim`.

The data of one client is a `ClientBatches`.
"""

from fedjax_core._signposts import signpost
from fedjax_core.language._aggregation import (
    federated_aggregate,
    federated_collect,
    federated_max,
    federated_mean,
    federated_min,
    federated_sum,
)
from fedjax_core.language._client_batches import ClientBatches
from fedjax_core.language._client_value import federated_client_value
from fedjax_core.language._keys import federated_split_key
from fedjax_core.language._movement import (
    federated_broadcast,
    federated_eval,
    federated_map,
    federated_value,
    federated_zip,
)
from fedjax_core.language._placed import Placed
from fedjax_core.language._secure import (
    federated_secure_modular_sum,
    federated_secure_sum,
    federated_secure_sum_bitwidth,
)
from fedjax_core.language._tables import federated_client_index, federated_scatter, federated_select
from fedjax_core.language._trim import TrimmedRows, federated_trim

__all__ = [
    "ClientBatches",
    "Placed",
    "TrimmedRows",
    "federated_aggregate",
    "federated_broadcast",
    "federated_client_index",
    "federated_client_value",
    "federated_collect",
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
]

signpost(__name__)
