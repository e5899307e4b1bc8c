"""The configuration of a run: its defaults, and as a TOML file."""

import pathlib
import tomllib

import hypothesis
import hypothesis.strategies as st
import pytest

from fedjax_core.cli import _commands, main
from fedjax_core.cli._choices import ALGORITHMS, SERVER_OPTIMIZERS, TASKS
from fedjax_core.cli._config import SETTINGS, RunOptions, on_this_machine, with_defaults
from fedjax_core.cli._toml import config_text, read_config
from fedjax_core.cli._values import UsageError


def test_what_suits_a_task_are_settings():
    for task in TASKS.values():
        for name, value in [*task.settings.items(), *task.fed_sgd.items()]:
            assert SETTINGS[name].kind.check(value) == value and SETTINGS[name].default is None


@pytest.mark.parametrize("data", TASKS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("optimizer", SERVER_OPTIMIZERS)
def test_defaults_leave_only_what_the_machine_decides(data, algorithm, optimizer, tmp_path):
    options = with_defaults({"data": data, "algorithm": algorithm, "server_optimizer": optimizer})
    others = {"fed-avg": {"proximal"}, "fed-prox": set(), "fed-sgd": {"client_lr", "epochs", "proximal"}}[algorithm]
    assert SETTINGS.keys() - options.keys() == {"devices", "lanes"} | others
    assert options["evaluate_every"] % options["checkpoint_every"] == 0
    assert with_defaults(options) == options
    assert _read(tmp_path, config_text(options)) == options
    complete = on_this_machine(options)
    assert {name for name in SETTINGS if getattr(complete, name) is None} == others
    assert on_this_machine(complete.options()) == complete
    assert _read(tmp_path, config_text(complete.options())) == complete.options()


def test_what_is_given_is_not_replaced():
    given = {"seed": 3, "dropout": 0.0, "evaluate_every": 0, "releases": (), "rounds": 7, "client_lr": 0.25}
    options = with_defaults(given)
    assert given.items() <= options.items()
    assert options["checkpoint_every"] == 10


@pytest.mark.parametrize("every, saved", [(1, 1), (7, 7), (10, 10), (12, 6), (13, 1), (30, 10)])
def test_there_is_a_checkpoint_where_the_run_evaluates(every, saved):
    assert with_defaults({"evaluate_every": every})["checkpoint_every"] == saved


def test_the_command_line_comes_before_the_file(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(_commands, "train", lambda config, out: ran.append(config))
    (tmp_path / "config.toml").write_text('rounds = 3\nseed = 1\nreleases = ["jsonl"]')
    line = f"train --config {tmp_path / 'config.toml'} --rounds 4 --releases none --dropout 0"
    assert main(line.split()) == 0
    (config,) = ran
    assert (config.rounds, config.seed, config.releases, config.dropout) == (4, 1, (), 0.0)


@hypothesis.given(
    cache=st.text(min_size=1).filter(str.isprintable),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    rounds=st.integers(1, 2**62),
    exports=st.sampled_from([(), ("weights",), ("weights", "predict")]),
)
def test_a_file_gives_the_configuration_back(cache, rate, rounds, exports, tmp_path_factory):
    options = {"rounds": rounds, "client_lr": rate, "exports": exports, "compilation_cache": cache}
    assert _read(tmp_path_factory.getbasetemp(), config_text(options)) == options


@pytest.mark.parametrize(
    "text, message",
    [
        ("cohort_sise = 3", "there is no option 'cohort_sise'; did you mean cohort_size?"),
        ("cohort-size = 3", "there is no option 'cohort-size'; did you mean cohort_size?"),
        ("[train]\nrounds = 3", "there is no option 'train'; `fedjax-core train --help` lists all"),
        ('out = "run"', "there is no option 'out'; leave it out and give --out on the command line"),
        ('rounds = "3"', "rounds must be an integer, got '3'; for example rounds = 10"),
        ("rounds = 3.0", "rounds must be an integer, got 3.0"),
        ("rounds = true", "rounds must be an integer, got True"),
        ("rounds = 0", "rounds must be at least 1, got 0"),
        ("client_lr = true", "client_lr must be a number, got True; for example client_lr = 0.1"),
        ("client_lr = -inf", "client_lr must be positive and finite, got -inf"),
        ("data = 3", 'data must be one of digits, shakespeare, synthetic, got 3; for example data = "digits"'),
        (
            'releases = "jsonl"',
            "releases must be any of jsonl, tensorboard, got 'jsonl'; for example releases = [\"jsonl\"]",
        ),
        ("exports = [[]]", "exports must be any of weights, predict, got [[]]"),
        ("compilation_cache = false", "compilation_cache must be on, off or the name of a folder, got False"),
        ("dropout = 1", "dropout must be at least 0 and less than 1, got 1.0"),
    ],
)
def test_wrong_values_name_the_file_and_the_option(text, message, tmp_path):
    with pytest.raises(UsageError) as error:
        _read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'config.toml'}: {message}")


@pytest.mark.parametrize(
    "content",
    [
        b"rounds: 3",
        b"rounds = 3\nrounds = 4",
        b"\xff\xfe",
        b'data = "digits',
        b"a=" + 9999 * b"[",
        b"a=" + 5000 * b"9",
    ],
)
def test_what_is_not_toml(content, tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"config.toml is not a TOML file: .*; write lines such as `rounds = 50`"):
        read_config(path)


def test_a_folder_in_the_place_of_its_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder; give a TOML file"):
        read_config(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UsageError, match=r"is a folder; use .*config.toml"):
        read_config(tmp_path)


def test_the_examples_in_errors_are_right(tmp_path):
    for name in SETTINGS:
        with pytest.raises(UsageError) as error:
            _read(tmp_path, f"{name} = {{}}")
        example = str(error.value).partition("for example ")[2]
        assert tomllib.loads(example).keys() == {name}
        _read(tmp_path, example)


def _read(folder: pathlib.Path, text: str) -> RunOptions:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_a_file_of_settings_is_small(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(UsageError, match="is larger than 1,048,576 bytes"):
        read_config(path)


def test_an_integer_beyond_all_floats_is_no_setting(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"client_lr = 1" + b"0" * 400)
    with pytest.raises(UsageError, match="client_lr must be positive and finite"):
        read_config(path)
