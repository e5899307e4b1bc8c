"""Populations: what goes in comes out, of the right type, or one error names the client and the field."""

import concurrent.futures
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.data import Batching, FederatedData, UnknownClientError

ids = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=4), min_size=1, max_size=6, unique=True)


def examples(start: int, size: int) -> dict:
    rows = np.arange(start, start + size)
    return {"x": np.stack([rows, -rows], 1).astype(np.float32), "y": rows.astype(np.int32)}


def three_clients() -> FederatedData:
    return FederatedData.from_clients({"ada": examples(0, 3), "bob": examples(3, 0), 7: examples(3, 4)})


def assert_same(data: FederatedData, expected: dict) -> None:
    assert list(data) == list(data.client_ids) == list(expected)
    np.testing.assert_array_equal(data.sizes, [len(e["y"]) for e in expected.values()])
    for client_id, held in data.items():
        jax.tree.map(np.testing.assert_array_equal, held, expected[client_id])


@given(ids, st.data())
def test_clients_come_out_as_they_went_in(ids, draw):
    sizes = [draw.draw(st.integers(0, 4)) for _ in ids]
    expected = {i: examples(10 * n, size) for n, (i, size) in enumerate(zip(ids, sizes, strict=True))}
    assert_same(FederatedData.from_clients(expected), expected)


@given(st.lists(st.integers(-2, 2) | st.sampled_from(["ada", "bob"]), min_size=1, max_size=20))
def test_rows_are_grouped_by_client_in_order(owners):
    rows = examples(0, len(owners))
    expected = {
        owner: jax.tree.map(lambda a, o=owner: a[[other == o for other in owners]], rows)
        for owner in sorted(set(owners), key=lambda i: (isinstance(i, str), i))
    }
    assert_same(FederatedData.from_arrays(rows, owners), expected)


@pytest.mark.parametrize("owners", [np.array([5, 3, 5, -1]), np.array(["b", "a", "b", "c"])])
def test_arrays_of_ids_are_like_lists_of_ids(owners):
    rows = examples(0, 4)
    expected = FederatedData.from_arrays(rows, owners.tolist())
    assert_same(FederatedData.from_arrays(rows, owners), dict(expected.items()))
    assert {type(i) for i in FederatedData.from_arrays(rows, owners).client_ids} <= {int, str}


def test_a_list_numbers_the_clients():
    data = FederatedData.from_clients([examples(0, 2), examples(2, 1)])
    assert data.client_ids == (0, 1) and len(data) == 2


class Example(NamedTuple):
    y: Any
    x: Any


def test_fields_are_matched_by_name_whatever_their_order():
    x, y = np.float32([1, 2]), np.float32([10, 20])
    clients = [{"x": x, "y": y}, {"y": y, "x": x}, OrderedDict(y=y, x=x), Example(y=y, x=x)]
    for first in range(4):
        data = FederatedData.from_clients(client for client in [clients[first], *clients])
        assert data.sizes.tolist() == [2] * 5
        kind = type(clients[first])
        for client in data.values():
            fields = client._asdict() if isinstance(client, Example) else client
            assert type(client) is kind and fields["x"].tolist() == [1, 2] and fields["y"].tolist() == [10, 20]


def test_a_map_may_give_its_fields_in_any_order():
    data = FederatedData.from_clients([{"n": np.float32([i])} for i in range(3)])
    mapped = data.map(lambda e: OrderedDict(x=e["n"], y=-e["n"]) if e["n"][0] else OrderedDict(y=-e["n"], x=e["n"]))
    assert [(client["x"].tolist(), client["y"].tolist()) for client in mapped.values()] == [
        ([0.0], [-0.0]),
        ([1.0], [-1.0]),
        ([2.0], [-2.0]),
    ]
    out = OrderedDict(y=np.empty(3, np.float32), x=np.empty(3, np.float32))
    mapped.cohort([0, 1, 2], Batching(1)).value.read(np.arange(3), out)
    assert out["x"].tolist() == [0, 1, 2] and out["y"].tolist() == [0, -1, -2]


def test_mapping_protocol():
    data = three_clients()
    assert "ada" in data and 7 in data and np.int64(7) in data
    assert "7" not in data and True not in data and None not in data and ["ada"] not in data
    assert data.get("eve") is None
    assert data == data and data != three_clients() and len({data, data}) == 1
    assert repr(data) == "FederatedData(3 clients with 7 examples of <x=float32[?,2],y=int32[?]>)"
    assert data.sizes.dtype == np.int64


def test_the_element_type_is_that_of_jax():
    data = FederatedData.from_clients(
        [
            {
                "float64": np.zeros((1, 2)),
                "int64": np.zeros(1, np.int64),
                "uint8": np.zeros(1, np.uint8),
                "bool": [True],
                "bfloat16": np.zeros((1, 3), ml_dtypes.bfloat16),
                "nested": {"complex": [1j]},
            }
        ]
    )
    assert str(data.element_type) == (
        "<bfloat16=bfloat16[?,3],bool=bool[?],float64=float32[?,2],int64=int32[?],"
        "nested=<complex=complex64[?]>,uint8=uint8[?]>"
    )
    assert data[0]["int64"].dtype == np.int32 and data[0]["nested"]["complex"].dtype == np.complex64


def test_with_x64_nothing_is_narrowed():
    with jax.enable_x64(True):
        data = FederatedData.from_clients([{"x": [2**40], "y": [0.5]}])
        assert str(data.element_type) == "<x=int64[?],y=float64[?]>"
        assert data[0]["x"][0] == 2**40


def test_examples_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        three_clients()["ada"]["x"][0] = 1.0


GOOD = {"x": [[1.0, 2.0]], "y": [1]}
BAD_CLIENTS = [
    ({"x": [[1.0, 2.0]]}, ValueError, "client 'bob' has no field 'y', which client 'ada' has"),
    ({**GOOD, "z": [1]}, ValueError, "client 'bob' has a field 'z', which client 'ada' does not have"),
    ({"x": [[1.0, 2.0]], "y": [1, 2]}, ValueError, "client 'bob': field 'y' has 2 rows and field 'x' has 1"),
    ({**GOOD, "y": [1.5]}, TypeError, "client 'bob': field 'y' is float32, but int32 in client 'ada'"),
    ({**GOOD, "x": [[1.0]]}, ValueError, r"client 'bob': field 'x' has examples of shape \(1,\), but \(2,\)"),
    ({**GOOD, "y": ["one"]}, TypeError, "client 'bob': field 'y' must hold numbers .*got <U3"),
    ({**GOOD, "y": [None]}, TypeError, "client 'bob': field 'y' must hold numbers .*got object"),
    ({**GOOD, "y": np.zeros(1, "M8[s]")}, TypeError, "field 'y' must hold numbers .*datetime64"),
    ({**GOOD, "x": np.zeros((1, 2), np.longdouble)}, TypeError, "field 'x' must hold numbers .*float128"),
    ({**GOOD, "x": [[1.0], [1.0, 2.0]]}, ValueError, "client 'bob': field 'x' .* rows of different shapes"),
    ({**GOOD, "y": 1}, ValueError, "client 'bob': field 'y' must have one row per example, got a scalar"),
    ({**GOOD, "y": [2**31]}, ValueError, "client 'bob': field 'y' holds 2147483648 in row 0, .*int32"),
    ({**GOOD, "y": np.array([2**32], np.uint64)}, ValueError, "field 'y' holds 4294967296 .*uint32"),
    ({**GOOD, "y": {"a": [1]}}, ValueError, "client 'bob' has no field 'y'"),
    ((GOOD["x"], GOOD["y"]), ValueError, "client 'bob' has no field 'x'"),
    (None, ValueError, "client 'bob' has no field 'x'"),
]


@pytest.mark.parametrize("bad, error, message", BAD_CLIENTS)
def test_an_error_names_the_client_and_the_field(bad, error, message):
    with pytest.raises(error, match=message):
        FederatedData.from_clients({"ada": GOOD, "bob": bad})


@pytest.mark.parametrize(
    "clients, error, message",
    [
        ({}, ValueError, "at least one client"),
        ([], ValueError, "at least one client"),
        ({"ada": {}}, ValueError, "client 'ada' has no fields"),
        (np.zeros((2, 3)), TypeError, r"from_arrays\(arrays, client_ids\)"),
        ({1.5: GOOD}, TypeError, "client id must be a string or an integer, got 1.5"),
        ({True: GOOD}, TypeError, "got True of type bool"),
    ],
)
def test_clients_of_the_wrong_kind_are_refused(clients, error, message):
    with pytest.raises(error, match=message):
        FederatedData.from_clients(clients)


@pytest.mark.parametrize(
    "arrays, owners, error, message",
    [
        ({"x": [1, 2], "y": [1]}, [0, 0], ValueError, "field 'y' has 1 rows and there are 2 client ids"),
        ({"x": [1, 2]}, [0], ValueError, "field 'x' has 2 rows and there are 1 client ids"),
        ({"x": [1, 2**40]}, ["ada", "bob"], ValueError, "field 'x' of client 'bob' holds 1099511627776 in row 1"),
        ({"x": ["a", "b"]}, [0, 0], TypeError, "field 'x' must hold numbers"),
        ({"x": 3}, [0], ValueError, "field 'x' must have one row per example"),
        ({}, [], ValueError, "at least one field"),
        ({"x": [1]}, [0.5], TypeError, "client id must be a string or an integer"),
        ({"x": [1]}, np.array([0.5]), TypeError, "client id must be a string or an integer"),
        ({"x": [1]}, "a", TypeError, "sequence of strings or integers"),
    ],
)
def test_rows_of_the_wrong_kind_are_refused(arrays, owners, error, message):
    with pytest.raises(error, match=message):
        FederatedData.from_arrays(arrays, owners)


def test_an_unknown_client_is_named_with_close_ones():
    data = FederatedData.from_clients({"client_1": GOOD, "client_2": GOOD, 3: GOOD})
    for use in (
        lambda: data["client_11"],
        lambda: data.subset(["client_1", "client_11"]),
        lambda: data.cohort(["client_11"], Batching(1)),
    ):
        with pytest.raises(UnknownClientError, match=r"no client 'client_11' .* 'client_1'"):
            use()
    with pytest.raises(ValueError, match="no client '3' in this data of 3 clients; the closest ids are 3"):
        data["3"]
    with pytest.raises(KeyError, match="the ids are 'client_1', 'client_2', 3"):
        data["zzz"]
    with pytest.raises(TypeError, match=r"use str\(1.0\)"):
        data[1.0]
    with pytest.raises(TypeError, match="sequence"):
        data.cohort("client_1", Batching(1))


def test_subset_keeps_the_given_order():
    data = three_clients()
    assert_same(data.subset([7, "ada"]), {7: data[7], "ada": data["ada"]})
    assert len(data.subset([])) == 0
    with pytest.raises(ValueError, match="'ada' twice"):
        data.subset(["ada", "ada"])


@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 5))
def test_splitting_clients_gives_every_client_to_one_part(num_clients, fraction, seed):
    data = FederatedData.from_clients([examples(10 * i, i % 3) for i in range(num_clients)])
    train, test = data.split_clients(fraction, key=jax.random.key(seed))
    assert sorted(train.client_ids + test.client_ids) == list(range(num_clients))
    assert len(train) == int(num_clients * fraction + 0.5)
    assert list(train) == sorted(train) and list(test) == sorted(test)
    reverse = data.subset(reversed(data.client_ids)).split_clients(fraction, key=jax.random.key(seed))[0]
    assert set(reverse) == set(train)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.floats(0, 1), st.booleans(), st.booleans())
def test_splitting_examples_gives_every_example_to_one_part(sizes, fraction, by_time, mapped):
    data = FederatedData.from_clients([examples(10 * n, size) for n, size in enumerate(sizes)])
    if mapped:
        data = data.map(lambda e: {**e, "sum": np.full(len(e["y"]), e["y"].sum())})
    train, test = data.split_examples(fraction, key=None if by_time else jax.random.key(3))
    assert train.client_ids == test.client_ids == data.client_ids
    np.testing.assert_array_equal(train.sizes, np.floor(data.sizes * fraction + 0.5))
    for i, whole in data.items():
        rows = np.concatenate([train[i]["y"], test[i]["y"]]) - 10 * i
        if not by_time:
            assert (np.diff(train[i]["y"]) > 0).all() and (np.diff(test[i]["y"]) > 0).all()
            rows.sort()
        np.testing.assert_array_equal(rows, np.arange(sizes[i]))
        if mapped:
            assert set(train[i]["sum"]) | set(test[i]["sum"]) <= {whole["y"].sum()}


def test_splits_draw_uniformly():
    data = FederatedData.from_clients([examples(0, 6) for _ in range(1000)])
    train = data.split_examples(0.5, key=jax.random.key(0))[0]
    drawn = np.concatenate([e["y"] for e in train.values()])
    assert (abs(np.bincount(drawn, minlength=6) - 500) < 5 * np.sqrt(250)).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "0.8", True, None])
def test_a_fraction_is_from_0_to_1(fraction):
    error = ValueError if isinstance(fraction, float) else TypeError
    with pytest.raises(error, match="from 0 to 1, got"):
        three_clients().split_examples(fraction)
    with pytest.raises(error, match="from 0 to 1, got"):
        three_clients().split_clients(fraction, key=jax.random.key(0))


def test_map_is_applied_when_a_client_is_read():
    seen = []

    def fn(held):
        seen.append(len(held["y"]))
        return {"image": held["x"].reshape(-1, 1, 2) / 2, "label": held["y"].astype(np.int64) + 1}

    data = three_clients()
    mapped = data.map(fn)
    assert seen == [3]
    assert str(mapped.element_type) == "<image=float32[?,1,2],label=int32[?]>"
    np.testing.assert_array_equal(mapped.sizes, data.sizes)
    assert seen == [3]
    np.testing.assert_array_equal(mapped[7]["label"], [4, 5, 6, 7])
    assert seen == [3, 4]
    twice = mapped.map(lambda e: {"z": e["label"] * 10})
    np.testing.assert_array_equal(twice["ada"]["z"], [10, 20, 30])


@pytest.mark.parametrize("by_time", [True, False])
def test_parts_and_maps_nest(by_time):
    data = three_clients().map(lambda e: {"y": e["y"] - e["y"].min(initial=99)}).subset([7, "ada"])
    key = None if by_time else jax.random.key(0)
    halves = data.split_examples(0.5, key=key)
    quarter = halves[0].split_examples(0.5, key=key)[1].map(lambda e: {"y": e["y"] + 100}).subset(["ada", 7])
    cohort = quarter.cohort([7, "ada", 7], Batching(1))
    out = {"y": np.empty(cohort.value.num_examples.sum(), np.int32)}
    cohort.value.read(np.arange(3), out)
    np.testing.assert_array_equal(out["y"], np.concatenate([quarter[i]["y"] for i in cohort.ids]))
    if by_time:
        np.testing.assert_array_equal(out["y"], [101, 101, 101])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 4), st.randoms(use_true_random=False))
def test_reading_is_the_same_with_and_without_a_map(sizes, seed, random):
    data = FederatedData.from_clients([examples(10 * n, size) for n, size in enumerate(sizes)])
    train = data.split_examples(0.7, key=jax.random.key(seed))[0]
    mapped = data.map(lambda e: e).split_examples(0.7, key=jax.random.key(seed))[0]
    chosen = random.choices(data.client_ids, k=3)
    outs = []
    for source in (train, mapped):
        sequences = source.cohort(chosen, Batching(2)).value
        outs.append({k: np.empty((train.sizes[chosen].sum(), *s), t) for k, s, t in FIELDS})
        sequences.read(np.arange(3), outs[-1])
    jax.tree.map(np.testing.assert_array_equal, *outs)
    expected = np.concatenate([train[i]["y"] for i in chosen])
    np.testing.assert_array_equal(outs[0]["y"], expected)


FIELDS = [("x", (2,), np.float32), ("y", (), np.int32)]


@pytest.mark.parametrize(
    "fn, error, message",
    [
        (lambda e: {"y": e["y"][1:]}, ValueError, "map: client 'ada': field 'y' came out with 2 rows of 3"),
        (lambda e: {"y": e["y"].sum()}, ValueError, "map: client 'ada': field 'y' must have one row"),
        (lambda e: {"y": e["y"].astype(str)}, TypeError, "map: client 'ada': field 'y' must hold numbers"),
        (lambda e: None, ValueError, "map: client 'ada': fn must return a dict of arrays, got None"),
    ],
)
def test_a_map_that_cannot_be_is_refused_at_once(fn, error, message):
    with pytest.raises(error, match=message):
        three_clients().map(fn)


@pytest.mark.parametrize(
    "fn, error, message",
    [
        (lambda e: {"y": e["y"][:3]}, ValueError, "map: client 7: field 'y' came out with 3 rows of 4"),
        (lambda e: {"y" if len(e["y"]) == 3 else "z": e["y"]}, ValueError, "map: client 7 has no field 'y'"),
        (lambda e: {"y": e["y"] * (1.0 if len(e["y"]) == 4 else 1)}, TypeError, "client 7: field 'y' is float32"),
        (lambda e: {"y": np.zeros((len(e["y"]),) * 2)}, ValueError, r"field 'y' has examples of shape \(4,\)"),
    ],
)
def test_a_map_that_fails_for_one_client_names_it_when_it_is_read(fn, error, message):
    data = three_clients().map(fn)
    with pytest.raises(error, match=message):
        data[7]
    sequences = data.cohort(["ada", 7], Batching(1)).value
    with pytest.raises(error, match=message):
        sequences.read(np.arange(2), jax.tree.map(lambda e: np.empty((7, *e.shape), e.dtype), data._source.element))


def test_an_empty_population_cannot_be_mapped():
    with pytest.raises(ValueError, match="map before taking the subset"):
        three_clients().subset([]).map(lambda e: e)


def test_a_cohort_tells_who_takes_part():
    data = three_clients().subset([7, "ada", "bob"])
    cohort = data.cohort(["ada", 7, "ada"], Batching(2))
    assert cohort.ids == ("ada", 7, "ada")
    assert cohort.client_index.dtype == np.int32
    np.testing.assert_array_equal(cohort.client_index, [0, 2, 0])  # rows of the population, not of the subset
    assert len(np.unique(cohort.identity)) == 3
    assert str(cohort.member_type) == "<x=float32[?,2],y=int32[?]>*"
    np.testing.assert_array_equal(cohort.digests, data.cohort(cohort.ids, Batching(3)).digests)


def test_a_source_of_ones_own():
    class Squares:
        """Client i holds 0, i, 2 i, ... of i examples."""

        sizes = np.arange(4)
        element = {"x": jax.ShapeDtypeStruct((), np.float32)}

        def examples(self, client):
            return {"x": np.arange(client, dtype=np.float32) * client}

        def read(self, clients, out):
            out["x"][:] = np.concatenate([self.examples(i)["x"] for i in clients])

    data = FederatedData(list("abcd"), Squares())
    np.testing.assert_array_equal(data["d"]["x"], [0, 3, 6])
    train, test = data.subset(["d", "c"]).split_examples(0.5)
    np.testing.assert_array_equal(test["d"]["x"], [6])
    out = {"x": np.empty(3, np.float32)}
    train.cohort(["c", "d"], Batching(1)).value.read(np.arange(2), out)
    np.testing.assert_array_equal(out["x"], [0, 0, 3])
    with pytest.raises(ValueError, match="one id per client, got 2 ids for 4"):
        FederatedData(["a", "b"], Squares())


def test_threads_may_share_the_data():
    data = FederatedData.from_clients([examples(10 * i, i) for i in range(8)]).map(lambda e: {"y": e["y"] + 1})

    def rows(_):
        return data.cohort(data.client_ids, Batching(2, 2, shuffle=True), key=jax.random.key(0)).value.batch_rows(
            np.arange(8)
        )

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = list(threads.map(rows, range(16)))
    for result in results:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("empty", [[], np.array([]), jax.numpy.zeros(0)])
@pytest.mark.parametrize("first", [True, False])
def test_a_client_without_examples_takes_the_types_of_the_others(empty, first):
    """In files of LEAF a user without samples has empty lists."""
    full, none = {"x": np.ones((3, 784), np.float32), "y": [1, 2, 3]}, {"x": empty, "y": empty}
    clients = {"none": none, "full": full} if first else {"full": full, "none": none}
    data = FederatedData.from_clients(clients)
    assert str(data.element_type) == "<x=float32[?,784],y=int32[?]>" and data.sizes.sum() == 3
    assert data["none"]["x"].shape == (0, 784) and data["none"]["y"].dtype == np.int32


@pytest.mark.parametrize("clients", [[[1.5, 2.5], [1, 2]], [[1, 2], [1.5, 2.5]]])
def test_integers_among_floats_are_to_become_floats(clients):
    with pytest.raises(TypeError, match=r'give all clients one dtype: np.asarray\(values, "float32"\)'):
        FederatedData.from_clients([{"x": values} for values in clients])


@pytest.mark.parametrize(("dtype", "found"), [(">f4", "float32"), (">f8", "float32"), (">i8", "int32")])
def test_the_byte_order_of_a_file_does_not_matter(dtype, found):
    data = FederatedData.from_clients([{"x": np.array([1, 2], dtype)}])
    assert str(data.element_type) == f"<x={found}[?]>" and data[0]["x"].tolist() == [1, 2]


class _Tensor:
    """Like a tensor of torch, which NumPy can read unless it has gradients."""

    dtype, shape = "torch.float32", (3,)

    def __init__(self, has_gradients=False):
        self._has_gradients = has_gradients

    def __array__(self, *args, **kwargs):
        if self._has_gradients:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return np.arange(3, dtype=np.float32)


def test_tensors_of_another_library():
    assert FederatedData.from_clients([{"x": _Tensor()}])[0]["x"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(TypeError, match=r"field 'x' must be an array, .*_Tensor.*requires grad.*write tensor.detach"):
        FederatedData.from_clients([{"x": _Tensor(has_gradients=True)}])
    with pytest.raises(TypeError, match=r"must be a pytree of arrays, .* convert it with np.asarray"):
        fc.types.type_of({"x": _Tensor()})
    with pytest.raises(TypeError, match=r"expected float32\[3\], got .*; convert it with np.asarray"):
        fc.computation(lambda x: x, "float32[3]")(_Tensor())


def test_names_that_cannot_be_sorted_are_refused():
    with pytest.raises(TypeError, match="the names of fields must be either all strings or all integers"):
        FederatedData.from_clients([{"x": [1.0], 1: [2.0]}])
    with pytest.raises(TypeError, match="the names of fields must be either all strings or all integers"):
        FederatedData.from_clients([{"x": [1.0]}]).map(lambda examples: {"x": examples["x"], 1: examples["x"]})


@pytest.mark.parametrize("fn", [5, None, {"x": 1}])
def test_map_takes_a_function(fn):
    with pytest.raises(TypeError, match=r"data.map\(fn\) must be a function of a client's examples, got .*"):
        FederatedData.from_clients([{"x": [1.0]}]).map(fn)
