"""`fedjax-core train` and `fedjax-core resume`, as a user runs them."""

import csv
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fedjax_core import privacy, program
from fedjax_core.cli import _train, main
from fedjax_core.cli._choices import ALGORITHMS, SERVER_OPTIMIZERS, TASKS
from fedjax_core.cli._config import on_this_machine
from fedjax_core.cli._run import arguments_of
from fedjax_core.cli._toml import read_config
from fedjax_core.engine import _config as engine_config
from fedjax_core.templates import LearningProcess

_FILES = {"checkpoints", "config.toml", "curves.png", "evaluation", "metrics.csv", "run.json", "weights.npz"}
_SMALL = "--data synthetic --cohort-size 3 --rounds 5 --evaluate-every 2 --devices 2"


def _main(line: str) -> int:
    return main(line.split())


def _rows(folder: pathlib.Path) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def stop_after(monkeypatch):
    """Simulates Ctrl-C in a round."""
    follow = _train._follow

    def set_(number: int) -> None:
        def interrupted(round, rounds, interrupt):
            if round.number == number:
                interrupt.set()
            follow(round, rounds, interrupt)

        monkeypatch.setattr(_train, "_follow", interrupted)

    return set_


def test_trains_and_leaves_a_folder(tmp_path, capsys):
    out = tmp_path / "run"
    assert _main(f"train --rounds 4 --cohort-size 5 --evaluate-every 2 --seed 3 --devices 2 --out {out}") == 0
    shown = capsys.readouterr()
    assert {file.name for file in out.iterdir()} == _FILES
    assert "digits: 100 clients with" in shown.out
    assert "round 2/4: loss" in shown.out
    assert re.search(r"held-out accuracy \d+\.\d % after 4 rounds", shown.out)
    assert str(out) in shown.out
    assert shown.err == ""
    rows = _rows(out)
    assert [row["round"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["held_out/eval/accuracy"]) for row in rows] == [False, True, False, True]
    config = read_config(out / "config.toml")
    assert (config["seed"], config["rounds"], config["client_lr"]) == (3, 4, TASKS["digits"].settings["client_lr"])
    assert (config["devices"], config["lanes"]) == (2, 1)
    with np.load(out / "weights.npz", allow_pickle=False) as weights:
        assert weights["dense_0.kernel"].shape == (64, 128)


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path, capsys, stop_after, monkeypatch):
    """Stopped between two checkpoints, resumed on other devices and for one more round."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _main(f"train {_SMALL} --server-optimizer adam --dropout 0.3 --releases jsonl --out {whole}") == 0
    capsys.readouterr()
    stop_after(3)
    assert _main(f"train --config {whole / 'config.toml'} --rounds 4 --out {cut}") == 130
    told = f"after 3 of 4 rounds; {cut} holds their results; to continue: `fedjax-core resume {cut}`"
    assert told in capsys.readouterr().err
    stop_after(None)
    assert _main(f"resume {cut} --devices 3 --rounds 5 --seed 0") == 0
    shown = capsys.readouterr()
    assert "continues after round 3\n" in shown.out and shown.err == ""
    assert (cut / "weights.npz").read_bytes() == (whole / "weights.npz").read_bytes()
    assert [row["round"] for row in _rows(cut)] == ["1", "2", "3", "4", "5"]
    assert [row["num_clients"] for row in _rows(cut)] == [row["num_clients"] for row in _rows(whole)]
    assert sum(int(row["num_clients"]) for row in _rows(cut)) < 5 * 3
    assert [json.loads(line)["round"] for line in (cut / "rounds.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert read_config(cut / "config.toml")["rounds"] == 5

    capsys.readouterr()
    assert _main(f"resume {cut}") == 0
    assert capsys.readouterr().out == (
        f"{cut} has all its 5 rounds, so there is nothing to do; for more: `fedjax-core resume {cut} --rounds 10`\n"
    )
    (cut / "weights.npz").unlink()  # as after a crash in the last moment
    assert _main(f"resume {cut} --exports weights") == 0
    assert (cut / "weights.npz").read_bytes() == (whole / "weights.npz").read_bytes()
    assert (cut / "exports" / "weights" / "weights.safetensors").is_file()

    # The number of virtual shards follows that of the devices, as for a very large model.
    monkeypatch.setattr(engine_config, "_LEAVES", ((2**40, 1),))
    files = {path: path.read_bytes() for path in cut.glob("*.*")}
    for line, message in {
        "--rounds 1": f"--rounds 1 is less than the 5 rounds that the run in {cut} has completed; use --rounds 10",
        "--devices 2": f"--devices 2 would change the last bits of the run in {cut}, which has 16 virtual shards; "
        "use a machine with more",
        "--seed 3": f"--seed of the run in {cut} is 0 and cannot become 3, which would make it another run; leave it "
        f"out, or start one: `fedjax-core train --config {cut}/config.toml --seed 3`",
    }.items():
        assert _main(f"resume {cut} --rounds 6 {line}") == 2
        assert capsys.readouterr().err == f"fedjax-core: {message}\n"
    assert files == {path: path.read_bytes() for path in cut.glob("*.*")}


@pytest.mark.slow
def test_a_run_without_a_checkpoint_begins_with_round_1(tmp_path, capsys):
    (tmp_path / "config.toml").write_text('data = "synthetic"\nrounds = 1\ncohort_size = 2\ndevices = 2')
    assert _main(f"resume {tmp_path}") == 0
    shown = capsys.readouterr()
    assert "begins with round 1, since there is no checkpoint" in shown.out and shown.err == ""
    assert {file.name for file in tmp_path.iterdir()} == _FILES


@pytest.mark.parametrize(
    "line",
    ["--algorithm fed-sgd --seed 9", "--algorithm fed-prox --proximal 1", "--data synthetic --lanes 2 --devices 2"],
)
@pytest.mark.slow
def test_other_runs(line, tmp_path):
    assert _main(f"train --rounds 1 --cohort-size 2 {line} --out {tmp_path / 'run'}") == 0
    assert _main(f"train --config {tmp_path / 'run' / 'config.toml'} --out {tmp_path / 'again'}") == 0
    assert (tmp_path / "run" / "weights.npz").read_bytes() == (tmp_path / "again" / "weights.npz").read_bytes()


def test_everything_that_can_be_left(tmp_path, capsys):
    """A round in which all clients fail is skipped."""
    run = tmp_path / "run"
    line = "--releases jsonl,tensorboard --exports weights,predict --dropout 0.99 --evaluate-every 0"
    assert _main(f"train {_SMALL} {line} --cohort-size 1 --out {run}") == 0
    assert {file.name for file in run.iterdir()} == _FILES | {"exports", "rounds.jsonl", "tensorboard"}
    assert {file.name for file in (run / "exports").iterdir()} == {"weights", "predict"}
    assert [row["participation/skipped"] for row in _rows(run)] == ["1"] * 5
    shown = capsys.readouterr()
    assert "round" not in shown.out.split("devices")[1].split("held-out accuracy")[0].replace("round 5/5:", "")
    assert shown.err.count("\n") <= 1


@pytest.mark.parametrize(
    "option, package",
    [
        ("exports weights", "safetensors"),
        ("releases tensorboard", "tensorboardX"),
        ("noise-multiplier 1", "dp_accounting"),
    ],
)
def test_what_an_option_needs_is_looked_for_first(option, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert _main(f"train --{option} --out {tmp_path / 'run'}") == 2
    assert f"--{option} needs {package}, which is not installed; run: pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_one_process_trains_in_a_folder(tmp_path, capsys):
    (tmp_path / "config.toml").write_text('data = "synthetic"')
    with program.sole_writer(tmp_path):
        assert _main(f"resume {tmp_path}") == 2
    told = f"another process is training in {tmp_path}; to watch it: `fedjax-core watch {tmp_path}`"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("optimizer", SERVER_OPTIMIZERS)
def test_every_optimizer_suits_every_algorithm(optimizer, algorithm):
    config = on_this_machine({"data": "synthetic", "algorithm": algorithm, "server_optimizer": optimizer})
    assert isinstance(arguments_of(config)["process"], LearningProcess)


@pytest.mark.slow
def test_updates_that_are_not_finite_are_told(tmp_path, capsys):
    assert _main(f"train {_SMALL} --data digits --rounds 2 --client-lr 1e30 --out {tmp_path / 'run'}") == 0
    assert "client updates were not finite and were left out; lower the learning rates" in capsys.readouterr().out


@pytest.mark.slow
def test_ends_early_without_improvement(tmp_path, capsys):
    """The step is too small to change anything; rounds that are done do not run again."""
    run = tmp_path / "run"
    line = f"train {_SMALL} --rounds 9 --evaluate-every 1 --client-lr 1e-30 --patience 2"
    assert _main(f"{line} --out {run}") == 0
    assert "after 3 rounds" in (shown := capsys.readouterr().out)
    assert "ended before round 9, since the held-out loss no longer improved (--patience)" in shown
    assert _main(f"resume {run}") == 0
    assert "after 3 rounds" in capsys.readouterr().out and len(_rows(run)) == 3
    assert _main(f"resume {run} --patience 0 --rounds 4") == 0
    assert len(_rows(run)) == 4


@pytest.mark.slow
def test_private_training_tells_what_it_costs(tmp_path, capsys):
    """Clients that fail after they were selected cost no less."""
    line = f"train {_SMALL} --rounds 2 --noise-multiplier 1 --max-norm 0.5 --delta 0.001 --dropout 0.2"
    assert _main(f"{line} --out {tmp_path / 'run'}") == 0
    spent = privacy.epsilon(noise_multiplier=1.0, delta=0.001, sampling=privacy.fixed_size(3, 30), rounds=2)
    assert f"privacy: epsilon {spent:.2f} at delta 0.001" in capsys.readouterr().out
    assert [float(row["privacy/epsilon"]) > 0 for row in _rows(tmp_path / "run")] == [True, True]
    assert float(_rows(tmp_path / "run")[0]["aggregator/max_norm"]) == 0.5


def test_without_matplotlib_the_run_finishes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "run"
    assert _main(f"train {_SMALL} --rounds 1 --out {out}") == 0
    assert "run: pip install 'fedjax-core[plots]'" in capsys.readouterr().err
    assert {file.name for file in out.iterdir()} == _FILES - {"curves.png"}


def _environment() -> dict:
    """The environment of a user, who has not set the number of devices as the tests do."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def _command(*arguments) -> list[str]:
    return [sys.executable, "-m", "fedjax_core", *map(str, arguments)]


def _in_a_terminal(arguments: list[str], folder: pathlib.Path, interrupt_at: bytes | None = None) -> tuple[int, bytes]:
    """Runs the command in a terminal of 80 columns, and presses Ctrl-C once a given text is shown."""
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
@pytest.mark.slow
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
    done = re.search(r"stopped by Ctrl-C after (\d+) of 3000 rounds; run holds their results", text)[1]
    assert "to continue: `fedjax-core resume run`" in text
    assert {file.name for file in (tmp_path / "run").iterdir()} == _FILES - {"evaluation"}
    assert program.Checkpoints(tmp_path / "run" / "checkpoints").rounds[-1] == int(done)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    """It is killed with `kill -9` during training; the table has more rounds than the checkpoints."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    line = ["train", "--data", "synthetic", "--rounds", "60", "--evaluate-every", "30"]
    subprocess.run(_command(*line, "--out", whole), env=_environment(), check=True, capture_output=True)
    training = subprocess.Popen(_command(*line, "--out", cut), env=_environment(), stdout=subprocess.PIPE)
    while training.poll() is None and (not (cut / "metrics.csv").exists() or len(_rows(cut)) < 15):
        time.sleep(0.01)
    training.kill()
    training.communicate()
    resumed = subprocess.run(_command("resume", cut), env=_environment(), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert (cut / "weights.npz").read_bytes() == (whole / "weights.npz").read_bytes()


@pytest.mark.slow
def test_train_without_options_learns_the_digits(tmp_path):
    run = subprocess.run(_command("train"), cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(re.search(r"held-out accuracy (\S+) %", run.stdout)[1]) > 90
    cores = len(os.sched_getaffinity(0))
    assert f"on {min(cores, 10)} CPU device" in run.stdout
