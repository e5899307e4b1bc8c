"""The user's cache folder."""

import pathlib

import pytest

from fedjax_core.engine import _cache_folder
from fedjax_core.engine._cache_folder import cache_folder


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("platform, place", [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", ".cache")])
def test_in_the_home_folder(monkeypatch, home, platform, place):
    monkeypatch.setattr(_cache_folder.sys, "platform", platform)
    assert cache_folder() == home / place / "fedjax_core"


def test_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere" / "fedjax_core"


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_a_relative_path_is_ignored_as_the_standard_says(monkeypatch, home, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == home / ".cache" / "fedjax_core"


def test_local_application_data_on_windows(monkeypatch, tmp_path):
    monkeypatch.setattr(_cache_folder.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "fedjax_core"
