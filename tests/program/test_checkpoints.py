"""The checkpoints of a run: which are kept, which is restored, and that they are written in the background."""

import shutil
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.program import Checkpoint, Checkpoints, CheckpointTypeError, DamagedCheckpointError, History, Record
from fedjax_core.program import _checkpoints as module

LIKE = {"w": jnp.zeros(3)}


def _checkpoint(number: int, **metrics) -> Checkpoint:
    history = History()
    for i in range(1, number + 1):
        history.append(Record(i, 0.1 * i, 0.1, 5, metrics if i == number else {}, {}))
    return Checkpoint(number, {"w": jnp.full(3, float(number))}, history, {"key": [0, number]}, {"lanes": 1})


def _saved(folder, numbers, **options) -> Checkpoints:
    checkpoints = Checkpoints(folder, **options)
    for number in numbers:
        checkpoints.save(_checkpoint(number))
    checkpoints.wait()
    return checkpoints


def test_the_latest_comes_back_whole(tmp_path):
    _saved(tmp_path / "new" / "checkpoints", [2, 4])
    found = Checkpoints(tmp_path / "new" / "checkpoints").restore(LIKE)
    expected = _checkpoint(4)
    assert found.state["w"].tolist() == [4, 4, 4]
    assert found.history.records == expected.history.records
    assert (found.round, *found[3:]) == (expected.round, *expected[3:])


def test_none_yet(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert (checkpoints.rounds, checkpoints.best_round, checkpoints.restore(LIKE)) == ((), None, None)
    checkpoints.wait()
    assert not (tmp_path / "none").exists()
    with pytest.raises(DamagedCheckpointError, match="cannot be read"):
        checkpoints.load(3, LIKE)


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    for name in ("notes.txt", ".hidden", "4.old"):
        (tmp_path / name).mkdir()
    checkpoints = _saved(tmp_path, [1, 2, 3, 4], keep_last=1)
    assert checkpoints.rounds == (4,)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".hidden", "4.old", "4"}


@pytest.mark.parametrize(
    "options, kept",
    [
        ({}, [10, 11, 12]),
        ({"keep_last": 1}, [12]),
        ({"keep_last": None}, list(range(13))),
        ({"keep_last": 100}, list(range(13))),
        ({"keep_last": 2, "keep_every": 5}, [0, 5, 10, 11, 12]),
        ({"keep_last": 1, "keep_every": 1}, list(range(13))),
    ],
)
def test_which_are_kept(options, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_checkpoint", lambda path, *content: path.mkdir())
    assert _saved(tmp_path, range(13), **options).rounds == tuple(kept)


LOSSES = [3.0, 1.0, float("nan"), 2.0, 1.0, None, 5.0, float("inf")]


@pytest.mark.parametrize("mode, best", [("min", 2), ("max", 8)])
@pytest.mark.parametrize("resumed", [False, True])
def test_the_best_is_kept(mode, best, resumed, tmp_path):
    """Of equal values the earliest is kept; a round whose metric is NaN or missing is never the best."""
    options = {"keep_last": 1, "best_metric": "eval/loss", "best_mode": mode}
    checkpoints = Checkpoints(tmp_path, **options)
    for number, loss in enumerate(LOSSES, 1):
        if resumed:
            checkpoints.wait()
            checkpoints = Checkpoints(tmp_path, **options)
        metrics = {} if loss is None else {"eval/loss": loss}
        checkpoints.save(_checkpoint(number, **metrics))
    checkpoints.wait()
    assert checkpoints.rounds == tuple(sorted({best, len(LOSSES)}))
    assert checkpoints.best_round == best
    assert checkpoints.load(best, LIKE).round == best


def test_a_metric_that_no_round_has(tmp_path):
    """It is warned of once, and not before there was an evaluation."""
    checkpoints = Checkpoints(tmp_path, keep_last=2, best_metric="held_out/los")
    evaluated = _checkpoint(2, accuracy=0.5)
    evaluated.history.records[-1] = evaluated.history.records[-1]._replace(held_out={"loss": 1.0})
    checkpoints.save(_checkpoint(1))
    with pytest.warns(UserWarning, match=r"best_metric='held_out/los'.* accuracy, held_out/loss$"):
        checkpoints.save(evaluated)
    checkpoints.save(evaluated._replace(round=3))
    checkpoints.wait()
    assert checkpoints.rounds == (2, 3)
    assert checkpoints.best_round is None


@pytest.mark.parametrize("damage", ["an empty folder", "no manifest", "no arrays"])
def test_a_damaged_one_is_skipped_with_a_warning(damage, tmp_path):
    _saved(tmp_path, [5, 10, 15])
    if damage == "an empty folder":
        (tmp_path / "20").mkdir()
        bad, good = 20, 15
    else:
        bad, good = 15, 10
        name = "manifest.json" if damage == "no manifest" else "arrays/_METADATA"
        (tmp_path / "15" / name).unlink()
    checkpoints = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match=f"the checkpoint of round {bad} is damaged and skipped: .*cannot be read"):
        assert checkpoints.restore(LIKE).round == good
    checkpoints.save(_checkpoint(bad))
    assert checkpoints.restore(LIKE).round == bad


def test_all_damaged(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    with pytest.warns(UserWarning, match="is damaged and skipped") as warned:
        assert Checkpoints(tmp_path).restore(LIKE) is None
    assert len(warned) == 2


def test_a_run_that_goes_back_behind_damaged_ones_keeps_what_it_writes(tmp_path):
    _saved(tmp_path, [7, 8, 9])
    for number in (7, 8, 9):
        (tmp_path / str(number) / "history.jsonl").unlink()
    checkpoints = _saved(tmp_path, range(1, 6), keep_last=2)
    assert checkpoints.rounds == (4, 5, 7, 8, 9)
    with pytest.warns(UserWarning, match="is damaged and skipped"):
        assert checkpoints.restore(LIKE).round == 5
    assert _saved(tmp_path, range(6, 10), keep_last=2).rounds == (8, 9)
    assert Checkpoints(tmp_path).restore(LIKE).round == 9


def test_a_reader_does_not_mind_that_one_is_removed_meanwhile(tmp_path, monkeypatch):
    checkpoints = _saved(tmp_path, [1, 2])
    read = module.read_checkpoint

    def late(path, like):
        if path.name == "2":
            module.remove_folder(path)
        return read(path, like)

    monkeypatch.setattr(module, "read_checkpoint", late)
    assert checkpoints.restore(LIKE).round == 1


def test_of_another_model_none_is_loaded(tmp_path):
    _saved(tmp_path, [1, 2])
    with pytest.raises(CheckpointTypeError, match=r"<w=float32\[3\]>(.|\n)*<w=float32\[4\]>"):
        Checkpoints(tmp_path).restore({"w": jnp.zeros(4)})


def test_is_written_while_the_run_goes_on(tmp_path, monkeypatch):
    go_on, write = threading.Event(), module.write_checkpoint

    def slow(*content):
        assert go_on.wait(60)
        write(*content)

    monkeypatch.setattr(module, "write_checkpoint", slow)
    checkpoints = Checkpoints(tmp_path)
    state = {"w": np.full(3, 1.0, np.float32)}
    checkpoints.save(_checkpoint(1)._replace(state=state))
    state["w"][:] = 7
    assert checkpoints.rounds == ()
    go_on.set()
    checkpoints.save(_checkpoint(2))  # waits for the one before
    assert 1 in checkpoints.rounds
    checkpoints.wait()
    assert checkpoints.rounds == (1, 2)
    assert checkpoints.load(1, LIKE).state["w"].tolist() == [1, 1, 1]
    deadline = time.monotonic() + 60
    while any(thread.name.startswith("checkpoint") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.001)


def test_a_failure_of_writing_is_told(tmp_path, monkeypatch):
    def fail(*content):
        raise OSError("no space left on device")

    checkpoints = _saved(tmp_path, [1])
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_checkpoint", fail)
        checkpoints.save(_checkpoint(2))
        with pytest.raises(OSError, match="no space left"):
            checkpoints.wait()
    checkpoints.wait()
    checkpoints.save(_checkpoint(3))
    assert checkpoints.restore(LIKE).round == 3
    assert checkpoints.rounds == (1, 3)


def test_the_first_save_removes_what_a_killed_process_left(tmp_path):
    half = tmp_path / f".4.{'0' * 32}"
    (half / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(LIKE) is None
    assert half.exists()
    checkpoints.save(_checkpoint(4))
    checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


@pytest.mark.parametrize("number", [10**6, 0])
def test_a_round_is_saved_again_in_its_place(number, tmp_path):
    checkpoints = _saved(tmp_path, [])
    for value in (1.0, 2.0):
        checkpoints.save(Checkpoint(number, {"w": jnp.full(3, value)}, History(), {}, {}))
    assert checkpoints.restore(LIKE).state["w"].tolist() == [2, 2, 2]
    assert checkpoints.rounds == (number,)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"run_identity": {"key": jnp.ones(2)}}, TypeError, "not JSON serializable"),
        ({"state": {"w": "text"}}, TypeError, "a value must be a pytree of arrays"),
        ({"round": -1}, ValueError, "at least 0, got -1"),
        ({"round": 1.5}, TypeError, "must be an integer of at least 0, got 1.5"),
    ],
)
def test_what_cannot_be_saved_is_told_at_once(change, error, message, tmp_path):
    with pytest.raises(error, match=message):
        Checkpoints(tmp_path).save(_checkpoint(1)._replace(**change))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"every": 0}, ValueError, r"Checkpoints\(every=...\) must be an integer of at least 1, got 0; write every=10"),
        ({"every": True}, TypeError, r"Checkpoints\(every=...\) must be an integer of at least 1, got True"),
        ({"keep_last": 0}, ValueError, "keep_last"),
        ({"keep_last": 1.5}, TypeError, "keep_last"),
        ({"keep_every": -1}, ValueError, "keep_every"),
        ({"best_metric": 0.5}, TypeError, r"best_metric=...\) must be the name of a metric, got 0.5; .*eval/loss"),
        ({"best_mode": "least"}, ValueError, r"must be 'min' or 'max', got 'least'; write best_mode='min'"),
    ],
)
def test_refuses_at_once(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        Checkpoints(tmp_path, **options)


@pytest.mark.parametrize(
    "about", [{}, {"round": 2}, {"round": 1, "metrics": 3}, {"round": 1, "metrics": {}, "run_identity": [1]}]
)
def test_a_forged_one_is_skipped(about, tmp_path):
    checkpoints = _saved(tmp_path, [1])
    module.write_checkpoint(tmp_path / "2", "<w=float32[3]>", {"w": np.ones(3, np.float32)}, about, [])
    with pytest.warns(UserWarning, match="the checkpoint of round 2 is damaged and skipped"):
        assert checkpoints.restore(LIKE).round == 1
    assert Checkpoints(tmp_path, best_metric="train/loss").best_round is None


@pytest.mark.parametrize("line", [b"[]\n", b"3\n", b"[1]\n", b'["1", 0, 0, 1, {}, {}, []]\n', b"[" * 10**5])
def test_a_forged_history_is_damage(line, tmp_path):
    about = {"round": 1, "metrics": {}, "run_identity": {}, "environment": {}}
    module.write_checkpoint(tmp_path / "1", "<w=float32[3]>", {"w": np.ones(3, np.float32)}, about, [line])
    with pytest.raises(DamagedCheckpointError, match="these are not the lines of a history"):
        Checkpoints(tmp_path).load(1, LIKE)


def test_one_that_is_renamed_is_damaged(tmp_path):
    checkpoints = _saved(tmp_path, [1])
    (tmp_path / "1").rename(tmp_path / "7")
    with pytest.raises(DamagedCheckpointError, match="7 is not the checkpoint of round 7"):
        checkpoints.load(7, LIKE)


def test_only_what_save_calls_so_is_a_round(tmp_path):
    for name in ("007", "\u0663", "4 ", "-1", "1_0"):
        (tmp_path / name).mkdir()
    assert _saved(tmp_path, [3]).rounds == (3,)


def test_one_that_is_a_link_is_read_and_gives_way(tmp_path):
    """A user keeps checkpoints on another disk."""
    checkpoints = _saved(tmp_path / "checkpoints", [1], keep_last=1)
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "elsewhere")
    (tmp_path / "checkpoints" / "1").symlink_to(tmp_path / "elsewhere")
    assert checkpoints.restore(LIKE).round == 1
    for number in (2, 3):
        checkpoints.save(_checkpoint(number))
    checkpoints.wait()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
    assert (tmp_path / "elsewhere" / "manifest.json").exists()


def test_a_folder_that_is_removed_between_two_rounds(tmp_path):
    checkpoints = _saved(tmp_path / "checkpoints", [1])
    shutil.rmtree(tmp_path / "checkpoints")
    checkpoints.save(_checkpoint(2))
    with pytest.raises(FileNotFoundError, match="checkpoints/2'"):
        checkpoints.wait()
    assert not any(tmp_path.iterdir())
