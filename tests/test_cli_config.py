"""The configuration of a run: its defaults, and as a TOML file."""

import dataclasses
import pathlib
import tomllib

import hypothesis
import hypothesis.strategies as st
import pytest

from fedjax_core._cli_config import KINDS, SERVER_RATES, SETTINGS, RunConfig, with_defaults
from fedjax_core._cli_toml import config_text, read_config
from fedjax_core._cli_values import UsageError


def test_every_option_has_a_kind():
    assert [field.name for field in dataclasses.fields(RunConfig)] == list(KINDS)


@pytest.mark.parametrize("data", SETTINGS)
@pytest.mark.parametrize("algorithm", ["fed-avg", "fed-sgd"])
@pytest.mark.parametrize("optimizer", SERVER_RATES)
def test_defaults_leave_only_what_the_machine_decides(data, algorithm, optimizer, tmp_path):
    config = with_defaults(RunConfig(data=data, algorithm=algorithm, server_optimizer=optimizer))
    open_ = {name for name in KINDS if getattr(config, name) is None}
    local = {"client_lr", "epochs"} if algorithm == "fed-sgd" else set()
    assert open_ == {"devices", "lanes"} | local
    assert config.evaluate_every % config.checkpoint_every == 0
    assert with_defaults(config) == config
    assert _read(tmp_path, config_text(config)) == config


def test_what_is_given_is_not_replaced():
    given = RunConfig(seed=3, dropout=0.0, evaluate_every=0, releases=(), rounds=7, client_lr=0.25)
    assert given.given().items() <= with_defaults(given).given().items()
    assert with_defaults(given).checkpoint_every == 10


@pytest.mark.parametrize("every, saved", [(1, 1), (7, 7), (10, 10), (12, 6), (13, 1), (30, 10)])
def test_there_is_a_checkpoint_where_the_run_evaluates(every, saved):
    assert with_defaults(RunConfig(evaluate_every=every)).checkpoint_every == saved


def test_the_command_line_comes_before_the_file():
    config = RunConfig(rounds=3, seed=1, releases=("jsonl",)).overridden(RunConfig(rounds=4, releases=(), dropout=0.0))
    assert config == RunConfig(rounds=4, seed=1, releases=(), dropout=0.0)


@hypothesis.given(
    cache=st.text(min_size=1).filter(str.isprintable),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    rounds=st.integers(1, 2**62),
    exports=st.sampled_from([(), ("weights",), ("weights", "predict")]),
)
def test_a_file_gives_the_configuration_back(cache, rate, rounds, exports, tmp_path_factory):
    config = RunConfig(compilation_cache=cache, client_lr=rate, rounds=rounds, exports=exports)
    assert _read(tmp_path_factory.getbasetemp(), config_text(config)) == config


@pytest.mark.parametrize(
    "text, message",
    [
        ("cohort_sise = 3", "there is no option 'cohort_sise'; did you mean cohort_size?"),
        ("cohort-size = 3", "there is no option 'cohort-size'; did you mean cohort_size?"),
        ("[train]\nrounds = 3", "there is no option 'train'; `fedjax-core train --help` lists all"),
        ('out = "run"', "there is no option 'out'; leave it out and give --out on the command line"),
        ('rounds = "3"', "rounds must be an integer, got '3'; for example rounds = 50"),
        ("rounds = 3.0", "rounds must be an integer, got 3.0"),
        ("rounds = true", "rounds must be an integer, got True"),
        ("rounds = 0", "rounds must be at least 1, got 0"),
        ("client_lr = true", "client_lr must be a number, got True; for example client_lr = 0.1"),
        ("client_lr = -inf", "client_lr must be positive and finite, got -inf"),
        ("data = 3", 'data must be one of digits, shakespeare, synthetic, got 3; for example data = "digits"'),
        (
            'releases = "jsonl"',
            "releases must be some of jsonl, tensorboard, got 'jsonl'; for example releases = [\"jsonl\"]",
        ),
        ("exports = [[]]", "exports must be some of weights, predict, got [[]]"),
        ("compilation_cache = false", "compilation_cache must be on, off or the name of a folder, got False"),
        ("dropout = 1", "dropout must be at least 0 and less than 1, got 1.0"),
    ],
)
def test_wrong_values_name_the_file_and_the_option(text, message, tmp_path):
    with pytest.raises(UsageError) as error:
        _read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'config.toml'}: {message}")


@pytest.mark.parametrize("content", [b"rounds: 3", b"rounds = 3\nrounds = 4", b"\xff\xfe", b'data = "digits'])
def test_what_is_no_toml(content, tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"config.toml is no TOML file: .*; write lines such as `rounds = 50`"):
        read_config(path)


def test_a_folder_in_the_place_of_its_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder; give a TOML file"):
        read_config(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UsageError, match=r"is a folder; use .*config.toml"):
        read_config(tmp_path)


def test_the_examples_in_errors_are_right(tmp_path):
    for name in KINDS:
        with pytest.raises(UsageError) as error:
            _read(tmp_path, f"{name} = {{}}")
        example = str(error.value).partition("for example ")[2]
        assert tomllib.loads(example).keys() == {name}
        _read(tmp_path, example)


def _read(folder: pathlib.Path, text: str) -> RunConfig:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)
