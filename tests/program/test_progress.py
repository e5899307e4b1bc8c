import io

import pytest
import rich.console

from fedjax_core.program._progress import ProgressBar


def _shown(history, width: int, terminal: bool, disable: bool = False) -> str:
    file = io.StringIO()
    console = rich.console.Console(file=file, width=width, force_terminal=terminal, force_jupyter=False, no_color=True)
    with ProgressBar(3, disable, console) as bar:
        for record in history.records:
            bar.update(record)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_shows_rounds_metrics_and_speed(history, width):
    shown = _shown(history, width, terminal=True)
    assert "round 3/3" in shown
    assert "loss 0.111, accuracy 83.3 % · held-out loss 0.667, accuracy 80.0 %" in shown
    assert "200 clients/s" in shown


@pytest.mark.parametrize("terminal, disable", [(False, False), (True, True)])
def test_is_quiet(history, terminal, disable):
    assert _shown(history, 80, terminal, disable).strip() == ""


def test_keeps_the_latest_evaluation(history):
    bar = ProgressBar(3, disable=True)
    for record in history.records[:2]:
        bar.update(record)
    assert bar._bar.tasks[0].description == "loss 0.167, accuracy 75.0 % · held-out loss 2.000, accuracy 40.0 %"
