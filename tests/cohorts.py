"""Random ragged cohorts for the laws, with few distinct sizes so that few programs are compiled."""

import numpy as np
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.data import Batching, FederatedData

BATCH_SIZE = 4
DATA = fc.types.parse_type("<x=float32[?,2],y=float32[?]>*")

client_sizes = st.lists(st.sampled_from([0, 1, 3, 4, 5, 11]), max_size=7)
"""Cohorts that may be empty, have a single client, or contain clients with one example or none."""

unequal_sizes = client_sizes.map(lambda sizes: [*sizes, 90])
"""Cohorts in which one client has far more examples than all others."""

ragged_sizes = client_sizes | unequal_sizes


def make_client(number: int, size: int) -> dict:
    """A client's examples, which depend on its number and size alone."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(size, 2)).astype(np.float32)
    return {"x": x, "y": (x @ [1.0, -2.0] + 0.1 * rng.normal(size=size)).astype(np.float32)}


def make_population(sizes) -> dict:
    """Clients by id, beginning with `client0`."""
    return {f"client{i}": make_client(i, size) for i, size in enumerate(sizes)}


def make_cohort(clients: dict, ids=None, batch_size: int = BATCH_SIZE, num_epochs: int = 1):
    """A cohort of the clients `ids`, all of them by default, without shuffling."""
    spare = {"nobody": make_client(0, 1)}  # a population must not be empty, but a cohort may be
    data = FederatedData.from_clients(clients | spare)
    return data.cohort(list(clients) if ids is None else ids, Batching(batch_size, num_epochs))
