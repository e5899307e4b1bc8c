"""The report: its table, chart and file from recorded numbers, and what it omits."""

import json
import statistics

import _sitting
import pytest
import report

MACHINE = {"cpu": "a processor", "cores": 2, "date": "2026-11-21 12:00 UTC"}


def result(*seconds, verified=True):
    """A recorded result."""
    median = statistics.median(seconds)
    return {"version": "1", "verified": verified, "seconds": list(seconds), "median_s": median}


RESULTS = {
    "W1": {
        "ours": result(0.05, 0.05, 0.05),
        "fast": result(0.04, 0.04, 0.04),
        "other": result(0.1, 0.1, 0.1, verified=False),
        "absent": {"failed": "it ended"},
    },
    "W2": {"ours": result(2.0, 2.0, 2.0), "other": result(30.0)},
}


def test_the_table_has_ratios_to_ours_and_marks_what_differs():
    assert report.table(RESULTS, rounds=3).splitlines() == [
        "| | W1 | W2 |",
        "|---|---|---|",
        "| ours | 0.05 (1.00) | 2 (1.00) |",
        "| fast | 0.04 (0.80) | - |",
        "| other | 0.1 (2.00) * | 30 (15.00) [1] |",
        "| absent | failed | - |",
    ]


def test_without_ours_the_table_has_seconds_only():
    assert report.table({"W1": {"other": result(0.25)}}, rounds=1).endswith("| other | 0.25 |")


def test_a_report_is_a_chart_and_a_file(tmp_path):
    text = report.write(RESULTS, tmp_path / "results", "cpu", MACHINE, _sitting.Limits(rounds=3))
    assert text == report.table(RESULTS, 3)
    recorded = json.loads((tmp_path / "results" / "cpu.json").read_text())
    assert recorded["machine"] == MACHINE
    assert recorded["results"] == RESULTS
    assert recorded["limits"]["rounds"] == 3
    assert (tmp_path / "results" / "cpu.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_timed_is_no_chart(tmp_path):
    report.write({"W1": {"absent": {"failed": "it ended"}}}, tmp_path, "cpu", MACHINE, _sitting.Limits())
    assert [file.name for file in tmp_path.iterdir()] == ["cpu.json"]


def test_the_machine_is_described():
    assert {"cpu", "cores", "memory_gb", "python", "jax", "jaxlib", "date"} <= set(report.machine())


def test_all_results_that_are_kept_tell_their_machine():
    kept = list((report.HERE / "results").glob("*.json"))
    assert kept
    for file in kept:
        assert {"cpu", "cores", "memory_gb", "jax", "date"} <= set(json.loads(file.read_text())["machine"]), file.name


def test_peers_without_an_environment_are_left_out_with_a_word(tmp_path):
    said = []
    found = report.programs(["fedjax", "ours", "hand-written"], tmp_path, said.append)
    assert [program.name for program in found] == ["hand-written", "ours"]
    assert "fedjax is left out" in said[0]


def test_peers_are_started_by_their_own_interpreter_once_a_variant(tmp_path, monkeypatch):
    monkeypatch.setattr(report.environment, "is_ready", lambda name, folder: True)
    padded, shipped = report.programs(["fedjax"], tmp_path)
    assert padded.command[0] == str(tmp_path / "fedjax" / "bin" / "python")
    assert padded.command[-1] == "padded" and padded.exact and not shipped.exact


def test_one_variant_of_a_peer_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(report.environment, "is_ready", lambda name, folder: True)
    found = report.programs(["tff:default loop", "flwr", "flwr:ray actors"], tmp_path)
    assert [program.name for program in found] == ["tff, default loop", "flwr, ray actors"]
    assert found[0].command[-1] == "default loop"
    assert {"ours", "tff", "tff:iterator loop", "tff:default loop"} <= set(report.choices())


def test_an_unknown_program_is_refused(capsys):
    assert report.main(["--programs", "ours,nobody"]) == 2
    assert "no such programs: nobody; there are hand-written, ours" in capsys.readouterr().err
    assert report.main(["--programs", "tff:fast loop"]) == 2
    assert "no such programs: tff:fast loop; " in capsys.readouterr().err


@pytest.mark.slow
def test_ours_and_the_hand_written_program_are_reported(data, tmp_path, capsys):
    arguments = ["--programs", "ours,hand-written", "--rounds", "2", "--data", str(data), "--results", str(tmp_path)]
    assert report.main(arguments) == 0
    assert "| ours | " in capsys.readouterr().out
    results = json.loads((tmp_path / "report.json").read_text())["results"]["W1"]
    assert results["ours"]["verified"] and results["hand-written"]["verified"]
