"""The user's cache folder: the next process finds what an earlier one has compiled."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import fedjax_core as fc
from fedjax_core.engine import _cache
from fedjax_core.engine._cache import cache_folder


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("platform, place", [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", ".cache")])
def test_in_the_home_folder(monkeypatch, home, platform, place):
    monkeypatch.setattr(_cache.sys, "platform", platform)
    assert cache_folder() == home / place / "fedjax_core"


def test_where_the_user_says(monkeypatch, home, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere" / "fedjax_core"


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_a_relative_path_is_ignored_as_the_standard_says(monkeypatch, home, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == home / ".cache" / "fedjax_core"


def test_local_application_data_on_windows(monkeypatch, home, tmp_path):
    monkeypatch.setattr(_cache.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "fedjax_core"


_PROGRAM = """
import collections, json, sys
import jax, jax.monitoring, numpy as np, optax
import fedjax_core as fc

events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
fc.use_all_cores(2)
jax.numpy.ones(3)  # compiled before there is a cache
folder = fc.use_compilation_cache(*sys.argv[1:])
events.clear()
model = fc.models.logistic_regression(4, 3)
process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
data = fc.data.from_clients({i: {"x": np.ones((5, 4), np.float32), "y": np.zeros(5, np.int32)} for i in "ab"})
process.next(process.initialize(), data.cohort(["a", "b"], fc.data.Batching(2)))
found, missed = events["cache_hits"], events["cache_misses"]
print(json.dumps({"folder": str(folder), "found": found, "missed": missed}))
"""


def _round_in_a_new_process(*arguments, **environment) -> dict:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM, *arguments],
        env={**os.environ, "XLA_FLAGS": "", **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path):
    folder = tmp_path / "new" / "folder"
    first = _round_in_a_new_process(str(folder))
    assert first["folder"] == str(folder) and first["found"] == 0 and first["missed"] > 2
    kept = {path.name for path in folder.iterdir()}
    assert len(kept) >= first["missed"]
    second = _round_in_a_new_process(str(folder))
    assert second["missed"] == 0 and second["found"] == first["missed"]
    assert {path.name for path in folder.iterdir()} == kept


@pytest.mark.slow
def test_without_a_folder_it_is_in_the_users_cache(tmp_path):
    found = _round_in_a_new_process(XDG_CACHE_HOME=str(tmp_path))
    folder = tmp_path / "fedjax_core" / "xla"
    assert pathlib.Path(found["folder"]) == folder and list(folder.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        fc.use_compilation_cache(tmp_path / "file" / "folder")
