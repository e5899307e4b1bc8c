"""Every notebook runs from its source cells, and its committed outputs are current and portable."""

import ast
import functools
import importlib.util
import pathlib
import re

import numpy as np
import pytest

pytest.importorskip("matplotlib")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TUTORIAL = ROOT / "notebooks" / "01_image_classification.ipynb"

# Jupyter's own deprecations are no failures of a notebook.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PROBE = """
{
    "train_loss": train_loss,
    "clients": len(data.client_ids),
    "largest_share": float(np.mean(label_counts(data).max(axis=0) / data.sizes)),
    "initial_type": str(process.initialize.type_signature),
    "evaluation_type": str(evaluation.type_signature),
    "train_accuracy": float(train_metrics["accuracy"]),
    "all_accuracy": float(all_metrics["accuracy"]),
    "total_examples": int(total[-1]["num_examples"]),
    "current_examples": sum(int(m["num_examples"]) for m in current),
    "seen_accuracy": seen_accuracy[-1],
    "unseen_accuracy": unseen_accuracy[-1],
    "from_scratch": distance(weights, scratch_weights),
    "by_hand": distance(weights, own_weights),
    "scanned": distance(own_weights, scanned_weights),
    "gradient": slope,
    "finite_difference": nearby,
    "scanned_losses": np.asarray(scanned_losses).tolist(),
    "custom_metrics": rounded(custom_metrics),
}
"""


def _script():
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "scripts" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _executed(path: pathlib.Path):
    """The notebook after a new run; the tutorial has one more cell, which returns the values to check."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if path == TUTORIAL:
        notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    return _script().execute(notebook)


def _code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _texts(cell) -> list[str]:
    texts = []
    for output in cell.outputs:
        texts += [output.text] if output.output_type == "stream" else []
        texts += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return texts


def _pictures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for cell in _code_cells(notebook) for output in cell.outputs)


def test_there_are_notebooks():
    assert TUTORIAL in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_without_warnings(path):
    notebook = _executed(path)
    for cell in _code_cells(notebook):
        assert [o for o in cell.outputs if o.get("name") == "stderr" or o.output_type == "error"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_the_source(path):
    committed = nbformat.read(path, as_version=4)
    executed = _executed(path)
    assert [c.execution_count for c in _code_cells(committed)] == list(range(1, 1 + len(_code_cells(committed))))
    for old, new in zip(committed.cells, executed.cells, strict=False):
        if old.cell_type == "code":
            assert list(map(_words, _texts(old))) == list(map(_words, _texts(new))), (
                f"outputs are older than the code; run scripts/run_notebooks.py. The cell:\n{old.source}"
            )


def _words(text: str) -> list[str]:
    """The words of a text without fractional numbers, whose last digits may differ between machines."""
    return re.sub(r"-?\d+(\.\d*)?e-?\d+|-?\d+\.\d*|(?<=[ \[])\d+(?=[ \]])", "", text).split()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_portable(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000
    assert notebook.metadata == _script().METADATA
    assert all(cell.metadata == {} for cell in notebook.cells)
    text = "\n".join([cell.source for cell in notebook.cells] + [t for c in _code_cells(notebook) for t in _texts(c)])
    assert re.findall(r"/(?:tmp|home|work|root|opt|usr|Users)/\S*|ipykernel_\d+|0x[0-9a-f]{8,}|[A-Z]:\\", text) == []


@pytest.fixture
def tutorial():
    """The values that the tutorial computed, by name."""
    return ast.literal_eval(_code_cells(_executed(TUTORIAL))[-1].outputs[0].data["text/plain"])


def test_tutorial_shows_pictures():
    assert _pictures(_executed(TUTORIAL)) >= 8


def test_tutorial_clients_differ(tutorial):
    assert tutorial["clients"] == 100
    assert tutorial["largest_share"] > 0.5


def test_tutorial_loss_falls_in_every_round(tutorial):
    assert len(tutorial["train_loss"]) == 10
    assert np.all(np.diff(tutorial["train_loss"]) < 0)
    assert tutorial["train_loss"][-1] < 0.9 * tutorial["train_loss"][0]


def test_tutorial_types(tutorial):
    weights = "<bias=float32[10],kernel=float32[64,10]>"
    assert tutorial["initial_type"].startswith(f"( -> <weights={weights},")
    assert tutorial["initial_type"].endswith(",round_num=int32,key=key<fry>>@SERVER)")
    assert tutorial["evaluation_type"].startswith(
        f"(<weights={weights}@SERVER,data={{<x=float32[?,64],y=int32[?]>*}}@CLIENTS> -> <eval=<"
    )


def test_tutorial_evaluation(tutorial):
    assert tutorial["train_accuracy"] > tutorial["all_accuracy"] > 0.1
    assert tutorial["total_examples"] == tutorial["current_examples"]
    assert tutorial["seen_accuracy"] > 0.85
    assert tutorial["unseen_accuracy"] > 0.8


def test_tutorial_own_metrics(tutorial):
    metrics = tutorial["custom_metrics"]
    assert metrics["loss"] == pytest.approx(tutorial["train_loss"][-1], abs=1e-4)
    assert metrics["accuracy_of_worst_client"] < metrics["accuracy"]


def test_tutorial_three_ways_agree(tutorial):
    assert tutorial["from_scratch"] < 1e-6
    assert tutorial["by_hand"] < 1e-5


def test_tutorial_transformations(tutorial):
    assert tutorial["scanned"] < 1e-6
    np.testing.assert_allclose(tutorial["scanned_losses"], tutorial["train_loss"], rtol=1e-5)
    assert tutorial["gradient"] == pytest.approx(tutorial["finite_difference"], rel=0.02)


def test_tutorial_shows_placement_errors():
    printed = "\n".join(text for cell in _code_cells(_executed(TUTORIAL)) for text in _texts(cell))
    assert "fc.federated_map(fn, fc.federated_broadcast(server_value), client_value)" in printed
    assert "federated_broadcast takes a value at SERVER, got {float32}@CLIENTS" in printed
