"""What is no array of one client's numbers is refused, and not taken for another one."""

import jax
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.data import FederatedData, by_column, from_arrays, from_clients, partition

MASKED = np.ma.masked_equal(np.array([1.0, 99.0, 2.0]), 99.0)


class Frame:
    """A table as pandas and polars have them, which NumPy makes a matrix of."""

    columns = ("a", "label")

    def __len__(self):
        return 3

    def __array__(self, dtype=None, copy=None):
        return np.ones((3, 2), np.float32)


WRONG = {
    "a masked array": (MASKED, TypeError, r"masked array, whose mask would be lost; .*values\.filled\(0\)"),
    "a list of masked arrays": ([MASKED, MASKED, MASKED], TypeError, "masked array, whose mask would be lost"),
    "a masked array that masks nothing": (np.ma.array([1.0, 2.0, 3.0]), TypeError, "masked array"),
    "a table": (Frame(), TypeError, r"got a Frame with the columns \['a', 'label'\]; .*'y': frame\['label'\]"),
    "nothing": (None, TypeError, "must hold numbers, got None; leave the field out"),
    "a number beyond float32": ([1.0, -1e39, 2.0], ValueError, r"holds -1e\+39 in row 1, which does not fit float32"),
    "a number beyond complex64": (np.array([1, 2, 1e39j]), ValueError, "in row 2, which does not fit complex64"),
}

BUILD = {
    "from_clients": lambda x: from_clients({"ada": {"x": x, "y": [0, 1, 2]}}),
    "from_arrays": lambda x: from_arrays({"x": x, "y": [0, 1, 2]}, ["ada"] * 3),
    "partition": lambda x: partition({"x": x, "y": [0, 1, 2]}, None, by_column("y")),
    "map": lambda x: from_clients({"ada": {"y": [0, 1, 2]}}).map(lambda e: {**e, "x": x}),
    "extra": lambda x: from_clients([{"y": [0]}] * 3).cohort(range(3), fc.data.Batching(1), extra={"x": x}),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("how", BUILD)
def test_it_is_refused_wherever_data_come_in(how, what):
    value, error, message = WRONG[what]
    if (how, what) == ("extra", "nothing"):
        message = "must have one row for each"  # a value of no dimension
        error = ValueError
    with pytest.raises(error, match=message):
        BUILD[how](value)


@pytest.mark.parametrize("how", ["from_clients", "from_arrays"])
def test_a_number_beyond_float32_is_named_with_its_client(how):
    make = {
        "from_clients": lambda: from_clients({"ada": {"x": [1.0]}, "bob": {"x": [2.0, 1e39]}}),
        "from_arrays": lambda: from_arrays({"x": [1e39, 2.0, 1.0]}, ["bob", "bob", "ada"]),
    }[how]
    with pytest.raises(ValueError, match=r"client 'bob'.* holds 1e\+39 .*divide the values by their scale"):
        make()


def test_infinities_and_missing_values_stay_what_they_are():
    x = np.array([np.inf, -np.inf, np.nan, 3e38])
    np.testing.assert_array_equal(from_clients([{"x": x}])[0]["x"], x.astype(np.float32))


def test_a_table_is_refused_as_the_examples_of_a_client():
    with pytest.raises(TypeError, match="client 'ada': the array must hold numbers, got a Frame with the columns"):
        from_clients({"ada": Frame()})
    with pytest.raises(TypeError, match="got a Frame with the columns"):
        from_arrays(Frame(), ["ada"] * 3)


def test_masked_ids_and_masked_weights_are_refused():
    ids = np.ma.masked_equal([1, 2, 99], 99)
    with pytest.raises(TypeError, match="client ids is a masked array"):
        FederatedData.from_arrays({"x": np.zeros(3)}, ids)
    with pytest.raises(TypeError, match="masked array"):
        fc.data.weighted_sampler(range(3), MASKED, 1, key=jax.random.key(0))
