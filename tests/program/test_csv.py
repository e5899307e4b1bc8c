import csv

import pytest

from fedjax_core.program import History, save_csv


def test_numbers_read_back_exactly(history, tmp_path):
    path = tmp_path / "metrics.csv"
    save_csv(history, path)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    for row, record in zip(rows, history.records, strict=True):
        assert float(row["train.loss"]) == record.metrics["train.loss"]
        assert int(row["train.count"]) == record.metrics["train.count"]
    assert [row["held_out.eval.loss"] for row in rows] == ["2.0", "", str(2 / 3)]


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
