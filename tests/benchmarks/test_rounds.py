"""Rounds through the public API, verified and measured."""

import math

import pytest
import rounds
import workloads


@pytest.mark.parametrize("name", ["W1", pytest.param("W3", marks=pytest.mark.slow)])
def test_ours_and_the_hand_written_program_agree_and_are_timed(data, name):
    reference = workloads.load_reference(data) if name == "W1" else None
    measured = rounds.measure(workloads.load(name, data), 1, 1, reference, against=True)
    assert set(measured["difference"]) == ({"hand_written", "reference"} if reference else {"hand_written"})
    assert 0 < measured["compile_s"] < measured["first_round_s"]
    assert measured["ratio"] == pytest.approx(measured["ours_s"] / measured["hand_written_s"])


@pytest.mark.slow
def test_as_many_lanes_as_clients(data):
    measured = rounds.measure(workloads.load("W1", data), 1, 1, workloads.load_reference(data), False, "cohort")
    assert measured["ours_s"] > 0 and "ratio" not in measured
    assert rounds._lanes("1,auto,cohort") == [1, "auto", "cohort"]


@pytest.mark.parametrize("error", [1e-3, math.nan])
def test_weights_that_do_not_agree_are_not_timed(error):
    rounds.check("W1", "reference", 1e-7)
    with pytest.raises(AssertionError, match=r"W1: after two rounds .* from the reference"):
        rounds.check("W1", "reference", error)
