"""Helpers for the tests of laws: the laws that something breaks, and an engine that breaks one."""

import re

from fedjax_core import testing
from fedjax_core.engine import _packing


def broken(check, *args, **kwargs) -> set[str]:
    """The names of the laws that `check` finds broken, after checking that each is reported with both values."""
    try:
        check(*args, **kwargs)
    except AssertionError as error:
        headline, *lines = str(error).split("\n")
        found = dict(re.match(r"(\w+): (.+)", line).groups() for line in lines[::2])
        assert all(re.search(r"expected .+, .*found .+|^  \w+: ", line) for line in lines[1::2]), error
        assert re.match(rf"the [a-z ]+ breaks {len(found)} of \d+ laws$", headline), headline
        assert all(sentence in _sentences(name) for name, sentence in found.items())
        return set(found)
    return set()


def _sentences(name: str) -> list[str]:
    known = (testing.AGGREGATOR_LAWS, testing.METRIC_LAWS, testing.LEARNING_PROCESS_LAWS, testing.AGGREGATE_LAWS)
    return [laws[name] for laws in known if name in laws]


def repeat_clients_in_waves(monkeypatch):
    """Breaks the engine: every wave of a round gets the clients of the first."""

    def first_wave(cohort, packing, wave):
        return _packing.pack_wave(cohort, packing, 0)

    monkeypatch.setattr("fedjax_core.engine._run.pack_wave", first_wave)
