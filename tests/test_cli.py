"""The command line, as a user types it."""

import csv
import dataclasses
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from fedjax_core._cli_options import SERVER_RATES, SETTINGS, TrainOptions
from fedjax_core.cli import main
from fedjax_core.templates import LearningProcess

_FILES = {"curves.png", "metrics.csv", "options.json", "weights.npz"}


def _environment() -> dict:
    """That of a user, who has not set the number of devices as the tests do."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def _command(*arguments) -> list[str]:
    return [sys.executable, "-m", "fedjax_core", *arguments]


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "a command is missing; write `fedjax-core train`"),
        ("trian", "there is no command 'trian'; write `fedjax-core train`"),
        ("train --rounds -1", "--rounds must be at least 1, got -1; for example --rounds 50"),
        ("train --rounds 0", "--rounds must be at least 1, got 0"),
        ("train --rounds x", "--rounds must be an integer, got 'x'"),
        ("train --rounds=1.5", "--rounds must be an integer, got '1.5'"),
        ("train --rounds", "--rounds needs a value"),
        ("train --rounds --seed 1", "--rounds needs a value"),
        ("train --seed -1", "--seed must be at least 0, got -1"),
        ("train --seed 4294967296", "--seed must be at most 4294967295"),
        ("train --client-lr nan", "--client-lr must be positive and finite, got nan"),
        ("train --client-lr -0.1", "--client-lr must be positive and finite, got -0.1"),
        ("train --server-lr much", "--server-lr must be a number, got 'much'"),
        ("train --data mnist", "--data must be one of digits, shakespeare, synthetic, got 'mnist'"),
        ("train --algorithm sgd", "--algorithm must be one of fed-avg, fed-sgd, got 'sgd'"),
        ("train --server-optimizer adamw", "--server-optimizer must be one of sgd, momentum, adam, yogi, adagrad"),
        ("train --round 3", "there is no option '--round'; did you mean --rounds?"),
        ("train --frobnicate=3", "there is no option '--frobnicate'; `fedjax-core train --help` lists all"),
        ("train digits", "unexpected 'digits'; `fedjax-core train --help` lists all"),
        ("train --algorithm fed-sgd --epochs 2", "--epochs is for local training, which fed-sgd has none of"),
        ("train --algorithm fed-sgd --client-lr 1", "--client-lr is for local training"),
        ("train --cohort-size 101", "--cohort-size 101 is more than the 100 clients of digits"),
        ("train --devices 1000", "--devices 1000 is more than the 8 that JAX sees here"),
        ("train --compilation-cache=", "--compilation-cache must be on, off or the name of a folder, got ''"),
        ("train --compilation-cache taken/cache", "the folder of --compilation-cache cannot be made"),
        ("train --out .", "--out . exists and is never overwritten; choose a new folder"),
        ("train --out taken", "--out taken exists and is never overwritten"),
        ("train --out taken/run", "the folder for the results cannot be made"),
    ],
)
def test_wrong_input_is_answered_in_one_line(line, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("taken").write_text("")
    assert main(line.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("fedjax-core: " + message)
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_help_explains_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    assert end.value.code in (None, 0)
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name in (field.name.replace("_", "-") for field in dataclasses.fields(TrainOptions)):
        assert re.search(rf"--{name} \S+ \w.*?\(default: ", shown), name
    for settings in SETTINGS.values():
        assert f"{settings.cohort_size} for" in shown
    assert all(f"{rate} for {name}" in shown for name, rate in SERVER_RATES.items())


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_top_level_help(arguments, capsys):
    assert main(arguments) == 0
    assert "fedjax-core train --help" in capsys.readouterr().out


def test_trains_and_leaves_a_folder(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(f"train --rounds 4 --cohort-size 5 --evaluate-every 2 --seed 3 --out {out}".split()) == 0
    shown = capsys.readouterr()
    assert {file.name for file in out.iterdir()} == _FILES
    assert "digits: 100 clients with" in shown.out
    assert "round 2/4: loss" in shown.out
    assert re.search(r"held-out accuracy \d+\.\d % after 4 rounds", shown.out)
    assert str(out) in shown.out
    assert shown.err == ""
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["held_out/eval/accuracy"]) for row in rows] == [False, True, False, True]
    options = json.loads((out / "options.json").read_text())
    assert (options["seed"], options["rounds"], options["client_lr"]) == (3, 4, SETTINGS["digits"].client_lr)
    with np.load(out / "weights.npz", allow_pickle=False) as weights:
        assert weights["dense_0.kernel"].shape == (64, 128)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(tmp_path):
    weights = []
    for name in ("first", "second"):
        assert main(f"train --rounds 2 --cohort-size 3 --out {tmp_path / name}".split()) == 0
        with np.load(tmp_path / name / "weights.npz", allow_pickle=False) as file:
            weights.append(dict(file))
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("algorithm", ["fed-avg", "fed-sgd"])
@pytest.mark.parametrize("optimizer", SERVER_RATES)
def test_every_optimizer_suits_every_algorithm(optimizer, algorithm):
    from fedjax_core import _cli_run, _cli_tasks

    task = _cli_tasks.synthetic(jax.random.key(0))
    options = TrainOptions(data="synthetic", algorithm=algorithm, server_optimizer=optimizer)
    process, _ = _cli_run._programs(_cli_run._completed(options, task), task, jax.random.key(1))
    assert isinstance(process, LearningProcess)


@pytest.mark.slow
@pytest.mark.parametrize("line", ["--algorithm fed-sgd --seed 9", "--data synthetic --lanes 2 --devices 2"])
def test_other_runs(line, tmp_path):
    assert main(f"train --rounds 1 --cohort-size 2 {line} --out {tmp_path / 'run'}".split()) == 0


def test_updates_that_are_not_finite_are_told(tmp_path, capsys):
    assert main(f"train --rounds 2 --cohort-size 2 --client-lr 1e30 --out {tmp_path / 'run'}".split()) == 0
    assert "updates of clients were not finite and left out; lower the learning rates" in capsys.readouterr().out


def test_without_matplotlib_the_run_finishes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "run"
    assert main(f"train --rounds 1 --cohort-size 2 --out {out}".split()) == 0
    assert "run: pip install 'fedjax-core[plots]'" in capsys.readouterr().err
    assert {file.name for file in out.iterdir()} == _FILES - {"curves.png"}


def test_help_and_version():
    for argument, expected in (("--version", b"fedjax-core 0."), ("--help", b"usage: fedjax-core")):
        shown = subprocess.run(_command(argument), env=_environment(), capture_output=True, check=True).stdout
        assert shown.startswith(expected)


def _in_a_terminal(arguments: list[str], folder: pathlib.Path, interrupt_at: bytes | None = None) -> tuple[int, bytes]:
    """Runs the command in a terminal of 80 columns and presses Ctrl-C when something is shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits that it is ignored
        os.chdir(folder)
        os.execvpe(sys.executable, _command(*arguments), {**_environment(), "TERM": "xterm", "COLUMNS": "80"})
    shown = b""
    while select.select([terminal], [], [], 120)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            break
        if interrupt_at and interrupt_at in shown:
            os.kill(pid, signal.SIGINT)
            interrupt_at = None
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


# jax runs threads, and the child of the fork does nothing but exec.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_terminal_shows_a_progress_bar(tmp_path):
    status, shown = _in_a_terminal(["train", "--rounds", "6", "--cohort-size", "3"], tmp_path)
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode()
    assert status == 0, text
    assert "round 6/6" in text
    assert re.search(r"loss \d\.\d{3}, accuracy \d+\.\d % · held-out loss \d\.\d{3}, accuracy \d+\.\d %", text)
    assert "clients/s" in text
    (folder,) = (tmp_path / "runs").iterdir()
    assert {file.name for file in folder.iterdir()} == _FILES


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_ctrl_c_ends_cleanly(tmp_path):
    status, shown = _in_a_terminal(["train", "--rounds", "3000", "--out", "run"], tmp_path, interrupt_at=b"accuracy")
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode()
    assert status == 130, text
    assert "Traceback" not in text
    assert re.search(r"stopped by Ctrl-C after \d+ of 3000 rounds; run holds their results", text)
    assert {file.name for file in (tmp_path / "run").iterdir()} == _FILES


@pytest.mark.slow
def test_train_without_options_learns_the_digits(tmp_path):
    run = subprocess.run(_command("train"), cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(re.search(r"held-out accuracy (\S+) %", run.stdout)[1]) > 90
    cores = len(os.sched_getaffinity(0))
    assert f"on {min(cores, 10)} CPU device" in run.stdout
