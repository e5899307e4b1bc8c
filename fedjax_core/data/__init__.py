"""Client data: populations of clients, batching, the selection of cohorts, and data sets that ship with the package.

  FederatedData             the examples of many clients: a mapping from client id to arrays
  ClientIds                 the ids of a population or of some of its clients, without a Python object for each id
  from_clients, from_arrays build a FederatedData from what each client holds, or from rows labelled with their client
  partition                 assigns rows to clients with a partitioner: iid, dirichlet, shards, by_column
  Batching                  repeats and shuffles a client's examples and cuts them into batches
  sample_clients            selects the clients of a round: a pure function of the key and the round number
  uniform_sampler, weighted_sampler, poisson_sampler, cyclic_sampler, fixed_cohorts
                            samplers: functions from the round number to client ids
  silo_sampler              a sampler of which every silo selects clients of its own
  Effort                    limits on local training, as a number of steps for each client
  participation             selects the clients of a round and passes them through stages: a `Participation`
  available, dropout        stages: clients that are unavailable or fail; diurnal: availability over the day
  local_effort, deadline, first_to_report, minimum_reports
                            stages: fast and slow clients (lognormal_speeds), and which reports a round waits for
  digits, shakespeare       real data sets that ship with the package
  synthetic, synthetic_iid  data sets generated from a key
  ExampleSource             the contract for any other store of examples

This is a host room: it uses NumPy, and JAX traces nothing in it. A computation takes
`data.cohort(ids, batching, key=key)` for a parameter at CLIENTS; a cohort reads no examples until it is used.
"""

from fedjax_core._signposts import signpost
from fedjax_core.data._availability import available, diurnal, dropout
from fedjax_core.data._batching import Batching
from fedjax_core.data._digits import digits, digits_arrays
from fedjax_core.data._effort import Effort
from fedjax_core.data._federated_data import FederatedData
from fedjax_core.data._ids import ClientIds, UnknownClientError
from fedjax_core.data._participation import Participation, participation
from fedjax_core.data._partitioners import Partitioner, by_column, dirichlet, iid, partition, shards
from fedjax_core.data._samplers import (
    Sampler,
    cyclic_sampler,
    fixed_cohorts,
    poisson_sampler,
    uniform_sampler,
    weighted_sampler,
)
from fedjax_core.data._sampling import sample_clients
from fedjax_core.data._shakespeare import CharacterVocabulary, shakespeare, shakespeare_speeches, shakespeare_vocabulary
from fedjax_core.data._silos import silo_sampler
from fedjax_core.data._sources import ExampleSource
from fedjax_core.data._stragglers import deadline, first_to_report, local_effort, lognormal_speeds, minimum_reports
from fedjax_core.data._synthetic import synthetic, synthetic_iid

from_arrays = FederatedData.from_arrays
from_clients = FederatedData.from_clients

__all__ = [
    "Batching",
    "CharacterVocabulary",
    "ClientIds",
    "Effort",
    "ExampleSource",
    "FederatedData",
    "Participation",
    "Partitioner",
    "Sampler",
    "UnknownClientError",
    "available",
    "by_column",
    "cyclic_sampler",
    "deadline",
    "digits",
    "digits_arrays",
    "dirichlet",
    "diurnal",
    "dropout",
    "first_to_report",
    "fixed_cohorts",
    "from_arrays",
    "from_clients",
    "iid",
    "local_effort",
    "lognormal_speeds",
    "minimum_reports",
    "participation",
    "partition",
    "poisson_sampler",
    "sample_clients",
    "shakespeare",
    "shakespeare_speeches",
    "shakespeare_vocabulary",
    "shards",
    "silo_sampler",
    "synthetic",
    "synthetic_iid",
    "uniform_sampler",
    "weighted_sampler",
]

signpost(__name__)
