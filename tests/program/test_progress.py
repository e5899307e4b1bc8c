import io

import pytest
import rich.console

from fedjax_core.program._progress import ProgressBar
from tests.clock import Clock


def _shown(history, width: int, terminal: bool, disable: bool = False, completed: int = 0, rounds: int = 3) -> str:
    file, clock = io.StringIO(), Clock()
    console = rich.console.Console(file=file, width=width, force_terminal=terminal, force_jupyter=False, no_color=True)
    with ProgressBar(rounds, completed, disable, console, clock) as bar:
        for record in history.records[completed:]:
            clock.now += 2.0
            bar.update(record)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_shows_rounds_metrics_and_speed(history, width):
    shown = _shown(history, width, terminal=True)
    assert "round 3/3" in shown
    assert "loss 0.111, accuracy 83.3 % · held-out loss 0.667, accuracy 80.0 %" in shown
    assert "20 rounds/s, 200 clients/s" in shown


def test_shows_the_time_left(history):
    """By the clock, each round takes two seconds."""
    assert "00:14" in _shown(history, 100, terminal=True, rounds=10).split("round 3/10")[-1]


def test_a_resumed_run_goes_on_where_it_was(history):
    shown = _shown(history, 100, terminal=True, completed=1)
    assert "round 1/3" in shown
    assert "20 rounds/s, 200 clients/s" in shown.split("round 3/3")[-1]
    assert "rounds/s" not in shown.split("round 3/3")[0]


@pytest.mark.parametrize("terminal, disable", [(False, False), (True, True)])
def test_is_quiet(history, terminal, disable):
    assert _shown(history, 80, terminal, disable).strip() == ""


def test_keeps_the_latest_evaluation(history):
    bar = ProgressBar(3, disable=True)
    for record in history.records[:2]:
        bar.update(record)
    assert bar._bar.tasks[0].description == "loss 0.167, accuracy 75.0 % · held-out loss 2.000, accuracy 40.0 %"


def test_without_a_last_round(history):
    shown = _shown(history, 100, terminal=True, rounds=None)
    assert "round 3 " in shown and "None" not in shown
