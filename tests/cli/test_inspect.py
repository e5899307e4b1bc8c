"""`fedjax-core evaluate`, `watch` and `describe`, as a user runs them."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from fedjax_core.cli import _train, main

_SMALL = "--data synthetic --cohort-size 2 --devices 2 --rounds 3 --checkpoint-every 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A run that was stopped after the first of its three rounds."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_train, "_follow", _stop)
        assert main(f"train {_SMALL} --out {path}".split()) == 130
    return path


def _stop(*_) -> None:
    raise KeyboardInterrupt


def test_evaluates_the_latest_checkpoint(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["evaluate", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "round 1/3, 30 clients with held-out data"
    table = {name: float(value) for name, value in map(str.split, lines[1:])}
    assert table.keys() == {"accuracy", "loss", "num_examples", "num_non_finite"}
    assert main(["evaluate", str(folder), "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json.pop("round") == 1
    assert as_json == pytest.approx(table, rel=1e-5)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_without_a_checkpoint_there_is_nothing_to_evaluate(tmp_path, capsys):
    (tmp_path / "config.toml").write_text('data = "synthetic"')
    assert main(["evaluate", str(tmp_path)]) == 2
    told = f"{tmp_path} has no checkpoint yet to evaluate; wait for one: `fedjax-core watch {tmp_path}`"
    assert capsys.readouterr().err == f"fedjax-core: {told}\n"


def test_a_file_in_the_place_of_its_folder(folder, capsys):
    path = folder / "config.toml"
    assert main(["evaluate", str(path)]) == 2
    assert capsys.readouterr().err == f"fedjax-core: {path} is a file; write `fedjax-core evaluate {folder}`\n"


def test_a_configuration_that_was_changed(folder, tmp_path, capsys):
    """The changed settings give the optimizer another state."""
    text = (folder / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace('"sgd"', '"adam"'))
    (tmp_path / "checkpoints").symlink_to(folder / "checkpoints")
    assert main(["evaluate", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"fedjax-core: {tmp_path / 'config.toml'} has changed since the checkpoints were written: ")
    assert shown.count("\n") == 1


def _watching(folder: pathlib.Path) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "fedjax_core", "watch", str(folder), "--throttle-secs", "0.05"]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_watches_a_run_that_another_process_trains(folder, capsys):
    """It evaluates the first round before the run continues, and ends with the last one."""
    watching = _watching(folder)
    first = watching.stdout.readline()
    assert main(["resume", str(folder)]) == 0
    rest, errors = watching.communicate()
    assert watching.returncode == 0, errors
    assert errors == ""
    lines = [first, *rest.splitlines(keepends=True)]
    for line in lines:
        assert re.fullmatch(r"round \d/3: held-out loss \d+\.\d{3}, accuracy \d+\.\d %\n", line)
    assert (lines[0][:9], lines[-1][:9]) == ("round 1/3", "round 3/3")
    assert main(["watch", str(folder)]) == 0  # it has ended long ago
    assert capsys.readouterr().out.endswith(lines[-1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_waits_for_the_first_checkpoint_until_ctrl_c(tmp_path):
    (tmp_path / "config.toml").write_text('data = "synthetic"')
    watching = _watching(tmp_path)
    assert watching.stdout.readline() == f"waiting for the first checkpoint in {tmp_path}\n"
    watching.send_signal(signal.SIGINT)
    rest, errors = watching.communicate()
    assert (watching.returncode, rest, errors) == (130, "", "fedjax-core: stopped by Ctrl-C\n")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_describes_a_run_without_running_it(folder, capsys):
    assert main(["describe", str(folder)]) == 0
    shown = capsys.readouterr().out
    for name in ("initialize", "next", "report", "get_model_weights", "set_model_weights", "evaluation"):
        assert re.search(rf"^{name}: \(", shown, re.MULTILINE), name
    assert "pass 1 over the clients" in shown
    assert shown.count("per client: receives 2,44") == 2  # 61 * 10 weights; in training a key, too
    assert re.search(r"^each of 2 clients receives 2\.4\d kB and sends", shown, re.MULTILINE)
    assert "2 rounds left" in shown


def test_the_readme_shows_what_describe_prints(capsys):
    readme = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    shortened = re.search(r"^\$ fedjax-core describe run.*\n((?:.*\n)*?)```", readme, re.MULTILINE)[1].splitlines()
    assert main(["describe"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(shortened) == 5 and set(shortened) - {"  ..."} <= set(printed)


def test_describe_tries_rounds_to_tell_how_long_they_take(capsys):
    assert main(f"describe {_SMALL} --try-rounds 1".split()) == 0
    assert re.search(r"^3 rounds left, \S+ s each, \d:\d\d:\d\d in all", capsys.readouterr().out, re.MULTILINE)


def test_describes_what_options_and_a_file_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("small.toml").write_text('data = "synthetic"\nserver_optimizer = "adam"\n')
    assert main(["describe", "--config", "small.toml", "--algorithm", "fed-sgd"]) == 0
    shown = capsys.readouterr().out
    assert "float32[60,10]" in shown and "count=int32" in shown  # Adam counts
    assert shown.count("per client: receives 2,44") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]
