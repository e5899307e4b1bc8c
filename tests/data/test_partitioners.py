"""Partitioners: every row goes to one client, as unequally as was asked for."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core import data

KEY = jax.random.key(0)


def labelled(num_rows: int, num_labels: int = 10) -> dict:
    return {"x": np.arange(num_rows), "y": np.arange(num_rows) % num_labels}


def histograms(federated: data.FederatedData, num_labels: int = 10) -> np.ndarray:
    return np.stack([np.bincount(e["y"], minlength=num_labels) for e in federated.values()])


def skew(partitioner, seed: int = 0) -> float:
    """Mean total variation distance between a client's labels and everyone's."""
    federated = data.partition(labelled(2000), 20, partitioner, key=jax.random.key(seed))
    shares = histograms(federated) / federated.sizes[:, None]
    return float(abs(shares - 0.1).sum(1).mean() / 2)


@given(
    st.integers(1, 12),
    st.integers(0, 60),
    st.integers(1, 5),
    st.sampled_from([data.iid(), data.dirichlet(0.01), data.dirichlet(1.0), data.shards(1), data.shards(2)]),
    st.integers(0, 3),
)
def test_every_row_goes_to_one_client_and_no_client_is_empty(num_clients, extra, num_labels, partitioner, seed):
    arrays = labelled(2 * num_clients + extra, num_labels)
    federated = data.partition(arrays, num_clients, partitioner, key=jax.random.key(seed))
    assert federated.client_ids == tuple(range(num_clients))
    assert (federated.sizes > 0).all()
    rows = [e["x"] for e in federated.values()]
    assert all((np.diff(r) > 0).all() for r in rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), arrays["x"])
    for held in federated.values():
        np.testing.assert_array_equal(held["y"], held["x"] % num_labels)


@pytest.mark.parametrize("partitioner", [data.iid(), data.dirichlet(0.5), data.shards(2)])
def test_the_key_alone_decides(partitioner):
    def assigned(seed):
        federated = data.partition(labelled(200), 10, partitioner, key=jax.random.key(seed))
        return np.concatenate([e["x"] for e in federated.values()]).tolist()

    assert assigned(0) == assigned(0) != assigned(1)


@pytest.mark.parametrize("partitioner", [data.iid(), data.dirichlet(0.3)])
def test_sizes_differ_by_at_most_one(partitioner):
    sizes = data.partition(labelled(205), 10, partitioner, key=KEY).sizes
    assert sizes.min() == 20 and sizes.max() == 21


def test_the_skew_of_dirichlet_falls_with_alpha():
    skews = [np.mean([skew(data.dirichlet(a), s) for s in range(3)]) for a in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)]
    assert all(a > b for a, b in itertools.pairwise(skews))
    assert skews[0] > 0.85
    assert abs(skews[-1] - skew(data.iid())) < 0.05


def test_dirichlet_follows_the_labels_of_everyone():
    arrays = {"x": np.zeros(2000), "y": np.repeat([3, 8], [1800, 200])}
    counts = histograms(data.partition(arrays, 20, data.dirichlet(1e6), key=KEY))
    assert (abs(counts[:, 3] - 90) < 20).all()


def test_the_first_clients_of_dirichlet_have_the_mixture_of_the_paper():
    """With many rows nothing runs out, and a label's share has the variance of Dir(alpha p)."""
    alpha, share = 2.0, 0.1
    federated = data.partition(labelled(40_000), 400, data.dirichlet(alpha), key=KEY)
    shares = histograms(federated) / 100
    expected = share * (1 - share) / (alpha + 1) + share * (1 - share) / 100
    assert 0.75 < shares.var() / expected < 1.25


def test_shards_give_each_client_few_labels():
    federated = data.partition(labelled(1000), 50, data.shards(2), key=KEY)
    assert ((histograms(federated) > 0).sum(1) <= 2).all()
    assert set(federated.sizes.tolist()) == {20}


def test_shards_sort_by_the_named_column():
    arrays = {"x": np.arange(40), "digit": np.arange(40) % 4}
    federated = data.partition(arrays, 4, data.shards(1, column="digit"), key=KEY)
    assert all(len(set(e["digit"].tolist())) == 1 for e in federated.values())


def test_by_column_makes_a_client_of_each_value():
    arrays = {"x": np.arange(5), "y": np.array([2, 1, 2, 2, 1])}
    federated = data.partition(arrays, None, data.by_column("y"))
    assert federated.client_ids == (1, 2)
    np.testing.assert_array_equal(federated[1]["x"], [1, 4])
    np.testing.assert_array_equal(federated[1]["y"], [1, 1])


@pytest.mark.parametrize("names", [["b", "a", "b"], np.array(["b", "a", "b"]), np.array(["b", "a", "b"], object)])
def test_a_column_of_strings_becomes_the_ids_only(names):
    federated = data.partition({"x": [1, 2, 3], "writer": names}, None, data.by_column("writer"))
    assert federated.client_ids == ("a", "b")
    assert str(federated.element_type) == "<x=int32[?]>"
    np.testing.assert_array_equal(federated["b"]["x"], [1, 3])


def test_a_partitioner_of_ones_own():
    def first_half(arrays, num_clients, key):
        return (np.arange(len(arrays["x"])) >= len(arrays["x"]) / 2) * 1

    federated = data.partition(labelled(6), 3, first_half)
    np.testing.assert_array_equal(federated.sizes, [3, 3, 0])
    with pytest.raises(ValueError, match="integer from 0 to 0, got int64 from 0 to 1"):
        data.partition(labelled(6), 1, first_half)
    with pytest.raises(ValueError, match="6 rows and there are 2 client ids"):
        data.partition(labelled(6), 3, lambda arrays, num_clients, key: np.zeros(2, int))
    with pytest.raises(ValueError, match="integer from 0 to 2, got float64"):
        data.partition(labelled(6), 3, lambda arrays, num_clients, key: np.zeros(6))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: data.dirichlet(0.0), ValueError, r"alpha=...\) must be positive and finite, got 0.0"),
        (lambda: data.dirichlet("1"), TypeError, "must be positive and finite, got '1'"),
        (lambda: data.shards(0), ValueError, "at least 1, got 0"),
        (lambda: data.shards(1.5), TypeError, "must be an integer of at least 1, got 1.5"),
        (lambda: data.partition(labelled(9), 10, data.iid(), key=KEY), ValueError, "9 rows for 10 clients"),
        (lambda: data.partition(labelled(9), 5, data.shards(2), key=KEY), ValueError, r"use at most shards\(1\)"),
        (lambda: data.partition(labelled(9), 0, data.iid(), key=KEY), ValueError, "at least 1, got 0"),
        (lambda: data.partition(labelled(9), None, data.iid(), key=KEY), ValueError, "needs the number of clients"),
        (lambda: data.partition(labelled(9), 3, data.iid()), TypeError, r"jax.random.key\(0\)"),
        (lambda: data.partition(labelled(9), 3, data.by_column("y")), ValueError, "partition.arrays, None"),
        (lambda: data.partition({"x": [1, 2]}, 2, data.dirichlet(1.0), key=KEY), ValueError, "needs a field 'y'"),
        (lambda: data.partition({"x": [0.5]}, 1, data.shards(1, "x"), key=KEY), ValueError, "one integer or string"),
        (lambda: data.partition({"x": [1], "y": [1, 2]}, 1, data.iid(), key=KEY), ValueError, "field 'y' has 2 rows"),
        (lambda: data.partition([1, 2], 1, data.iid(), key=KEY), TypeError, "dict of arrays"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
