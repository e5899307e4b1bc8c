"""What a user names stays in its folder: a name is one component of a path."""

import pathlib

import pytest

import fedjax_core as fc
from fedjax_core.program import (
    Checkpoints,
    Export,
    History,
    RunFolder,
    export_predict,
    export_weights,
    release_to_csv,
    release_to_json_lines,
    release_to_tensorboard,
    save_csv,
    save_weights,
)
from fedjax_core.program import _run_arguments as arguments

PATHS = [
    "/elsewhere/models",
    "../checkpoints",
    "",
    ".",
    "..",
    "a/b",
    "a/",
    "a\\b",
    "c:weights",
    "a\0b",
    "a\nb",
    "\ud800",
]
HIDDEN = [".hidden", ".weights.0123456789abcdef0123456789abcdef", "é" * 101]
NAMES = ["weights", "my weights", "lr=0.1, é", "v1.2", "5", "a" * 200]


def _export(name):
    arguments.checked_exports(Export(name, lambda *what: None), pathlib.Path("runs"))


def _evaluation(name):
    arguments._check_evaluation_name(name)


NAMED = {
    "export_weights": export_weights,
    "export_predict": lambda name: export_predict(fc.models.logistic_regression(2, 2), name),
    "Export": _export,
    "Evaluation": _evaluation,
    "RunFolder.dated": lambda name: RunFolder.dated("runs", name),
    "RunFolder.write_text": lambda name: RunFolder("runs", resume=True).write_text(name, ""),
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("call", NAMED)
@pytest.mark.parametrize("name", PATHS + HIDDEN)
def test_a_path_is_no_name(call, name):
    with pytest.raises(ValueError, match=r"\(name=...\) must be a name (without a folder|of at most 200 bytes)"):
        NAMED[call](name)


@pytest.mark.parametrize("call", NAMED)
@pytest.mark.parametrize("name", [5, None, b"weights", pathlib.Path("weights")])
def test_what_is_no_text_is_no_name(call, name):
    with pytest.raises(TypeError, match=r"\(name=...\) must be a name without a folder"):
        NAMED[call](name)


@pytest.mark.parametrize("call", NAMED)
@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_and_stay_in_their_folder(call, name, tmp_path):
    NAMED[call](name)
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


def test_exports_that_share_a_folder_where_case_does_not_count():
    exports = [export_weights("model"), export_weights("Model")]
    with pytest.raises(ValueError, match=r"each Export needs a name of its own, got model, Model"):
        arguments.checked_exports(exports, pathlib.Path("runs"))


@pytest.mark.parametrize("name", ["checkpoints", "exports", "metrics.csv", "Weights.npz"])
def test_an_evaluation_takes_no_name_of_the_run(name):
    with pytest.raises(ValueError, match=r"must be another name than those of the run's own files, got"):
        _evaluation(name)


PLACES = {
    "Checkpoints": Checkpoints,
    "RunFolder": RunFolder,
    "RunFolder.dated": lambda path: RunFolder.dated(path, "digits"),
    "Run": arguments.checked_folder,
    "release_to_csv": release_to_csv,
    "release_to_json_lines": release_to_json_lines,
    "release_to_tensorboard": release_to_tensorboard,
    "save_weights": lambda path: save_weights({}, path),
    "save_csv": lambda path: save_csv(History(), path),
}


@pytest.mark.parametrize("call", PLACES)
@pytest.mark.parametrize("path", ["", "a\0b", "\ud800"])
def test_what_no_file_can_be_called(call, path):
    with pytest.raises(ValueError, match="must be a path"):
        PLACES[call](path)


@pytest.mark.parametrize("call", PLACES)
@pytest.mark.parametrize("path", [3, b"runs", ["runs"]])
def test_what_is_no_path(call, path):
    with pytest.raises(TypeError, match="must be a path"):
        PLACES[call](path)
