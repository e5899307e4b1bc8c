"""Functions declared with `async def`: what they do is done, and what they have to return is refused."""

import asyncio
import functools
import pathlib

import pytest

import fedjax_core as fc
from fedjax_core.program import (
    Evaluation,
    Export,
    ReleaseManager,
    Run,
    filter_releases,
    group_releases,
    periodic_releases,
)
from fedjax_core.program import _run_arguments as arguments
from fedjax_core.program._awaiting import awaited
from fedjax_core.program._experiment import _until
from tests.program.test_run import KEY


def _manager(released):
    async def release(value, round_num):
        await asyncio.sleep(0)
        released.append(round_num)

    async def close():
        await asyncio.sleep(0)
        released.append("closed")

    return ReleaseManager(release, close)


WRAPPED = {
    "group": group_releases,
    "filter": lambda manager: filter_releases(manager, lambda name: True),
    "periodic": lambda manager: periodic_releases(manager, 1),
    "all": lambda manager: group_releases(periodic_releases(filter_releases(manager, lambda name: True), 1)),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_manager_releases(wrap):
    released = []
    manager = wrap(_manager(released))
    manager.release({"loss": 0.5}, 1)
    assert released == [1]


def test_a_group_closes_all():
    closed = []
    group_releases(_manager(closed), ReleaseManager(print, lambda: closed.append("too"))).close()
    assert closed == ["closed", "too"]


def test_in_a_notebook_an_event_loop_is_already_running():
    released = []

    async def cell():
        group_releases(_manager(released)).release({"loss": 0.5}, 3)

    asyncio.run(cell())
    assert released == [3]


def test_a_run_awaits_whatever_it_calls(process, data, evaluation, tmp_path):
    """Releases, hooks, hooks of evaluations and exports; a release is there before the next round begins."""
    done = []

    def note(what):
        async def act(*given):
            await asyncio.sleep(0)
            done.append(what)

        return act

    async def write(folder: pathlib.Path, weights, metrics):
        (folder / "written").write_text("")

    Run(
        process,
        data[0],
        sampler=3,
        batching=fc.data.Batching(batch_size=4),
        rounds=2,
        folder=tmp_path / "run",
        releases=ReleaseManager(note("released")),
        on_round=note("round"),
        evaluation=Evaluation(data[1], evaluation, every=None, hooks=note("evaluated")),
        exports=Export("own", write),
        key=KEY,
    ).train()
    assert done == ["released", "round", "evaluated", "released", "round"]
    assert (tmp_path / "run" / "exports" / "own" / "written").exists()


def test_an_error_in_it_ends_the_run_with_its_class():
    class OwnError(Exception):
        pass

    async def release(value, round_num):
        raise OwnError("mine")

    with pytest.raises(OwnError, match="mine"):
        group_releases(ReleaseManager(release)).release(0.5, 1)


async def _async(*given):
    return True


class _Callable:
    async def __call__(self, *given):
        return True


@pytest.mark.parametrize(
    "fn", [_async, functools.partial(_async, 1), _Callable()], ids=["function", "partial", "object"]
)
@pytest.mark.parametrize(
    "give",
    [
        lambda fn: filter_releases(ReleaseManager(print), fn),
        lambda fn: arguments.checked_sampler(fn, None),
        _until,
    ],
    ids=["filter", "sampler", "predicate"],
)
def test_what_has_to_return_a_value_is_an_ordinary_function(give, fn):
    with pytest.raises(TypeError, match="must be an ordinary function, got a coroutine function; write def for async"):
        give(fn)


def test_what_yields_is_refused():
    """Nothing of a generator runs when it is called."""

    def release(value, round_num):
        yield value

    async def release_later(value, round_num):
        yield value

    for fn in (release, release_later):
        with pytest.raises(TypeError, match=r"release.* yields, so calling it runs nothing of it"):
            group_releases(ReleaseManager(fn)).release(0.5, 1)


def test_other_results_are_left_alone():
    assert awaited(3) == 3 and awaited(None) is None
