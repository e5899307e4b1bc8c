"""The structure is right or it is not: a round against a hand-written program, in turn, in one process."""

import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_a_w1_round_takes_at_most_one_and_a_half_times_the_hand_written_program(tmp_path):
    """Of the workload's 3,400 clients 300 are enough for cohorts of 100."""
    make = "import pathlib, sys, workloads; workloads.make(pathlib.Path(sys.argv[1]), population=300, writers=30)"
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], check=True, cwd=BENCHMARKS)
    command = [sys.executable, str(BENCHMARKS / "rounds.py"), "--data", str(tmp_path), "--workloads", "W1"]
    command += ["--rounds", "15", "--devices", "2", "--against", "limits"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["W1"]
    assert max(result["difference"].values()) < 1e-5
    assert result["ratio_of_pairs_median"] <= 1.5, result
