"""A plan and where it runs: the engine as a computation with placements sees it."""

import dataclasses
import functools
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from fedjax_core import types
from fedjax_core.engine._arguments import bind_clients
from fedjax_core.engine._as_function import packed_clients, run_traced
from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._communication import exchanges, size_of
from fedjax_core.engine._config import EngineConfig, Layout, clamped
from fedjax_core.engine._describe import describe
from fedjax_core.engine._execution import accumulator_bytes
from fedjax_core.engine._machine import warn_if_cores_idle
from fedjax_core.engine._members import concrete_member, traced_member
from fedjax_core.engine._packing import pack
from fedjax_core.engine._plan import Plan
from fedjax_core.engine._run import Program
from fedjax_core.engine._schedule import make_schedule, wave_bytes
from fedjax_core.engine._tuning import tuned_lanes
from fedjax_core.language.graph import Node, Trim, ancestors, first_rows


class CallEstimate(NamedTuple):
    """What a call of a computation on a cohort costs.

    Attributes:
      received_bytes: the bytes that each client receives, as `Computation.describe` counts them; values with a
        dimension `?` are not counted.
      sent_bytes: the bytes that each client sends, counted likewise.
      device_bytes: the bytes that the clients' data take on one device at a time, padding included.
      num_waves: the number of parts in which the cohort runs, one after the other.
      num_programs: the number of XLA programs that are compiled for it unless they exist already, without the small
        ones that only move arrays between devices.

    Example:

    >>> import numpy as np, fedjax_core as fc
    >>> data = fc.data.from_clients({name: {"x": np.ones((5, 2), np.float32)} for name in ("ada", "bob")})
    >>> @fc.federated_computation(fc.at_clients("<x=float32[?,2]>*"))
    ... def count(batches):
    ...     def steps(batches):
    ...         return batches.reduce(np.int32(0), lambda total, batch, mask: total + 1)
    ...     return fc.federated_sum(fc.federated_map(steps, batches))
    >>> cost = count.estimate(data.cohort(["ada", "bob"], fc.data.Batching(batch_size=2)))
    >>> cost.received_bytes, cost.sent_bytes, cost.num_waves
    (0, 4, 1)
    """

    received_bytes: int
    sent_bytes: int
    device_bytes: int
    num_waves: int
    num_programs: int


class Executable:
    """A plan on the devices of a configuration, compiled at its first run and kept.

    It takes values by node, `{parameter: value}`, and returns one value for each of `plan.outputs`.

    Attributes:
      plan: the plan.
    """

    def __init__(self, plan: Plan, config: EngineConfig):
        self.plan = plan
        self._config = config
        self._trims = any(isinstance(n.operation, Trim) for n in ancestors(plan.outputs))
        self._layout = None
        self._programs: dict[int, Program] = {}  # by their number of lanes
        self._unchanged = set()  # checking all leaves of a state takes longer than computing a small round
        self._lock = threading.Lock()  # threads may share a computation; one of them compiles

    @property
    def config(self) -> EngineConfig:
        """The configuration; after the first run it holds the number of lanes that "auto" chose."""
        return self._config

    @property
    def layout(self) -> Layout:
        """Where it runs, with the default number of lanes as long as "auto" has not chosen one."""
        return self._config.resolve(self._accumulator_bytes)

    @functools.cached_property
    def _accumulator_bytes(self) -> int:
        return accumulator_bytes(self.plan)

    def run(self, values: Mapping[Node, Any]) -> list:
        """Runs the plan on the value that a caller gives for each parameter.

        Raises:
          TypeError: a value does not have the declared type, or one that `federated_client_value` reads is missing.
          ValueError: arguments have different clients, a value is split over devices, or a check of the program
            refuses a value.
        """
        server, cohort = self._enter(values)
        return self._leave(self._compiled(server, cohort)(server, cohort))

    def traced(self, values: Mapping[Node, Any]) -> tuple[list, jax.Array]:
        """Runs the plan on tracers, with static trip counts.

        Returns:
          The outputs, not trimmed, and the number of clients that the checks of the program refuse, int32.
        """
        server = {n: traced_member(v, n.member_type, n.operation.name) for n, v in values.items() if not n.per_client}
        clients = packed_clients(self.plan, [values[node] for node in self.plan.client_parameters])
        return run_traced(self.plan, server, clients)

    def prefetch(self, cohort: Cohort, name: str) -> None:
        """Reads the examples of a cohort ahead of the run that takes it.

        Args:
          cohort: the only argument at CLIENTS.
          name: the name of the computation in error messages.

        Raises:
          TypeError: `cohort` is not a cohort of the declared clients, or it is not the only argument at CLIENTS.
        """
        self._check_cohort(cohort, f"{name}.prefetch")
        if self.plan.passes and self._config.lanes != "auto":
            pack(cohort, clamped(self.layout, len(cohort)), self.plan.ranges)

    def estimate(self, cohort: Cohort, name: str) -> CallEstimate:
        """What a run on a cohort costs; arguments and errors are those of `prefetch`."""
        self._check_cohort(cohort, f"{name}.estimate")
        return _estimate(self.plan, clamped(self.layout, len(cohort)), cohort)

    def describe(self, names: Mapping[types.Type, str]) -> str:
        """The plan in words, with `names` in place of some types."""
        return describe(self.plan, names, self.layout.leaves)

    def _check_cohort(self, cohort: Cohort, caller: str) -> None:
        number = len(self.plan.client_parameters)
        if number != 1 or not isinstance(cohort, Cohort):
            found = f"got {type(cohort).__name__}" if number == 1 else f"not {number}"
            raise TypeError(
                f"{caller} takes the cohort of a computation with one argument at CLIENTS, {found}; "
                "leave it out, since a call reads its own arguments"
            )
        bind_clients(self.plan, [cohort])

    def _enter(self, values: Mapping[Node, Any]) -> tuple[dict[Node, Any], Cohort | None]:
        """The values that exist once, in their declared types, and the clients, as the programs take them.

        Every value enters through this function and leaves through `_leave`.
        """
        server = {node: self._server_member(node, value) for node, value in values.items() if not node.per_client}
        return server, bind_clients(self.plan, [values[node] for node in self.plan.client_parameters])

    def _leave(self, outputs: list) -> list:
        """The outputs of the programs as the caller receives them."""
        return first_rows(outputs) if self._trims else outputs

    def _server_member(self, node: Node, value):
        """The value in its declared type; one with the shapes of an earlier one needs no second check."""
        leaves, structure = jax.tree.flatten(value)
        arrays = all(isinstance(leaf, jax.Array) for leaf in leaves)
        key = arrays and (node, structure, *((leaf.shape, leaf.dtype, _is_weak(leaf)) for leaf in leaves))
        if key in self._unchanged:
            return value
        member = concrete_member(value, node.member_type, node.operation.name)
        # Weak arrays are not remembered, since each call has to make them strong: for weak ones the programs would be
        # compiled a second time.
        if arrays and jax.tree.structure(member) == structure and not any(map(_is_weak, leaves)):
            self._unchanged.add(key)
        return member

    def _compiled(self, server: dict, cohort: Cohort | None) -> Program:
        """The program for the devices, which do not change once JAX is in use."""
        with self._lock:
            if self._config.lanes == "auto":
                lanes = tuned_lanes(self.plan, self._config, server, cohort)
                tuned = dataclasses.replace(self._config, lanes=lanes)
                if self.plan.passes and cohort is not None and not len(cohort):
                    # Not kept, since without clients nothing was measured.
                    return Program(self.plan, tuned.resolve(self._accumulator_bytes))
                self._config = tuned
            if self._layout is None:
                self._layout = self.layout
                if self._config.devices is None and self.plan.passes:
                    warn_if_cores_idle(self._layout.devices)
            layout = self._layout if cohort is None else clamped(self._layout, len(cohort))
            if layout.lanes not in self._programs:
                self._programs[layout.lanes] = Program(self.plan, layout)
            return self._programs[layout.lanes]


def _is_weak(leaf: jax.Array) -> bool:
    return getattr(leaf, "weak_type", False)  # arrays of keys have no such attribute


def _estimate(plan: Plan, layout: Layout, cohort: Cohort) -> CallEstimate:
    """Estimates a call without reading an example or compiling anything."""
    schedule, communicated = make_schedule(cohort, layout), exchanges(plan)
    received = [size_of(exchange.received).num_bytes for exchange in communicated]
    sent = [size_of(exchange.sent).num_bytes for exchange in communicated]
    # A cohort in several waves begins each pass with accumulators, which take a program of their own.
    of_passes = len(plan.passes) * (3 if schedule.num_waves > 1 else 1)
    return CallEstimate(
        received_bytes=sum(received),
        sent_bytes=sum(sent),
        device_bytes=wave_bytes(cohort, schedule, layout.lanes) if plan.passes else 0,
        num_waves=schedule.num_waves,
        num_programs=sum(bool(phase.outputs) for phase in plan.phases) + of_passes,
    )
