import pytest

from fedjax_core.participant._step_bar import step_bar


@pytest.mark.parametrize("total, shown", [(3, "2/3 steps"), (None, "2 steps")])
def test_counts_on_a_terminal(total, shown, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with step_bar("training", "steps", total, shown=True) as advance:
        advance()
        advance()
    captured = capsys.readouterr()
    assert captured.out == "" and "training" in captured.err and shown in captured.err


@pytest.mark.parametrize("terminal, wanted", [("0", True), ("1", False)])
def test_is_quiet_in_a_log_and_when_it_is_not_wanted(terminal, wanted, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    with step_bar("training", "steps", 3, shown=wanted) as advance:
        advance()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_does_not_hide_an_error():
    with pytest.raises(StopIteration), step_bar("training", "steps", None, shown=False):
        raise StopIteration
