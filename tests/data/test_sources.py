"""Sources of one's own: which threads read them."""

import sqlite3
import threading

import jax
import numpy as np
import pytest

import fedjax_core as fc

CLIENTS = 8


class Table:
    """Examples in a database, whose connection SQLite gives to no other thread."""

    element = {"x": jax.ShapeDtypeStruct((), np.float32)}
    sizes = np.arange(1, CLIENTS + 1)

    def __init__(self):
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("create table examples (client integer, x real)")
        rows = [(client, float(client)) for client in range(CLIENTS) for _ in range(self.sizes[client])]
        self.connection.executemany("insert into examples values (?, ?)", rows)

    def examples(self, client):
        rows = self.connection.execute("select x from examples where client = ?", (int(client),))
        return {"x": np.array([x for (x,) in rows], np.float32)}

    def read(self, clients, out):
        np.concatenate([self.examples(client)["x"] for client in clients] or [[]], out=out["x"])


@fc.federated_computation(fc.at_clients("<x=float32[?]>*"))
def total(data):
    return fc.federated_sum(fc.federated_map(lambda data: data.sum()["x"], data))


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("view", ["all", "mapped", "split"])
def test_a_source_is_read_by_the_thread_that_calls(view, devices):
    """Client k has k + 1 examples of the value k: 168 in all, twice as much where each is doubled."""
    data = fc.data.FederatedData(range(CLIENTS), Table())
    parts = {
        "all": ([data], 168),
        "mapped": ([data.map(lambda examples: {"x": 2 * examples["x"]})], 336),
        "split": (data.split_examples(0.5), 168),
    }[view]
    here = total.with_config(fc.EngineConfig(devices=devices))
    cohorts = [part.cohort(part.client_ids, fc.data.Batching(4)) for part in parts[0]]
    here.prefetch(cohorts[0])
    assert sum(float(here(cohort)) for cohort in cohorts) == parts[1]


class Watched:
    """A source that notes its readers; while one reads, another may come only if the source says so."""

    element = {"x": jax.ShapeDtypeStruct((), np.float32)}
    sizes = np.ones(CLIENTS, np.int64)

    def __init__(self, is_thread_safe):
        self.is_thread_safe = is_thread_safe
        self.readers = set()

    def examples(self, client):
        return {"x": np.ones(1, np.float32)}

    def read(self, clients, out):
        self.readers.add(threading.current_thread())
        out["x"][:] = 1


@pytest.mark.parametrize("is_thread_safe", [False, True])
def test_a_source_may_say_that_several_threads_may_read_it(is_thread_safe):
    source = Watched(is_thread_safe)
    data = fc.data.FederatedData(range(CLIENTS), source)
    assert total.with_config(fc.EngineConfig(devices=2))(data.cohort(data.client_ids, fc.data.Batching(4))) == CLIENTS
    assert (threading.current_thread() in source.readers) is not is_thread_safe
