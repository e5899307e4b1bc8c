import contextlib
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.program import release_to_mlflow, release_to_tensorboard, release_to_wandb

VALUE = {
    "train": {"loss": jnp.float32(0.5), "counts": jnp.array([3, 4]), "weights": jnp.linspace(0, 1, 40)},
    "done": True,
    "name": "first",
    "nan": float("nan"),
}


def _events(folder) -> list:
    """The events of a folder's files in the TFRecord format: length, checksum, data, checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    events = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def _summaries(folder) -> dict:
    return {(e.step, v.tag): v for e in _events(folder) for v in e.summary.value}


def test_tensorboard_has_every_value_of_the_rounds_before_the_one_that_is_released(tmp_path):
    with contextlib.closing(release_to_tensorboard(tmp_path / "events")) as manager:
        manager.release(VALUE, 1)
        for number in (1, 2):
            manager.release(VALUE, number + 1)
            found = _summaries(tmp_path / "events")
            assert found[number, "train/loss"].simple_value == 0.5
            assert found[number, "done"].simple_value == 1
            assert np.isnan(found[number, "nan"].simple_value)
            assert found[number, "train/counts"].histo.num == 2
            assert found[number, "train/weights"].histo.sum == pytest.approx(20, rel=1e-6)
            assert any(tag.startswith("name") for step, tag in found if step == number)


def test_tensorboard_has_the_last_round_when_it_is_closed(tmp_path):
    with contextlib.closing(release_to_tensorboard(tmp_path)) as manager:
        manager.release({"loss": 0.5}, 1)
    assert _summaries(tmp_path)[1, "loss"].simple_value == 0.5


def test_tensorboard_tells_what_failed_on_the_way_to_the_disk(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(28, "No space left on device")

    manager = release_to_tensorboard(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        manager.release({"loss": 0.5}, 1)
        with pytest.raises(OSError, match="No space left"):
            manager.release({"loss": 0.5}, 2)
    manager.close()


def test_tensorboard_hides_what_a_resumed_run_repeats(tmp_path):
    for start in (1, 3):
        with contextlib.closing(release_to_tensorboard(tmp_path)) as manager:
            manager.release({"loss": 0.5}, start)
    starts = [event.step for event in _events(tmp_path) if event.HasField("session_log")]
    assert sorted(starts) == [1, 3]


def test_tensorboard_takes_the_finite_entries_of_an_array(tmp_path):
    with contextlib.closing(release_to_tensorboard(tmp_path)) as manager:
        some = jnp.array([1.0, np.nan, np.inf, 3.0])
        manager.release({"some": some, "none": jnp.full(3, np.nan), "empty": jnp.ones(0)}, 1)
    found = _summaries(tmp_path)
    assert found[1, "some"].histo.num == 2
    assert not {(1, "none"), (1, "empty")} & set(found)


def test_tensorboard_without_a_release_leaves_nothing(tmp_path):
    with contextlib.closing(release_to_tensorboard(tmp_path / "events")):
        pass
    assert not (tmp_path / "events").exists()


def test_without_tensorboardx_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'fedjax-core\[tensorboard\]'"):
        release_to_tensorboard(tmp_path)


class _Recorder:
    def __init__(self):
        self.calls = []

    def log(self, values, step):
        self.calls.append((values, step))

    log_metrics = log


def test_wandb_gets_every_value():
    run = _Recorder()
    release_to_wandb(run).release(VALUE, 3)
    ((values, step),) = run.calls
    assert step == 3
    assert sorted(values) == ["done", "name", "nan", "train/counts", "train/loss", "train/weights"]
    assert values["train/loss"] == 0.5 and type(values["train/loss"]) is float
    assert isinstance(values["train/weights"], np.ndarray)


def test_mlflow_gets_the_numbers():
    run = _Recorder()
    release_to_mlflow(run).release(VALUE, 3)
    ((values, step),) = run.calls
    assert step == 3
    assert sorted(values) == ["done", "nan", "train/counts/0", "train/counts/1", "train/loss"]
    assert {type(value) for value in values.values()} == {float}


@pytest.mark.parametrize("make, method", [(release_to_wandb, "log"), (release_to_mlflow, "log_metrics")])
def test_other_objects_are_refused(make, method):
    with pytest.raises(TypeError, match=rf"{make.__name__} needs an object with `{method}\(..., step=...\)`, got None"):
        make(None)
