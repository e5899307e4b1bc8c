"""Client data: populations of clients, batching, partitioners, cohort sampling and the data sets that are shipped."""

from fedjax_core.data._batching import Batching
from fedjax_core.data._digits import digits
from fedjax_core.data._federated_data import FederatedData
from fedjax_core.data._ids import UnknownClientError
from fedjax_core.data._partitioners import Partitioner, by_column, dirichlet, iid, partition, shards
from fedjax_core.data._sampling import sample_clients
from fedjax_core.data._shakespeare import shakespeare
from fedjax_core.data._sources import ExampleSource
from fedjax_core.data._synthetic import synthetic, synthetic_iid

__all__ = [
    "Batching",
    "ExampleSource",
    "FederatedData",
    "Partitioner",
    "UnknownClientError",
    "by_column",
    "digits",
    "dirichlet",
    "iid",
    "partition",
    "sample_clients",
    "shakespeare",
    "shards",
    "synthetic",
    "synthetic_iid",
]
