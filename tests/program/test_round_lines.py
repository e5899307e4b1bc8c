import csv
import json
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.program import History, release_to_csv, release_to_json_lines, save_csv
from fedjax_core.program._round_lines import RoundLines, checked_round


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


def test_a_table_in_a_folder_that_does_not_exist(history, tmp_path):
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


def test_a_round_is_one_line_more_of_the_same_table(tmp_path):
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


def test_values_read_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    value = {
        "train": {"loss": 1 / 3, "counts": jnp.arange(4).reshape(2, 2), "none": jnp.zeros((0, 2))},
        "many": np.arange(100, dtype=np.int8),
        "name": "a\nb",
        "done": True,
        "half": jnp.bfloat16(0.1),
    }
    release_to_json_lines(path).release(value, np.int64(7))
    assert path.read_text().count("\n") == 1
    assert json.loads(path.read_text()) == {
        "round": 7,
        "done": True,
        "half": float(jnp.bfloat16(0.1)),
        "many": list(range(100)),
        "name": "a\nb",
        "train/counts": [[0, 1], [2, 3]],
        "train/loss": 1 / 3,
        "train/none": [],
    }


def test_numbers_that_json_has_not(tmp_path):
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    path = tmp_path / "metrics.jsonl"
    release_to_json_lines(path).release({"a": np.nan, "b": jnp.array([[np.inf, 0.5], [-np.inf, np.nan]])}, 1)
    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"round": 1, "a": "NaN", "b": [["Infinity", 0.5], ["-Infinity", "NaN"]]}
    np.testing.assert_array_equal(np.array(found["b"], np.float32), [[np.inf, 0.5], [-np.inf, np.nan]])


def test_a_round_is_one_line_more_of_the_same_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    manager = release_to_json_lines(path)
    manager.release({"loss": 0.5}, 1)
    file, before = path.stat().st_ino, path.read_bytes()
    manager.release({"loss": 0.25}, 2)
    assert path.stat().st_ino == file
    assert path.read_bytes() == before + b'{"round": 2, "loss": 0.25}\n'


@pytest.mark.parametrize("content", ["[1]\n", "{}\n", "round\n", "1\n"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match="holds something else"):
        release_to_json_lines(tmp_path / "metrics.jsonl")


def _open(path) -> RoundLines:
    return RoundLines(path, lambda line: int(line.split()[0]))


def test_appends_to_the_same_file(tmp_path):
    lines = _open(tmp_path / "lines")
    lines.put(1, "1 one")
    file = (tmp_path / "lines").stat().st_ino
    lines.put(2, "2 two")
    lines.put(5, "5 five")
    assert (tmp_path / "lines").read_text() == "1 one\n2 two\n5 five\n"
    assert (tmp_path / "lines").stat().st_ino == file
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_a_repeated_round_replaces_it_and_later_ones(tmp_path):
    lines = _open(tmp_path / "lines")
    for number in range(1, 6):
        lines.put(number, f"{number} first")
    _open(tmp_path / "lines").put(4, "4 again")
    assert (tmp_path / "lines").read_text() == "1 first\n2 first\n3 first\n4 again\n"


@pytest.mark.parametrize("torn", [b"3 thr", b"3 three", b"\xe2\x82"])
def test_a_torn_line_is_taken_off(tmp_path, torn):
    path = tmp_path / "lines"
    path.write_bytes(b"1 one\n2 two\n" + torn)
    lines = _open(path)
    assert lines.last == 2
    lines.put(3, "3 three")
    assert path.read_bytes() == b"1 one\n2 two\n3 three\n"


@pytest.mark.parametrize("meanwhile", [b"3 thr", b"3 three\n", b"3 three\n4 four\n", b"3 three\n4 fo"])
def test_what_was_written_meanwhile_is_noticed(tmp_path, meanwhile):
    """The file was changed by an interrupted write of this process, or by another process."""
    path = tmp_path / "lines"
    lines = _open(path)
    lines.put(1, "1 one")
    lines.put(2, "2 two")
    with open(path, "ab") as file:
        file.write(meanwhile)
    lines.put(3, "3 again")
    lines.put(4, "4 four")
    assert path.read_bytes() == b"1 one\n2 two\n3 again\n4 four\n"


def test_a_file_that_is_nothing_but_torn(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"1 on")
    lines = _open(path)
    lines.put(1, "1 one")
    assert path.read_bytes() == b"1 one\n"


def test_a_file_that_was_removed_meanwhile_gets_its_header(tmp_path):
    lines = RoundLines(tmp_path / "lines", int, has_header=True)
    lines.put(1, "1", header="round")
    (tmp_path / "lines").unlink()
    lines.put(2, "2")
    assert (tmp_path / "lines").read_text() == "round\n2\n"


@pytest.mark.parametrize("content", [b"hello\n", b"\n", b"1 one\n\xff\n"])
def test_another_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "lines"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds something else; choose another name"):
        _open(path)
    assert path.read_bytes() == content


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; create it first"):
        _open(tmp_path / "none" / "lines")


@pytest.mark.parametrize("number, error", [(1.0, TypeError), ("1", TypeError), (-1, ValueError)])
def test_numbers_of_rounds(number, error):
    with pytest.raises(error, match=r"release\(round_num=...\) must be an integer of at least 0, got"):
        checked_round(number)
