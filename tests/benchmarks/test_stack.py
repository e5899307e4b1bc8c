"""The full stack against a plain mean: both learn, and are timed in turn."""

import math

import numpy as np
import pytest
import stack
import workloads

from fedjax_core.model_calls import model_metrics


@pytest.mark.slow
def test_both_learn_and_are_timed(data):
    measured = stack.measure(workloads.load("W1", data), 3, 1)
    assert measured["ratio"] == pytest.approx(measured["stack_s"] / measured["plain_s"])
    assert measured["clients_sampled"] == 5 and measured["rounds"] == 3


def test_there_are_eight_metrics(data):
    model = workloads.model(workloads.load("W1", data))._replace(metrics=stack.eight_metrics())
    assert len(model_metrics(model)) == 8


@pytest.mark.parametrize("losses", [[4.0, 5.0], [math.nan, 1.0]])
def test_what_did_not_learn_is_no_measurement(losses):
    stack.check_learned("W1", 4.2, np.array([4.0, 4.3]))
    with pytest.raises(AssertionError, match=r"W1: the loss went from 4\.2000 to"):
        stack.check_learned("W1", 4.2, np.array(losses))


def test_few_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        stack.main(["--rounds", "3"])
    assert "--rounds is at least 7" in capsys.readouterr().err
