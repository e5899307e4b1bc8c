"""The benchmark of a call's overhead."""

import json

import overhead
import pytest


def test_prints_both_clocks_on_one_device_and_on_all(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # which the script sets, and which is set back
    overhead.main(["--calls", "3", "--devices", "2"])
    found = json.loads(capsys.readouterr().out)
    assert [(m["devices"], m["calls"]) for m in found] == [(1, 3), (2, 3)]
    for measured in found:
        for clock in (measured["thread_ms"], measured["wall_ms"]):
            assert 0 < clock["least"] <= clock["median"]
        assert measured["thread_ms"]["least"] <= measured["wall_ms"]["median"]


def test_no_calls_are_refused(capsys):
    with pytest.raises(SystemExit):
        overhead.main(["--calls", "0"])
    assert "--calls is at least 1, got 0" in capsys.readouterr().err
