import sys

import pytest

from fedjax_core.program import History, Record, save_curves
from fedjax_core.program._curves import _panels


def test_draws_both_panels_with_what_was_measured(history):
    panels = dict(_panels(history))
    assert list(panels) == ["Loss", "Accuracy"]
    assert list(panels["Loss"]) == ["training clients", "held-out data"]
    assert panels["Accuracy"]["training clients"].tolist() == [0.5, 0.75, 1 - 0.5 / 3]


def test_axes_are_titled(history, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig

    def savefig(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    save_curves(history, tmp_path / "curves.png", title="a run")
    loss, accuracy = figures[0].axes
    assert figures[0].get_suptitle() == "a run"
    assert (loss.get_title(), loss.get_xlabel(), loss.get_ylabel()) == ("Loss over the rounds", "round", "loss")
    assert accuracy.get_title() == "Accuracy over the rounds"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training clients", "held-out data"]
    assert loss.lines[1].get_xdata().tolist() == [1, 3]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_alone(tmp_path):
    history = History()
    history.append(Record(1, 0.1, 0.1, 3, {"loss": 1.0}, {}))
    assert [label for label, _ in _panels(history)] == ["Loss"]
    save_curves(history, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_nothing_to_draw(tmp_path):
    history = History()
    history.append(Record(1, 0.1, 0.1, 3, {"norm": 1.0}, {}))
    with pytest.raises(ValueError, match="'loss' and 'accuracy'"):
        save_curves(history, tmp_path / "curves.png")


def test_without_matplotlib_says_how_to_install_it(history, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'fedjax-core\[plots\]'"):
        save_curves(history, tmp_path / "curves.png")
