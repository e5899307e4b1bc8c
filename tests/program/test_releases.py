import csv
import datetime
import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.program import (
    ReleaseManager,
    filter_releases,
    group_releases,
    periodic_releases,
    release_to_csv,
    release_to_json_lines,
    release_to_log,
    release_to_memory,
)


def _rows_of_csv(path) -> dict[int, float]:
    with open(path, newline="") as file:
        return {int(row["round"]): float(row["loss"]) for row in csv.DictReader(file)}


def _rows_of_json_lines(path) -> dict[int, float]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["round"]: row["loss"] for row in rows}


class _Memory(dict):
    """A dict instead of a file."""

    def __truediv__(self, name):
        return self


@pytest.mark.parametrize(
    "open_manager, read",
    [
        (lambda path: release_to_csv(path / "file"), lambda path: _rows_of_csv(path / "file")),
        (lambda path: release_to_json_lines(path / "file"), lambda path: _rows_of_json_lines(path / "file")),
        (release_to_memory, lambda values: {number: value["loss"] for number, value in values.items()}),
    ],
    ids=["csv", "json lines", "memory"],
)
@pytest.mark.parametrize("resumed_at", [1, 4, 6])
def test_a_resumed_run_leaves_every_round_once(open_manager, read, resumed_at, tmp_path):
    where = _Memory() if open_manager is release_to_memory else tmp_path
    first = open_manager(where)
    for number in range(1, 6):
        first.release({"loss": jnp.float32(number)}, number)
    again = open_manager(where)
    for number in range(resumed_at, 8):
        again.release({"loss": jnp.float32(-number)}, number)
    found = read(where)
    assert list(found) == list(range(1, 8))
    assert found == {number: number if number < resumed_at else -number for number in range(1, 8)}


def test_memory_holds_numpy_arrays_in_their_containers():
    values = {}
    release_to_memory(values).release({"a": [jnp.arange(3), 0.5]}, np.int32(2))
    leaf, number = values[2]["a"]
    assert type(leaf) is np.ndarray and leaf.tolist() == [0, 1, 2] and number == 0.5
    assert type(next(iter(values))) is int


def test_log(caplog):
    caplog.set_level(logging.INFO)
    release_to_log().release({"b": {"c": jnp.zeros((2, 3))}, "a": 2, "name": "x", "nan": np.nan}, 3)
    assert caplog.messages == ["round 3: b/c=float32[2, 3], a=2, name=x, nan=nan"]
    release_to_log(level=logging.DEBUG).release({"a": 1}, 4)
    assert len(caplog.messages) == 1


def test_a_group_releases_to_all_in_order_and_closes_all():
    seen = []

    def recorder(i):
        return ReleaseManager(
            lambda value, number: seen.append((i, value["a"].tolist(), number)), lambda: seen.append(i)
        )

    group = group_releases(recorder(0), recorder(1))
    group.release({"a": jnp.ones(1)}, 5)
    group.close()
    assert seen == [(0, [1.0], 5), (1, [1.0], 5), 0, 1]
    group_releases().release({}, 1)


def test_a_group_closes_the_others_where_one_fails():
    closed = []

    def fail():
        closed.append(0)
        raise OSError("the disk is gone")

    managers = [ReleaseManager(print, fail), ReleaseManager(print, lambda: closed.append(1))]
    with pytest.raises(OSError, match="the disk is gone"):
        group_releases(*managers).close()
    assert closed == [0, 1]


def test_a_filter_that_keeps_nothing_releases_nothing():
    values = {}
    manager = filter_releases(release_to_memory(values), lambda name: name.startswith("held_out/"))
    manager.release({"loss": 1.0}, 1)
    manager.release({"loss": 1.0, "held_out": {"loss": 2.0, "counts": jnp.arange(2)}}, 2)
    assert list(values) == [2]
    assert sorted(values[2]) == ["held_out/counts", "held_out/loss"]


def test_a_period_of_rounds_is_the_same_in_a_resumed_run():
    values = {}
    for start in (1, 8):
        manager = periodic_releases(release_to_memory(values), every=np.int64(5))
        for number in range(start, 13):
            manager.release(start, number)
    assert values == {5: 1, 10: 8}


def test_a_period_of_time():
    now, values = [100.0], {}
    manager = periodic_releases(release_to_memory(values), datetime.timedelta(seconds=10), clock=lambda: now[0])
    for number in range(1, 12):
        manager.release(now[0], number)
        now[0] += 4
    assert values == {1: 100.0, 4: 112.0, 7: 124.0, 10: 136.0}


def test_wrappers_close_what_they_wrap():
    closed = []
    inner = ReleaseManager(lambda value, number: None, lambda: closed.append(1))
    for wrapper in (filter_releases(inner, bool), periodic_releases(inner, 3), group_releases(inner)):
        wrapper.close()
    assert len(closed) == 3


_MANAGER = release_to_memory({})


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: group_releases(_MANAGER, print),
            TypeError,
            "group_releases: each manager must be a ReleaseManager, got <built-in",
        ),
        (lambda: filter_releases(print, bool), TypeError, "filter_releases: each manager must be a ReleaseManager"),
        (lambda: filter_releases(_MANAGER, "loss"), TypeError, "got 'loss'; write lambda name: name == 'loss'"),
        (lambda: periodic_releases(print, 3), TypeError, "periodic_releases: each manager must be a ReleaseManager"),
        (
            lambda: periodic_releases(_MANAGER, 2.5),
            TypeError,
            "an integer of at least 1, got 2.5; write .* or give a datetime.timedelta",
        ),
        (lambda: periodic_releases(_MANAGER, True), TypeError, "got True"),
        (
            lambda: periodic_releases(_MANAGER, 0),
            ValueError,
            "an integer of at least 1, got 0; write every=1 for each round",
        ),
        (
            lambda: periodic_releases(_MANAGER, datetime.timedelta()),
            ValueError,
            r"must be positive, got datetime.timedelta\(0\); write every=datetime.timedelta\(minutes=1\)",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", ["memory", "csv", "json lines"])
def test_a_release_that_fails_leaves_the_earlier_ones(kind, tmp_path):
    """What is released is an array that was given away, as by donation."""
    gone = jnp.ones(3)
    values, path = {}, tmp_path / "file"
    manager = {
        "memory": lambda: release_to_memory(values),
        "csv": lambda: release_to_csv(path),
        "json lines": lambda: release_to_json_lines(path),
    }[kind]()
    for number in (1, 2, 3):
        manager.release({"loss": 0.5 * number}, number)
    before = dict(values), path.read_bytes() if path.exists() else None
    gone.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        manager.release({"loss": 9.0, "gone": gone}, 2)
    assert (values, path.read_bytes() if path.exists() else None) == before
    manager.release({"loss": 9.0}, 2)
    assert set(values) in (set(), {1, 2})
