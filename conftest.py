"""Tests run on eight virtual CPU devices, under the strictness that a library's code should hold."""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import platform
import shutil
import tempfile
import time

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("KERAS_BACKEND", "jax")

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the time of the tests is XLA's. A program that this process, another worker or an earlier run has compiled
# comes from a folder. Each process has one of its own and exchanges links with the common one between two test files:
# JAX writes a file in place, so another process, or the run after one that was killed, could read half of it.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # their folder would be part of each key
_DAYS_KEPT = 14


def _processor() -> str:
    """The model and what it can do: a program for another one may fail on it."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    described = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("".join(described).encode()).hexdigest()[:12]


_KEPT = pathlib.Path(__file__).parent / ".programs" / _processor()


def _link_all(source: pathlib.Path, folder: pathlib.Path) -> None:
    there = set(os.listdir(folder))
    for file in source.glob("*-cache"):
        if file.name not in there:
            with contextlib.suppress(OSError):  # another process was first, or this file system has no links
                os.link(file, folder / file.name)


def _exchange(own: pathlib.Path) -> None:
    _link_all(own, _KEPT)
    _link_all(_KEPT, own)


def pytest_sessionstart(session):
    _KEPT.mkdir(parents=True, exist_ok=True)
    for old in _KEPT.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process takes its own away
            if time.time() - old.stat().st_mtime > _DAYS_KEPT * 24 * 3600:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    session.config.programs = pathlib.Path(tempfile.mkdtemp(dir=_KEPT))
    _exchange(session.config.programs)
    jax.config.update("jax_compilation_cache_dir", str(session.config.programs))


def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or nextitem.path != item.path:
        _exchange(item.config.programs)


def pytest_sessionfinish(session):
    _exchange(session.config.programs)
    shutil.rmtree(session.config.programs)


hypothesis.settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("default")

# The examples of an adapter run where its extra is installed.
collect_ignore_glob = [
    f"fedjax_core/models/_{extra}*.py" for extra in ("keras", "equinox") if importlib.util.find_spec(extra) is None
]
