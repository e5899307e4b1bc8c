"""The structure is right or it is not: a round against a hand-written program, in turn, in one process."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "w1_round.py"


@pytest.mark.slow
def test_a_w1_round_takes_at_most_one_and_a_half_times_the_hand_written_program():
    command = [sys.executable, str(SCRIPT), "--rounds", "15", "--devices", "2"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert max(result["max_error"].values()) < 1e-5
    assert result["ratio_of_pairs_median"] <= 1.5, result
