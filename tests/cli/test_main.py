"""The command line, as a user types it: what it refuses and what it explains."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from fedjax_core.cli import main
from fedjax_core.cli._choices import SERVER_OPTIMIZERS, TASKS
from fedjax_core.cli._config import SETTINGS


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "a command is missing; write `fedjax-core train`"),
        ("trian", "there is no command 'trian'; did you mean `fedjax-core train`?"),
        ("serve", "there is no command 'serve'; `fedjax-core --help` lists all"),
        ("train --rounds -1", "--rounds must be at least 1, got -1; for example --rounds 10"),
        ("train --rounds 0", "--rounds must be at least 1, got 0"),
        ("train --rounds x", "--rounds must be an integer, got 'x'"),
        ("train --rounds=1.5", "--rounds must be an integer, got '1.5'"),
        ("train --rounds", "--rounds needs a value"),
        ("train --rounds --seed 1", "--rounds needs a value; `fedjax-core train --help` says which"),
        ("train --seed -1", "--seed must be from 0 to 4294967295, got -1"),
        ("train --seed 4294967296", "--seed must be from 0 to 4294967295, got 4294967296"),
        ("train --client-lr nan", "--client-lr must be positive and finite, got nan"),
        ("train --client-lr -0.1", "--client-lr must be positive and finite, got -0.1"),
        ("train --server-lr much", "--server-lr must be a number, got 'much'"),
        ("train --dropout 1", "--dropout must be at least 0 and less than 1, got 1.0; for example --dropout 0.1"),
        ("train --data mnist", "--data must be one of digits, shakespeare, synthetic, got 'mnist'"),
        ("train --algorithm sgd", "--algorithm must be one of fed-avg, fed-prox, fed-sgd, got 'sgd'"),
        ("train --server-optimizer adamw", "--server-optimizer must be one of sgd, momentum, adam, yogi, adagrad"),
        (
            "train --releases csv",
            "--releases must be any of jsonl, tensorboard, separated by commas, or none, got 'csv'",
        ),
        (
            "train --exports weights,",
            "--exports must be any of weights, predict, separated by commas, or none, got 'weights,'",
        ),
        ("train --round 3", "there is no option '--round'; did you mean --rounds?"),
        ("train --frobnicate=3", "there is no option '--frobnicate'; `fedjax-core train --help` lists all"),
        ("train digits", "unexpected 'digits'; `fedjax-core train --help` lists all"),
        (
            "train --algorithm fed-sgd --epochs 2",
            "--epochs is only for fed-avg and fed-prox, got --algorithm fed-sgd; leave it out, or use "
            "--algorithm fed-avg",
        ),
        ("train --algorithm fed-sgd --client-lr 1", "--client-lr is only for fed-avg and fed-prox, got"),
        (
            "train --proximal 1",
            "--proximal is only for fed-prox, got --algorithm fed-avg; leave it out, or use --algorithm",
        ),
        (
            "train --evaluate-every 5 --checkpoint-every 2",
            "--evaluate-every 5 must be a multiple of --checkpoint-every 2, since only checkpoints are evaluated; "
            "use --checkpoint-every 5",
        ),
        ("train --patience 3 --evaluate-every 0", "--patience 3 needs evaluations during the run"),
        ("train --noise-multiplier -1", "--noise-multiplier must be at least 0 and finite, got -1.0"),
        ("train --delta 0", "--delta must be positive and less than 1, got 0.0; for example --delta 1e-06"),
        ("train --cohort-size 101", "--cohort-size 101 is more than the 100 clients of digits"),
        ("train --devices 1000", "--devices 1000 is more than the 8 devices that JAX sees here"),
        ("train --compilation-cache=", "--compilation-cache must be on, off or the name of a folder, got ''"),
        ("train --compilation-cache taken/cache", "the folder of --compilation-cache cannot be created"),
        ("train --out=", "--out must be the name of a folder, got ''; for example --out runs/first"),
        ("train --out .", "--out . exists and is never overwritten; choose a new folder"),
        ("train --out taken", "--out taken exists and is never overwritten"),
        ("train --out taken/run", "the folder for the results cannot be created"),
        ("train --config none.toml", "none.toml cannot be read: No such file or directory; give a TOML file"),
        ("resume", "resume needs the folder of a run; for example `fedjax-core resume runs/first`"),
        ("resume nowhere", "there is no folder nowhere; `fedjax-core train --out nowhere` begins a new one"),
        ("resume .", "there is no run in ., since it has no config.toml"),
        ("resume . --out run", "there is no option '--out'; `fedjax-core resume --help` lists all"),
        ("resume taken", "taken is a file; give the folder of a run"),
        ("resume --folder run", "there is no option '--folder'; `fedjax-core resume --help` lists all"),
        ("resume -n 3 run", "there is no option '-n'; `fedjax-core resume --help` lists all"),
        ("evaluate", "evaluate needs the folder of a run"),
        ("evaluate run --json=yes", "--json takes no value, got '--json=yes'"),
        ("evaluate run --jsn", "there is no option '--jsn'; did you mean --json?"),
        ("watch run other", "unexpected 'other'; `fedjax-core watch --help` lists all"),
        ("watch . --throttle-secs -1", "--throttle-secs must be at least 0 and finite, got -1.0"),
        ("watch . --throttle 3", "there is no option '--throttle'; did you mean --throttle-secs?"),
        ("describe run --config config.toml", "describe takes a folder or --config, got both"),
        ("describe --cohort-size 0", "--cohort-size must be at least 1, got 0"),
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


@pytest.mark.parametrize("command", ["train", "resume", "describe"])
def test_help_explains_every_option(command, capsys, monkeypatch):
    shown = _help(command, capsys, monkeypatch)
    for name in (name.replace("_", "-") for name in SETTINGS):
        assert re.search(rf"--{name} \S+ \w.*?\(default: ", shown), name
    for name, task in TASKS.items():
        assert f"{task.settings['cohort_size']} for {name}" in shown
    assert all(f"{optimizer.rate} for {name}" in shown for name, optimizer in SERVER_OPTIMIZERS.items())


def test_help_of_resume_says_what_may_change(capsys, monkeypatch):
    shown = _help("resume", capsys, monkeypatch)
    told = re.search(r"Only (.*?) may change;", shown)[1]
    may_change = {name.replace("_", "-") for name, setting in SETTINGS.items() if setting.may_change}
    assert set(re.findall(r"--([a-z-]+)", told)) == may_change


@pytest.mark.parametrize("command, option", [("evaluate", "--json"), ("watch", "--throttle-secs")])
def test_help_of_the_others(command, option, capsys, monkeypatch):
    shown = _help(command, capsys, monkeypatch)
    assert option in shown and "FOLDER" in shown


def _help(command: str, capsys, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code in (None, 0)
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_top_level_help(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for command in ("train", "resume FOLDER", "evaluate FOLDER", "watch FOLDER", "describe", "COMMAND --help"):
        assert f"fedjax-core {command}" in shown


def test_help_and_version():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for argument, expected in (("--version", b"fedjax-core 0."), ("--help", b"usage: fedjax-core")):
        command = [sys.executable, "-m", "fedjax_core", argument]
        shown = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        assert shown.startswith(expected)
