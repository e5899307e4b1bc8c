"""`kill -9` at any moment of a run: it is resumed, and ends as if nothing had happened."""

import csv
import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

WORKER = pathlib.Path(__file__).parent / "crash_worker.py"
ROUNDS = 12


@pytest.fixture
def workers():
    """Starts a training process and waits for its end."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, WORKER], env=environment, **pipes) as server:

        def run(folder: pathlib.Path, kill: dict | None = None) -> dict:
            server.stdin.write(json.dumps({"folder": str(folder), "kill": kill}) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield run
        server.stdin.close()


def _drawn(random_: random.Random, run: pathlib.Path) -> dict:
    """When a process is killed: at a file of a checkpoint, at any file of the run, or at any time."""
    kill = {"rounds": random_.randrange(4)}
    kind = random_.choice(["checkpoint", "checkpoint", "file", "time"])
    if kind == "time":
        return {**kill, "seconds": random_.expovariate(1 / 0.02)}
    below = run / "checkpoints" if kind == "checkpoint" else run
    return {**kill, "below": f"{below}/", "events": random_.randrange(1, 60)}


def _is_half_written(folder: pathlib.Path) -> bool:
    checkpoints = folder / "checkpoints"
    return checkpoints.is_dir() and any(path.name.startswith(".") for path in checkpoints.iterdir())


def _measured(folder: pathlib.Path) -> list[dict]:
    """What each file holds about each round, without the times and without a torn last line."""
    files = [_rows(folder / name) for name in ("metrics.csv", "released.csv", "released.jsonl")]
    longest = max(files, key=len)
    assert all(rows == longest[: len(rows)] for rows in files)
    return longest


def _rows(path: pathlib.Path) -> list[dict]:
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    rows = csv.DictReader(whole) if path.suffix == ".csv" else map(json.loads, whole)
    return [{name: float(cell) for name, cell in row.items() if cell != "" and "seconds" not in name} for row in rows]


def _evaluated(folder: pathlib.Path) -> list[dict]:
    return _rows(folder / "evaluation" / "metrics.jsonl")


def _files(folder: pathlib.Path) -> set[str]:
    """All files except the arrays, for which orbax chooses random names."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {path.as_posix() for path in paths if "arrays" not in path.parts}


def _check_readable(folder: pathlib.Path) -> None:
    """All that a killed process has left is readable; the next process reads it, with warnings as errors."""
    if not folder.exists():
        return
    assert [row["round"] for row in _measured(folder)] == list(range(1, len(_measured(folder)) + 1))
    evaluated = [row["round"] for row in _evaluated(folder)]
    assert evaluated == sorted(set(evaluated))
    if (folder / "run.json").exists():
        assert json.loads((folder / "run.json").read_text())["settings"]["rounds"] == ROUNDS
    if (folder / "weights.npz").exists():
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            assert len(weights.files) == 2
    if (folder / "exports" / "weights").exists():
        assert len(load_file(folder / "exports" / "weights" / "weights.safetensors")) == 2
    for checkpoint in folder.glob("**/checkpoints/[0-9]*"):
        json.loads((checkpoint / "manifest.json").read_text())


def _assert_the_same_bits(workers, folder: pathlib.Path, kills: int, seed: int) -> None:
    """Runs one run after another, each killed and resumed until it is done, until there have been enough kills."""
    random_, half_written, runs = random.Random(seed), 0, 0
    expected = workers(folder / "run" / "uninterrupted")
    assert expected["status"] == 0
    rows, evaluated = _measured(folder / "run" / "uninterrupted"), _evaluated(folder / "run" / "uninterrupted")
    assert [row["round"] for row in evaluated] == [3, 6, 9, 12]
    assert [row["round"] for row in rows] == list(range(1, ROUNDS + 1))
    while kills > 0:
        runs += 1
        run = folder / "run" / str(runs)
        ended = {"status": None}
        while ended["status"] != 0:
            ended = workers(run, _drawn(random_, run) if kills > 0 else None)
            assert ended["status"] in (0, -signal.SIGKILL)
            kills -= ended["status"] != 0
            half_written += _is_half_written(run)
            _check_readable(run)
        assert ended["digest"] == expected["digest"]
        assert _measured(run) == rows and _evaluated(run) == evaluated
        assert _files(run) == _files(run.parent / "uninterrupted")
    assert half_written


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_bits(workers, tmp_path):
    _assert_the_same_bits(workers, tmp_path, kills=5, seed=0)


@pytest.mark.slow
def test_fifty_kills(workers, tmp_path):
    _assert_the_same_bits(workers, tmp_path, kills=50, seed=1)
