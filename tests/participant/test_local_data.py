from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from fedjax_core.data import Batching, FederatedData
from fedjax_core.participant._local_data import LocalData
from fedjax_core.types import parse_type, to_type, tree_of_types

TYPE = parse_type("<x=float32[?,2],y=int32[?]>")
EXAMPLES = {"x": np.arange(14.0).reshape(7, 2), "y": np.arange(7)}
KEY = jax.random.key(0)


def rows(data: LocalData, batching: Batching, key=None) -> list:
    """The labels in every batch, and those in its padding."""
    batches = list(data.batches(batching, key))
    assert len(batches) == data.num_batches(batching)
    for batch, mask in batches:
        assert batch["x"].dtype == np.float32 and batch["y"].dtype == np.int32 and mask.dtype == bool
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["y"])
        assert set(batch["y"][~mask]) <= set(batch["y"][mask])
    return [batch["y"][mask].tolist() for batch, mask in batches]


@pytest.mark.parametrize(
    "batching, expected",
    [
        (Batching(3), [[0, 1, 2], [3, 4, 5], [6]]),
        (Batching(3, drop_remainder=True), [[0, 1, 2], [3, 4, 5]]),
        (Batching(5, num_epochs=2), [[0, 1, 2, 3, 4], [5, 6, 0, 1, 2], [3, 4, 5, 6]]),
        (Batching(7), [[0, 1, 2, 3, 4, 5, 6]]),
        (Batching(2**40), [[0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_batches_are_those_of_batching(batching, expected):
    assert rows(LocalData("train_data", EXAMPLES, TYPE), batching) == expected


def test_a_batch_is_no_larger_than_the_data():
    data = LocalData("train_data", EXAMPLES, TYPE)
    assert [mask.shape for _, mask in data.batches(Batching(2**40), None)] == [(7,)]
    assert [mask.shape for _, mask in data.batches(Batching(10, num_epochs=2), None)] == [(10,), (10,)]


def test_shuffles_as_the_cohort_of_the_same_client():
    population = FederatedData.from_clients({"ada": EXAMPLES, "bob": EXAMPLES})
    batching = Batching(3, num_epochs=2, shuffle=True)
    cohort = population.cohort(["bob"], batching, key=KEY)
    expected = [[i for i in row if i >= 0] for row in cohort.value.batch_rows(np.zeros(1, int)).tolist()]
    data = LocalData("train_data", population.subset(["bob"]), TYPE)
    assert rows(data, batching, KEY) == expected != rows(data, batching, jax.random.key(1))


def test_reads_a_mapped_client():
    data = FederatedData.from_clients([{"pixels": EXAMPLES["x"], "y": EXAMPLES["y"]}])
    mapped = data.map(lambda examples: {"x": examples["pixels"], "y": examples["y"]})
    assert rows(LocalData("train_data", mapped, TYPE), Batching(4)) == [[0, 1, 2, 3], [4, 5, 6]]


class Swapped(NamedTuple):
    y: Any
    x: Any


@pytest.mark.parametrize("make", [lambda type_: type_, lambda type_: to_type(Swapped(*type_))])
def test_a_dict_of_examples_is_matched_to_the_models_batch_by_name(make):
    type_ = make(parse_type("<y=float32[?],x=float32[?]>"))
    data = LocalData("train_data", {"x": np.float32([1, 2]), "y": np.float32([10, 20])}, type_)
    ((batch, _),) = data.batches(Batching(2), None)
    assert [leaf.tolist() for leaf in type_.unpack(batch)] == [[10, 20], [1, 2]]
    assert jax.tree.structure(batch) == jax.tree.structure(tree_of_types(type_))


def test_no_batch_is_refused():
    empty = LocalData("train_data", {"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, TYPE)
    with pytest.raises(ValueError, match=r"TrainingManager\(train_data=...\) holds 0 examples, from which .* no batch"):
        empty.num_batches(Batching(3))
    with pytest.raises(ValueError, match=r"holds 7 examples, from which .*drop_remainder=True.* makes no batch"):
        LocalData("train_data", EXAMPLES, TYPE).num_batches(Batching(8, drop_remainder=True))


def test_shuffling_needs_a_key():
    data = LocalData("train_data", EXAMPLES, TYPE)
    with pytest.raises(ValueError, match=r"shuffles and needs a key, got none; use TrainingManager\(key="):
        next(data.batches(Batching(3, shuffle=True), None))


@pytest.mark.parametrize(
    "data, error, message",
    [
        (
            FederatedData.from_clients([EXAMPLES, EXAMPLES]),
            ValueError,
            r"valid_data=...\) must be one client's data, got 2",
        ),
        ({"x": EXAMPLES["x"]}, TypeError, r"valid_data=...\) holds <x=float32\[\?,2\]>, but the model takes <x="),
        ({**EXAMPLES, "y": EXAMPLES["x"]}, TypeError, "y=float32"),
        ({"x": EXAMPLES["x"], "y": [1]}, ValueError, "every field needs one row per example"),
    ],
)
def test_other_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        LocalData("valid_data", data, TYPE)
