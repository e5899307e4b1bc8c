import sys

import jax.numpy as jnp
import pytest

from fedjax_core.program import History, Record, RunFolder


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


def test_metrics_grow_by_a_line_a_round(tmp_path, monkeypatch):
    folder, history = RunFolder(tmp_path / "run"), History()
    table = folder.path / "metrics.csv"
    history.append(Record(1, 0.1, 0.1, 3, {"loss": 1.0}, {}))
    folder.write_metrics(history)
    file, before = table.stat().st_ino, table.read_bytes()
    for number in range(2, 5):
        history.append(Record(number, 0.1, 0.1, 3, {"loss": 1.0}, {}))
        folder.write_metrics(history)
        folder.write_metrics(history)
        assert table.read_bytes() == before + b"".join(b"%d,0.1,0.1,3,1.0\n" % n for n in range(2, number + 1))
    assert table.stat().st_ino == file


def test_a_resumed_run_has_the_metrics_of_its_history(history, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_metrics(history)
    table = folder.path / "metrics.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[:-7])
    RunFolder(folder.path, resume=True).write_metrics(history)
    assert table.read_bytes() == whole
    shorter = History()
    shorter.append(history.records[0])
    resumed = RunFolder(folder.path, resume=True)
    resumed.write_metrics(shorter)
    shorter.append(history.records[1])
    resumed.write_metrics(shorter)
    assert [line[:2] for line in table.read_text().splitlines()] == ["ro", "1,", "2,"]


def test_a_second_run_takes_the_place_of_the_first_one(history, tmp_path):
    folder, second = RunFolder(tmp_path / "run"), History()
    folder.write_metrics(history)
    for number in (1, 2):
        second.append(Record(number, 0.1, 0.1, 3, {"loss": 7.0}, {}))
        folder.write_metrics(second)
    assert (folder.path / "metrics.csv").read_text().splitlines()[1:] == ["1,0.1,0.1,3,7.0", "2,0.1,0.1,3,7.0"]


def test_without_rounds_there_is_no_table(tmp_path):
    RunFolder(tmp_path / "run").write_metrics(History())
    assert not any((tmp_path / "run").iterdir())


def test_resuming_removes_what_a_killed_process_left(tmp_path):
    RunFolder(tmp_path / "run").write_text("a.txt", "a")
    (tmp_path / "run" / f".weights.npz.{'0' * 32}").write_bytes(b"ha")
    RunFolder(tmp_path / "run", resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a.txt"]
