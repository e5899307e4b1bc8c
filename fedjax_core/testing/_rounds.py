"""Rounds of a process, repeated under variations that must not matter, and the laws that all processes share."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.computations import Computation
from fedjax_core.engine import EngineConfig
from fedjax_core.testing._aggregates import AGGREGATE_LAW_FUNCTIONS, Merges, merges_of
from fedjax_core.testing._laws import as_numpy, compare, described

_LANES = 3
_ALONE = EngineConfig(lanes=1, devices=1)
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Cases(NamedTuple):
    """The rounds that the laws need: for each round the arguments of `next` after the state.

    Attributes:
      usual: two rounds.
      reordered: the same clients in another order.
      padded: the usual clients and some that contribute nothing.
      nobody: one round without clients.
      non_finite: the usual rounds, except that some clients of the first hold NaN and infinities.
      spared: the usual rounds, except that these clients do not take part in the first; only for learning processes.
    """

    usual: list[tuple]
    reordered: list[tuple]
    padded: list[tuple]
    nobody: list[tuple]
    non_finite: list[tuple]
    spared: list[tuple] = []


class Rounds:
    """A process and its rounds on one lane of one device, with which the laws compare other runs.

    Args:
      process: the process.
      build: a function that makes the process again.
      cases: its rounds.
      memory_budget: bytes, so few that the usual rounds run in several waves.
      tolerance: the tolerance of floats where lanes or padding change the order of sums.
      laws: the names of the laws to check.
      given: what the laws of one kind of process need in addition.
    """

    def __init__(
        self,
        process: Any,
        build: Callable,
        cases: Cases,
        *,
        memory_budget: int,
        tolerance: float,
        laws: list[str],
        given: Any = None,
    ):
        self.process = process
        self.cases = cases
        self.tolerance = tolerance
        self.given = given
        self._build = build
        self._memory_budget = memory_budget
        self._laws = laws
        self._next = process.next.with_config(_ALONE)

    def run(self, rounds: list[tuple], state: Any = None) -> list:
        """The output of every round, starting from `state` or, if it is None, from the initial state."""
        return _run(self._next, self.process.initialize() if state is None else state, rounds)

    def run_another(self, next: Computation, rounds: list[tuple]) -> list:
        """The output of every round of another `next`, likewise on one lane of one device."""
        return _run(next.with_config(_ALONE), self.process.initialize(), rounds)

    def run_with(self, process: Any, rounds: list[tuple], **config) -> list:
        """The output of every round of another process or configuration, which is compiled for it."""
        return _run(process.next.with_config(EngineConfig(**config)), process.initialize(), rounds)

    @functools.cached_property
    def expected(self) -> list:
        """The outputs of the usual rounds."""
        return self.run(self.cases.usual)

    @functools.cached_property
    def merges(self) -> list[Merges]:
        """The merges of every `federated_aggregate` in the usual rounds."""
        states = [self.process.initialize(), *(output.state for output in self.expected)]
        return merges_of(self.process.next, [(state, *args) for state, args in zip(states, self.cases.usual)])

    @functools.cached_property
    def changed(self) -> dict[str, str]:
        """The differences under the laws of `BITWISE`: all are tried at once, and one by one only if that differs."""
        names = [name for name in BITWISE if name in self._laws]
        together = self._under(names)
        if together is None:
            return {}
        alone = {name: difference for name in names if (difference := self._under([name]))}
        return alone or dict.fromkeys(names, f"{' and '.join(names)} together: {together}")

    def _under(self, names: list[str]) -> str | None:
        """The first difference under the variations of some laws, or None."""
        rounds = self.cases.reordered if "order" in names else self.cases.usual
        devices = min(2, jax.local_device_count()) if "devices" in names else 1
        budget = self._memory_budget if "waves" in names else None
        try:
            process = self._build() if "same_key" in names else self.process
            if process is self.process and devices == 1 and budget is None:
                compare(self.expected, self.run(rounds))
            else:
                compare(self.expected, self.run_with(process, rounds, lanes=1, devices=devices, memory_budget=budget))
        except Exception as error:
            return described(error)


def _run(next: Callable, state: Any, rounds: list[tuple]) -> list:
    outputs = []
    for arguments in rounds:
        outputs.append(next(state, *arguments))
        state = outputs[-1].state
    return jax.block_until_ready(outputs)


def check_finite(expected: Any, found: Any) -> None:
    """Raises AssertionError where `found` is not finite and `expected`, of the same structure, is finite."""

    def check(path, a, b):
        a, b = as_numpy(a), as_numpy(b)
        excused = ~np.isfinite(a) if a.shape == b.shape and jnp.issubdtype(a.dtype, jnp.inexact) else False
        if jnp.issubdtype(b.dtype, jnp.inexact) and not np.all(np.isfinite(b) | excused):
            raise AssertionError(f"{jax.tree_util.keystr(path)}: expected finite numbers such as {a}, found {b}")

    jax.tree_util.tree_map_with_path(check, expected, found)


@contextlib.contextmanager
def _compilations():
    """Collects the names of the programs that XLA compiles while it is open."""
    names = []

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event == _COMPILED:
            names.append(str(details.get("fun_name", "a program")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _types(rounds: Rounds):
    """Every round, even one without clients, returns the types that `next` declares."""
    declared = rounds.process.next.type_signature.result
    for output in (*rounds.expected, *rounds.run(rounds.cases.nobody)):
        for name, part in zip(output._fields, output):
            member, found = declared[name].member, types.type_of(part)
            if not member.is_assignable_from(found):
                raise AssertionError(f"{name}: expected {member}, found {found}")


def _state_structure(rounds: Rounds):
    """The state always has the containers, shapes and dtypes of the initial state."""
    expected = _structure(rounds.process.initialize())
    for found in (_structure(output.state) for output in rounds.expected):
        if found != expected:
            raise AssertionError(f"expected {expected}, found {found}")


def _structure(state: Any) -> str:
    return f"{types.type_of(state)} in {jax.tree.structure(state)}"


def _same_key(rounds: Rounds):
    """A process that is built and run again gives the same bits: randomness comes only from explicit keys."""
    _check_unchanged(rounds, "same_key")


def _one_trace(rounds: Rounds):
    """Further rounds with the same number of clients compile nothing."""
    rounds.run(rounds.cases.usual)
    with _compilations() as names:
        rounds.run(rounds.cases.usual * 2)
    if names:
        raise AssertionError(f"expected no compilation in four more rounds, found {len(names)}: {', '.join(names)}")


def _order(rounds: Rounds):
    """The order of the clients does not change a bit."""
    _check_unchanged(rounds, "order")


def _devices(rounds: Rounds):
    """Another number of devices does not change a bit (if JAX has several)."""
    _check_unchanged(rounds, "devices")


def _waves(rounds: Rounds):
    """A cohort larger than the memory budget, which runs in waves, gives the same bits."""
    _check_unchanged(rounds, "waves")


def _lanes(rounds: Rounds):
    """Another number of lanes changes only the rounding."""
    found = rounds.run_with(rounds.process, rounds.cases.usual, lanes=_LANES, devices=1)
    compare(rounds.expected, found, rounds.tolerance)


def _non_finite(rounds: Rounds):
    """The NaN and infinities of a client do not persist: the state and the next round are finite."""
    outputs = rounds.run(rounds.cases.non_finite)
    check_finite([output.state for output in rounds.expected], [output.state for output in outputs])
    check_finite(rounds.expected[-1], outputs[-1])


def _resume(rounds: Rounds):
    """Resuming from a copy of the state gives the bits of an uninterrupted run."""
    first, second = rounds.expected
    compare([second], rounds.run(rounds.cases.usual[1:], jax.tree.map(_copy, first.state)))


def _copy(leaf: jax.Array) -> jax.Array:
    """The array after a round trip through host memory."""
    copied = jnp.asarray(as_numpy(leaf).copy())
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(copied, impl=jax.random.key_impl(leaf))
    return copied


def _check_unchanged(rounds: Rounds, law: str):
    if law in rounds.changed:
        raise AssertionError(rounds.changed[law])


BITWISE = ("same_key", "order", "devices", "waves")
"""The laws whose variations must not change a bit."""

SHARED = {
    "types": _types,
    "state_structure": _state_structure,
    "same_key": _same_key,
    "one_trace": _one_trace,
    "order": _order,
    "devices": _devices,
    "waves": _waves,
    "lanes": _lanes,
    "non_finite": _non_finite,
    "resume": _resume,
    **AGGREGATE_LAW_FUNCTIONS,
}
"""The laws of every process."""
