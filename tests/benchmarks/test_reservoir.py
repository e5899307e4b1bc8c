"""The benchmark of reservoir sampling."""

import json

import pytest
import reservoir


def test_chances_are_those_of_a_fair_draw():
    found = reservoir.chances(keys=50, clients=8, sample_size=2)
    assert set(found["p"]) == {"everyone", "first", "middle", "last"}
    assert all(p > 0.001 for p in found["p"].values())


@pytest.mark.slow
def test_prints_what_it_measured(capsys):
    reservoir.main(["--clients", "300,600", "--devices", "1", "--memory-budget", "4000", "--keys", "3"])
    found = json.loads(capsys.readouterr().out)
    assert [(m["clients"], m["sampled"]) for m in found["reservoir"]] == [(300, 100), (600, 100)]
    assert [(m["clients"], m["sampled"]) for m in found["sum"]] == [(300, 0), (600, 0)]
