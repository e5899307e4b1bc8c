"""Runs whose files cannot be written: one error that names the file, and what was there stays."""

import resource
import shutil
import traceback

import jax
import pytest

import fedjax_core as fc
from fedjax_core.program import Checkpoints, Evaluation, Run, export_weights, release_to_csv

KEY = jax.random.key(5)


@pytest.fixture
def make(process, evaluation, data, tmp_path):
    """A run that writes all kinds of files in every round."""

    def run(rounds, **changes):
        arguments = {
            "sampler": 3,
            "batching": fc.data.Batching(batch_size=4),
            "folder": tmp_path / "run",
            "checkpoints": Checkpoints(tmp_path / "run" / "checkpoints", every=1, keep_last=None),
            "evaluation": Evaluation(data[1], evaluation, every=1),
            "exports": export_weights(),
            "key": KEY,
        }
        return Run(process, data[0], rounds=rounds, **arguments | changes)

    return run


@pytest.fixture
def full():
    """No file may become larger than a number of bytes, like on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if limit is None else limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 300, 600, 1000, 2000, 5000, 10_000, 20_000])
def test_on_a_full_disk_one_error_names_the_file(size, make, full, tmp_path):
    """The files of two rounds stay, and the run goes on where there is room again."""
    make(2).train()
    before = _contents(tmp_path)
    full(size)
    with pytest.raises(OSError, match=r"File too large: '.*/run/[^.].*'") as raised:
        make(4).train()
    full(None)
    shown = "".join(traceback.format_exception(raised.value))
    assert "another exception occurred" not in shown and not str(raised.value).count("/.")
    after = _contents(tmp_path)
    for name in ("run/checkpoints/1/manifest.json", "run/checkpoints/2/manifest.json", "run/weights.npz"):
        assert name in after
    assert after["run/metrics.csv"].startswith(before["run/metrics.csv"])
    assert make(4).train().history.column("round").tolist() == [1, 2, 3, 4]
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["weights.npz", "curves.png"])
def test_what_cannot_be_written_in_the_end_is_named(name, make, monkeypatch, tmp_path):
    from fedjax_core.program import _run_folder

    def fail(content, path, **named):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(_run_folder, {"weights.npz": "save_weights", "curves.png": "save_curves"}[name], fail)
    with pytest.raises(OSError, match=f"No space left on device: '.*/run/{name}'"):
        make(1).train()
    assert Checkpoints(tmp_path / "run" / "checkpoints").rounds == (1,)


def test_the_first_error_is_raised_and_later_ones_are_its_notes(make, monkeypatch):
    from fedjax_core.program import _run_folder

    def fail(content, path, **named):
        raise OSError(28, "No space left on device", str(path))

    def hook(round_):
        raise ZeroDivisionError("in the hook")

    monkeypatch.setattr(_run_folder, "save_weights", fail)
    with pytest.raises(ZeroDivisionError, match="in the hook") as raised:
        make(2, on_round=hook).train()
    *_, note = raised.value.__notes__  # behind the one of the hook
    assert "and at the end of the run: OSError" in note and "weights.npz" in note


@pytest.mark.parametrize("how", ["removed", "renamed", "made anew"])
def test_a_folder_that_is_gone_is_not_written_to(how, make, tmp_path):
    """Another run that has it meanwhile is the only one that writes to it."""
    folder, checkpoints = tmp_path / "run", Checkpoints(tmp_path / "run" / "checkpoints", every=1)

    def remove(round_):
        if round_.number != 2:
            return
        checkpoints.wait()
        if how == "removed":
            shutil.rmtree(folder)
        else:
            folder.rename(tmp_path / "moved")
        if how == "made anew":
            folder.mkdir()
            (folder / "theirs").write_text("")

    with pytest.raises(FileNotFoundError, match="run was removed or renamed while a run was writing to it") as raised:
        make(5, on_round=remove, checkpoints=checkpoints).train()
    assert "another exception occurred" not in "".join(traceback.format_exception(raised.value))
    assert [path.name for path in folder.rglob("*")] == ["theirs"] if how == "made anew" else not folder.exists()
    if how != "removed":
        shutil.rmtree(folder, ignore_errors=True)
        (tmp_path / "moved").rename(folder)
        assert make(5).train().history.column("round").tolist() == [1, 2, 3, 4, 5]


def test_checkpoints_elsewhere_are_locked_too(make, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    checkpoints = Checkpoints(elsewhere, every=1)

    def remove(round_):
        if round_.number == 2:
            checkpoints.wait()
            elsewhere.rename(tmp_path / "moved")
            elsewhere.mkdir()

    with pytest.raises(FileNotFoundError, match="elsewhere was removed or renamed"):
        make(5, on_round=remove, checkpoints=checkpoints).train()
    assert not any(elsewhere.iterdir())


def test_a_run_that_is_over_removes_what_a_killed_one_left(make, tmp_path):
    """A process was killed while it removed an old checkpoint, an evaluation's or an export."""
    make(1).train()
    run = tmp_path / "run"
    left = [run / name / f".3.{'0' * 32}" for name in (".", "checkpoints", "evaluation", "exports")]
    for path in left:
        path.mkdir()
    make(1).train()
    assert not [path for path in left if path.exists()]


def test_rows_that_cannot_be_released_are_not_half_there(make, full, tmp_path):
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "rows.csv"
    rows = []

    def fill(round_):
        rows.append(path.read_bytes())
        full(len(rows[0]) + 5)

    manager = release_to_csv(path)
    with pytest.raises(OSError, match=r"File too large: '.*/rows.csv'"):
        make(2, folder=None, checkpoints=None, exports=(), releases=manager, on_round=fill).train()
    full(None)
    assert path.read_bytes() == rows[0]
