"""Side information about the clients of a cohort."""

import numpy as np
import pytest

import fedjax_core as fc

DATA = fc.data.from_clients({"ada": {"x": np.ones(3)}, "bob": {"x": np.ones(1)}, "eve": {"x": np.ones(0)}})
BATCHING = fc.data.Batching(2)


def cohort(extra, ids=("eve", "ada")):
    return DATA.cohort(list(ids), BATCHING, extra=extra)


def test_arrays_are_in_the_order_of_the_cohort_and_dicts_by_id():
    made = cohort({"delay": [7, 8], "bias": {"ada": [1.0, 2.0], "bob": [3.0, 4.0], "eve": [5.0, 6.0]}})
    assert made.extra["delay"].dtype == np.int32 and made.extra["delay"].tolist() == [7, 8]
    assert made.extra["bias"].dtype == np.float32 and made.extra["bias"].tolist() == [[5, 6], [1, 2]]
    assert cohort(None).extra == cohort({}).extra == {}


def test_a_client_drawn_twice_has_a_row_for_each_time():
    assert cohort({"delay": [1, 2]}, ["ada", "ada"]).extra["delay"].tolist() == [1, 2]


def test_a_cohort_keeps_what_it_was_given():
    delays = np.array([1, 2], np.int32)
    made = cohort({"delay": delays})
    delays[:] = 0
    assert made.extra["delay"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        ({"delay": [1, 2, 3]}, ValueError, r"one row for each of the cohort's 2 clients, in their order, got 3 rows"),
        ({"delay": 1}, ValueError, r"extra=\{'delay': ...\}\) must have one row .* got 1; .*use a dict from client id"),
        ({"delay": {"eve": 1}}, ValueError, r"got none for client 'ada'"),
        ({"delay": ["slow", "fast"]}, TypeError, r"'delay'.* must hold numbers or booleans"),
        ({"delay": [1, 2**40]}, ValueError, r"of client 'ada' holds 1099511627776 in row 1, which does not fit int32"),
        ([1, 2], TypeError, r"must be a dict from name to values, got \[1, 2\]; use extra="),
        ({1: [1, 2]}, TypeError, r"must be a dict from name to values"),
    ],
)
def test_what_is_refused(extra, error, words):
    with pytest.raises(error, match=words):
        cohort(extra)
