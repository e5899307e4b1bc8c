import csv
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.program import History, release_to_csv, save_csv


def test_numbers_read_back_exactly(history, tmp_path):
    path = tmp_path / "metrics.csv"
    save_csv(history, path)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    for row, record in zip(rows, history.records, strict=True):
        assert float(row["train/loss"]) == record.metrics["train/loss"]
        assert int(row["train/count"]) == record.metrics["train/count"]
    assert [row["held_out/eval/loss"] for row in rows] == ["2.0", "", str(2 / 3)]


def test_every_line_is_whole(history, tmp_path):
    save_csv(history, tmp_path / "metrics.csv")
    lines = (tmp_path / "metrics.csv").read_text().split("\n")
    assert len(lines) == 5
    assert lines[-1] == ""
    assert len({line.count(",") for line in lines[:-1]}) == 1


def test_a_history_without_rounds(tmp_path):
    save_csv(History(), tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text() == "\n"


def test_a_folder_that_does_not_exist(history, tmp_path):
    with pytest.raises(FileNotFoundError):
        save_csv(history, tmp_path / "none" / "metrics.csv")


def _rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_releases_make_the_table_of_the_history(history, tmp_path):
    save_csv(history, tmp_path / "saved.csv")
    manager = release_to_csv(tmp_path / "released.csv")
    for record in history.records:
        manager.release(record.row(), record.round)
    assert (tmp_path / "released.csv").read_bytes() == (tmp_path / "saved.csv").read_bytes()


def test_a_round_is_one_line_more_of_the_same_file(tmp_path):
    path = tmp_path / "metrics.csv"
    manager = release_to_csv(path)
    manager.release({"loss": 0.5}, 1)
    file, before = path.stat().st_ino, path.read_bytes()
    manager.release({"loss": 0.25}, 2)
    manager.release({}, 3)
    assert path.stat().st_ino == file
    assert path.read_bytes() == before + b"2,0.25\n3,\n"


def test_names_and_texts_are_on_one_line(tmp_path):
    path = tmp_path / "metrics.csv"
    release_to_csv(path).release({'a,"b"\nc': "d,\ne", "f": np.arange(2), "large": np.zeros(17)}, 1)
    assert path.read_text().count("\n") == 2
    assert _rows(path) == [{"round": "1", 'a,"b" c': "d, e", "f/0": "0", "f/1": "1"}]
    release_to_csv(path).release({'a,"b"\nc': 2.5}, 2)
    assert _rows(path)[1] == {"round": "2", 'a,"b" c': "2.5", "f/0": "", "f/1": ""}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 5e-324, 1 / 3, 2**40, True])
def test_a_number_reads_back(value, tmp_path):
    release_to_csv(tmp_path / "metrics.csv").release({"a": value}, 1)
    text = _rows(tmp_path / "metrics.csv")[0]["a"]
    assert text == repr(value)


def test_another_table_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("name,age\nada,36\n")
    with pytest.raises(ValueError, match="choose another name"):
        release_to_csv(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("number,age\n1,36\n")
    with pytest.raises(ValueError, match="the first column must be 'round', got 'number'"):
        release_to_csv(tmp_path / "metrics.csv")


def test_columns_of_another_manager_are_kept(tmp_path):
    path = tmp_path / "metrics.csv"
    first, second = release_to_csv(path), release_to_csv(path)
    first.release({"a": 1}, 1)
    second.release({"b": 2}, 2)
    first.release({"c": 3, "a": 4}, 3)
    rows = [{name: cell for name, cell in row.items() if cell} for row in _rows(path)]
    assert rows == [{"round": "1", "a": "1"}, {"round": "2", "b": "2"}, {"round": "3", "a": "4", "c": "3"}]


_VALUES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 999))
_RELEASES = st.tuples(st.integers(1, 6), _VALUES)
_CRASHES = st.integers(-40, 40).filter(bool)


@given(st.lists(_RELEASES | _CRASHES, max_size=12))
def test_holds_every_round_once_whatever_happens(events):
    """A number stands for a write that leaves as many bytes less of the last line: of a process that was killed then,
    or, if it is negative, of one that goes on.
    """
    path = pathlib.Path(tempfile.mkdtemp(), "metrics.csv")
    manager, expected = release_to_csv(path), {}
    for event in events:
        if isinstance(event, tuple):
            number, value = event
            manager.release(value, number)
            expected = {r: row for r, row in expected.items() if r < number} | {number: value}
        elif expected:
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[:-1]) + lines[-1][: max(0, len(lines[-1]) - abs(event))])
            manager = release_to_csv(path) if event > 0 else manager
            if lines[-1].endswith(b"\n"):  # or it is what is left of a line that was torn before
                del expected[max(expected)]
    release_to_csv(path)  # takes off what is torn
    rows = _rows(path) if path.exists() else []
    found = [{name: int(cell) for name, cell in row.items() if cell} for row in rows]
    assert found == [{"round": number, **value} for number, value in expected.items()]
