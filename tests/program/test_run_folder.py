import sys

import jax.numpy as jnp
import pytest

from fedjax_core.program import History, Record, RunFolder
from fedjax_core.program import _run_folder as run_folder


def test_finish_leaves_three_files(history, tmp_path):
    folder = RunFolder(tmp_path / "runs" / "first")
    folder.finish({"w": jnp.ones(2)}, history)
    assert {file.name for file in folder.path.iterdir()} == {"weights.npz", "metrics.csv", "curves.png"}


def test_never_overwrites(tmp_path):
    RunFolder(tmp_path / "run").write_text("a.txt", "a")
    with pytest.raises(FileExistsError, match="not empty; choose another name"):
        RunFolder(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        RunFolder(tmp_path / "file")


def test_dated_folders_differ_within_a_second(tmp_path):
    folders = [RunFolder.dated(tmp_path / "runs", "digits").path for _ in range(5)]
    assert len(set(folders)) == 5
    assert all("digits" in folder.name and folder.is_dir() for folder in folders)


def test_without_matplotlib_the_rest_is_written(history, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    folder = RunFolder(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"pip install 'fedjax-core\[plots\]'"):
        folder.finish({"w": jnp.ones(2)}, history)
    assert {file.name for file in folder.path.iterdir()} == {"weights.npz", "metrics.csv"}


def test_metrics_are_written_after_the_first_round(tmp_path):
    folder, history = RunFolder(tmp_path / "run"), History()
    history.append(Record(1, 0.1, 0.1, 3, {"loss": 1.0}, {}))
    folder.write_metrics(history)
    assert (folder.path / "metrics.csv").read_text().count("\n") == 2


def test_writing_metrics_takes_a_small_share_of_the_time(history, tmp_path, monkeypatch):
    now, writes = [0.0], []

    def save_csv(history, path):
        writes.append(now[0])
        now[0] += 0.1

    monkeypatch.setattr(run_folder.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_folder, "save_csv", save_csv)
    folder = RunFolder(tmp_path / "run")
    while now[0] < 20:
        folder.write_metrics(history)
        now[0] += 0.01
    assert 3 <= len(writes) <= 5
