"""Splits and subsets: views that copy nothing, keep the rows of the population and leave files where they are."""

import pathlib
import re
import time

import jax
import numpy as np
import pytest

from fedjax_core.data import Batching, ClientIds, FederatedData, synthetic_iid, uniform_sampler, weighted_sampler

KEY = jax.random.key(0)


class Numbered:
    """An `ExampleSource` with its four members and nothing else: client i holds i % 4 examples (i, 0), (i, 1), ..."""

    def __init__(self, number: int):
        self.sizes = np.arange(number) % 4
        self.element = {"x": jax.ShapeDtypeStruct((2,), np.float32)}

    def examples(self, client: int) -> dict:
        rows = np.arange(self.sizes[client], dtype=np.float32)
        return {"x": np.stack([np.full_like(rows, client), rows], 1)}

    def read(self, clients: np.ndarray, out: dict) -> None:
        out["x"][:] = np.concatenate([self.examples(int(i))["x"] for i in clients])


def kept_in_memory(number: int) -> FederatedData:
    source = Numbered(number)
    return FederatedData.from_clients([source.examples(i) for i in range(number)])


def of_a_store(number: int) -> FederatedData:
    return FederatedData(range(number), Numbered(number))


def mapped(number: int) -> FederatedData:
    return kept_in_memory(number).map(lambda e: {"x": e["x"] + 0.0})


def read(data: FederatedData, ids) -> np.ndarray:
    """The examples of some clients as a cohort reads them."""
    sequences = data.cohort(ids, Batching(2)).value
    out = {"x": np.full((sequences.num_examples.sum(), 2), np.nan, np.float32)}
    sequences.read(np.arange(len(ids)), out)
    np.testing.assert_array_equal(out["x"], np.concatenate([data[i]["x"] for i in ids]))
    return out["x"]


makers = pytest.mark.parametrize("make", [kept_in_memory, of_a_store, mapped])


@makers
@pytest.mark.parametrize("key", [None, KEY])
def test_parts_of_parts_are_complete_and_disjoint(make, key):
    data = make(40)
    ids = [3, 7, 7, 6, 39, 0, 2]
    one, two = data.split_examples(0.5, key=key)
    quarters = [part for half in (one, two) for part in half.split_examples(0.5, key=key)]
    found = np.concatenate([read(part, ids) for part in quarters])
    whole = read(data, ids)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, whole.tolist()))
    np.testing.assert_array_equal(sum(part.sizes for part in quarters), data.sizes)


@makers
def test_the_part_of_a_client_is_a_function_of_key_and_id(make):
    data = make(40)
    first = data.split_examples(0.5, key=KEY)[0]
    for same in (
        data.subset([39, 7, 3]).split_examples(0.5, key=KEY)[0],
        data.split_clients(1.0, key=KEY)[0].split_examples(0.5, key=KEY)[0],
        first.subset([7, 39, 3]),
        make(50).split_examples(0.5, key=KEY)[0],
    ):
        for i in (3, 7, 39):
            np.testing.assert_array_equal(same[i]["x"], first[i]["x"])
    other = data.split_examples(0.5, key=jax.random.key(1))[0]
    assert any(not np.array_equal(other[i]["x"], first[i]["x"]) for i in range(40))


@makers
def test_clients_keep_their_rows_of_the_population(make):
    data = make(40)
    train, test = data.split_clients(0.5, key=KEY)
    views = [
        train,
        test,
        train.subset(reversed(train.client_ids)),
        train.subset(train.client_ids[3:9]).map(lambda e: e),
        test.split_examples(0.5, key=KEY)[1].split_clients(0.5, key=KEY)[0],
    ]
    for view in views:
        np.testing.assert_array_equal(view.client_ids.rows, list(view))  # the ids are the numbers here
        chosen = list(view)[::2]
        np.testing.assert_array_equal(view.cohort(chosen, Batching(1)).client_index, chosen)
        np.testing.assert_array_equal(view.cohort(view.client_ids, Batching(1)).client_index, list(view))
        assert view.client_ids.population == data.client_ids
        np.testing.assert_array_equal(view.sizes, [len(e["x"]) for e in view.values()])
    with pytest.raises(ValueError, match=f"no client {test.client_ids[0]} in this data of 20 clients"):
        train.cohort(test.client_ids, Batching(1))


def test_equal_ids_make_equal_populations():
    """State that is kept by row belongs to the same clients, however the examples were shuffled."""
    owners, rows = np.array(["bob", "ada", "eve", "ada"]), np.arange(4)
    shuffled = np.array([3, 2, 0, 1])
    for names in (owners, owners.astype(object), owners.tolist(), np.array([9, -3, 20, -3]), [5, "b", 2**70, "b"]):
        names_of = np.array(names, object)
        one = FederatedData.from_arrays({"x": rows}, names)
        other = FederatedData.from_arrays({"x": rows[shuffled]}, [names_of[i] for i in shuffled])
        assert one.client_ids == other.client_ids
        assert all(sorted(one[i]["x"]) == sorted(other[i]["x"]) for i in one)


def test_reading_a_cohort_does_not_look_at_the_others():
    class Counting(Numbered):
        looked = ()

        def examples(self, client):
            self.looked = (*self.looked, client)
            return super().examples(client)

    source = Counting(1000)
    train = FederatedData(range(1000), source).split_clients(0.9, key=KEY)[0].split_examples(0.5, key=KEY)[0]
    assert source.looked == ()
    chosen = train.client_ids[5:8]
    read(train, chosen)
    assert set(source.looked) == set(chosen)


def test_views_of_ten_million_clients_cost_next_to_nothing():
    """Bounds a hundred times above what an idle machine needs, and below what any loop over the clients takes."""

    class Store(Numbered):
        def __init__(self):
            self.sizes = np.full(10**7, 2, np.int64)
            self.element = {"x": jax.ShapeDtypeStruct((2,), np.float32)}

    begin = time.process_time()
    data = FederatedData(range(10**7), Store())
    half = data.split_examples(0.5, key=KEY)[0]
    sampler = uniform_sampler(half.client_ids, 1000, key=KEY)
    for round_num in range(5):
        cohort = half.cohort(sampler(round_num), Batching(1))
        assert (cohort.value.num_examples == 1).all() and isinstance(cohort.ids, ClientIds)
    assert time.process_time() - begin < 1.0


def anonymous_memory() -> int:
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the system does not tell how much memory is no file")
    return int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1]) * 1024


def test_data_that_are_mapped_from_a_file_stay_there(tmp_path):
    size = 64 * 2**20
    np.save(tmp_path / "x.npy", np.zeros((2**16, size // 2**16 // 4), np.float32))
    before = anonymous_memory()
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = FederatedData.from_arrays({"x": x}, np.arange(2**16) // 2)
    train, test = data.split_clients(0.8, key=KEY)
    halves = train.split_examples(0.5, key=KEY)
    views = [*halves, *halves[1].split_examples(0.5), test.subset(test.client_ids[:100]), test.map(lambda e: e)]
    for view in views:
        read_x(view, view.client_ids[:10])
    assert anonymous_memory() - before < size / 2
    copied = x + 0.0
    assert anonymous_memory() - before > size / 2 and copied.shape == x.shape  # so that a copy would have been seen


def read_x(data: FederatedData, ids) -> None:
    sequences = data.cohort(ids, Batching(1)).value
    sequences.read(np.arange(len(ids)), {"x": np.empty((sequences.num_examples.sum(), 256), np.float32)})


def test_samplers_of_a_split_draw_its_clients():
    data = synthetic_iid(num_clients=30, key=KEY)
    train = data.split_clients(0.5, key=KEY)[0]
    for sampler in (
        uniform_sampler(train.client_ids, 5, key=KEY),
        weighted_sampler(train.client_ids, train.sizes, 5, key=KEY),
    ):
        drawn = sampler(1)
        assert isinstance(drawn, ClientIds) and set(drawn) <= set(train) and len(set(drawn)) == 5
        np.testing.assert_array_equal(train.cohort(drawn, Batching(1)).client_index, drawn.rows)
