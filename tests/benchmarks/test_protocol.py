"""The line protocol: a session's answers, a framework with its own loop, and a child process."""

import io
import json
import pathlib
import sys
import threading

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks" / "peers"))
import _protocol
import _sitting
import environment


def adding(task) -> _protocol.Peer:
    """A peer that adds `k` to its bias."""

    def round_(state, k):
        return state | {"bias": state["bias"] + k}

    return _protocol.Peer("adding 1", lambda: dict(task.initial), round_, dict)


def answers_of(task, peer, lines) -> list[dict]:
    """The answers of a session."""
    out = io.StringIO()
    _protocol.Session(task, "only", pathlib.Path(), out).serve(peer, lines)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_session_checks_runs_and_stops(data, tmp_path):
    task = _protocol.load("W1", data)
    lines = [f"check {tmp_path / 'w.npz'}", "round 3", "memory", "what", "stop", "round 4"]
    ready, checked, timed, memory, unknown = answers_of(task, adding(task), lines)
    assert ready == {"ready": True, "version": "adding 1", "variant": "only", "workload": "W1"}
    weights = np.load(tmp_path / "w.npz")
    np.testing.assert_array_equal(weights["bias"], np.ones(62))  # cohorts 0 and 1
    assert checked["difference"] == pytest.approx(_protocol.largest_difference(weights, task.reference))
    assert set(timed) == {"seconds"} and timed["seconds"] >= 0
    assert set(memory) == {"peak_gb", "tree_gb"}
    assert "unknown command 'what'" in unknown["error"]


def test_there_is_no_difference_without_a_reference(data, tmp_path):
    task = _protocol.load("W4", data)
    assert answers_of(task, adding(task), [f"check {tmp_path / 'w.npz'}"])[1] == {"difference": None}


def test_a_task_has_flat_weights_and_its_clients_examples(data):
    task = _protocol.load("W2", data)
    assert {"conv1/kernel", "dense2/bias"} <= set(task.initial)
    x, y = task.client(3)
    assert x.shape == (task.workload.sizes[3], 28, 28, 1) and y.shape == x.shape[:1]
    np.testing.assert_array_equal(task.cohort(len(task.workload.cohorts)), task.cohort(0))


def test_a_round_has_every_client_once():
    _protocol.every_client_once(np.array([7, 3, 5]), [5, 7, 3])
    with pytest.raises(ValueError, match=r"each of its 3 clients once, but 1 of them are missing and 0 .* \[3\]"):
        _protocol.every_client_once([7, 3, 5], [5, 7])
    with pytest.raises(ValueError, match=r"1 of them are missing and 1 replies are too many.* \[5, 3\]"):
        _protocol.every_client_once([7, 3, 5], [3, 7, 3])
    with pytest.raises(ValueError, match=r"0 of them are missing and 1 replies are too many.* \[4\]"):
        _protocol.every_client_once([7, 3, 5], [3, 7, 5, 4])


def test_weights_with_other_names_are_not_compared():
    with pytest.raises(ValueError, match=r"\['w'\], not \['kernel'\]"):
        _protocol.largest_difference({"w": 0}, {"kernel": 0})


def test_a_turnstile_gives_a_framework_its_rounds_one_by_one(data, tmp_path):
    task, turnstile, seen = _protocol.load("W1", data), _protocol.Turnstile(), []

    def framework():
        while (order := turnstile.wait()) is not None:
            seen.append(order)
            turnstile.done(lambda: task.initial)

    thread = threading.Thread(target=framework)
    thread.start()
    answers = answers_of(task, turnstile.as_peer("looping 1"), [f"check {tmp_path / 'w.npz'}", "round 5"])
    turnstile.stop()
    thread.join()
    assert seen == [(0, True), (1, False), (5, False)]
    assert len(answers) == 3


CHILD = """
import sys
sys.path.insert(0, {scripts!r})
import _protocol
session = _protocol.begin("A child.", ("good", "wrong", "broken", "noisy"))
task, variant = session.task, session.variant
print("what a framework prints does not disturb")
learned = {{"kernel": 0.5, "bias": 1.0}}

def round_(state, k):
    if variant == "broken" and k == 2:
        raise RuntimeError("out of order")
    step = 2.0 if variant == "wrong" else 1.0
    return {{name: value + step * learned[name] for name, value in state.items()}}

session.serve(_protocol.Peer("child 1", lambda: dict(task.initial), round_, dict))
"""


@pytest.fixture
def program(tmp_path):
    """`(variant, **special) -> Program` of a tiny child."""
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(scripts=str(pathlib.Path(_protocol.__file__).parent)))

    def started(variant, **special):
        return _sitting.Program(variant, [sys.executable, str(script), "--variant", variant], **special)

    return started


def test_programs_take_turns_once_they_are_verified(data, program):
    said = []
    limits = _sitting.Limits(rounds=3, warm_up=1)
    programs = [program("good"), program("wrong"), program("broken"), program("noisy")]
    task = _protocol.load("W4", data)
    results = _sitting.take_turns(programs, "W4", data, task, 1e-6, limits, said.append)
    for name in ("good", "noisy"):
        assert results[name]["version"] == "child 1" and results[name]["verified"]
        assert len(results[name]["seconds"]) == 3
    assert "weights differ" in results["wrong"]["failed"]
    assert "out of order" in results["broken"]["failed"]
    assert sum(line.startswith("turn") for line in said) == 4


def test_a_program_that_is_not_exact_is_timed_and_marked(data, program):
    programs = [program("good"), program("wrong", exact=False)]
    task, limits = _protocol.load("W4", data), _sitting.Limits(rounds=1, warm_up=0)
    results = _sitting.take_turns(programs, "W4", data, task, 1e-6, limits, lambda line: None)
    assert not results["wrong"]["verified"]
    assert results["wrong"]["difference"] == pytest.approx(1.0)
    assert len(results["wrong"]["seconds"]) == 1


def test_slow_programs_do_fewer_rounds(data, program):
    limits = _sitting.Limits(rounds=3, warm_up=1, slow=0.0, slow_rounds=2)
    task = _protocol.load("W4", data)
    results = _sitting.take_turns([program("good")], "W4", data, task, 1e-6, limits, lambda line: None)
    assert len(results["good"]["seconds"]) == 2


def test_a_silent_program_has_failed(tmp_path):
    program = _sitting.Program("silent", [sys.executable, "-c", "input()"])
    child = _sitting.Child(program, [], tmp_path / "log", patience=0.05)
    try:
        with pytest.raises(_sitting.ProgramFailed, match="silent was silent for"):
            child.answer()
    finally:
        child.stop()


def test_a_missing_python_is_named():
    with pytest.raises(environment.MissingPython, match=r"no Python 9\.99 on this machine; install it"):
        environment.interpreter("9.99")


def test_every_peer_has_pins_and_a_script():
    for name in environment.NAMES:
        lines = environment.pins(name).read_text().split()
        assert lines and all("==" in line for line in lines)
        assert (environment.HERE / f"{name}_round.py").is_file()


def test_an_environment_with_other_pins_is_not_ready(tmp_path):
    assert not environment.is_ready("pfl", tmp_path)
    (tmp_path / "pfl").mkdir()
    (tmp_path / "pfl" / "pins.txt").write_text(environment.pins("pfl").read_text())
    assert environment.is_ready("pfl", tmp_path)
    (tmp_path / "pfl" / "pins.txt").write_text("pfl==0.5.0\n")
    assert not environment.is_ready("pfl", tmp_path)
