"""Client data: populations of clients, batching, partitioners and cohort sampling."""

from fedjax_core.data._batching import Batching
from fedjax_core.data._federated_data import FederatedData
from fedjax_core.data._ids import UnknownClientError
from fedjax_core.data._partitioners import Partitioner, by_column, dirichlet, iid, partition, shards
from fedjax_core.data._sampling import sample_clients
from fedjax_core.data._sources import ExampleSource

__all__ = [
    "Batching",
    "ExampleSource",
    "FederatedData",
    "Partitioner",
    "UnknownClientError",
    "by_column",
    "dirichlet",
    "iid",
    "partition",
    "sample_clients",
    "shards",
]
