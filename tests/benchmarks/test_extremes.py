"""The benchmark of a model of many leaves and a large one."""

import json

import extremes
import pytest


@pytest.mark.slow
def test_prints_ours_beside_the_hand_written_program(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # the tests' own devices are of no use to the programs
    extremes.main(["--workloads", "W5", "--pairs", "1", "--layers", "2"])
    found = json.loads(capsys.readouterr().out)
    costs = found["W5"]
    assert found["layers"] == 2 and costs["pairs"] == 1
    for name, ratio in costs["ratio_of_pairs_median"].items():
        assert ratio == pytest.approx(costs["ours"][name] / costs["hand_written"][name]) and ratio > 0


def test_nothing_to_measure_is_refused(capsys):
    for line, told in {
        "--pairs 0": "--pairs is at least 1, got 0",
        "--layers 0": "--layers is at least 1, got 0",
        "--workloads W9": "--workloads takes W5 and W6, got W9",
    }.items():
        with pytest.raises(SystemExit):
            extremes.main(line.split())
        assert told in capsys.readouterr().err
