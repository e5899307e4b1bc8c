"""Running a plan on concrete values."""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.engine import _transfer
from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._config import Layout
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.engine._execution import empty_program, finish_program, pass_program, phase_program
from fedjax_core.engine._packing import PackedClients, Packing, pack, pack_wave
from fedjax_core.engine._plan import Pass, Plan
from fedjax_core.engine._schedule import num_rows
from fedjax_core.engine._transfer import joined
from fedjax_core.language.graph import Node, leading_rows

# JAX has neither an error type nor an error code for a lost process, only the name of the component that noticed it.
_COLLECTIVES = ("Gloo", "NCCL", "coordination")


class Aggregated(NamedTuple):
    """What a pass has aggregated.

    Attributes:
      parts: per device, the nodes of the tree that it is left with, at the server.
      merges: how the server merges them, from `server_merges`.
    """

    parts: tuple
    merges: tuple


_NOTHING = Aggregated((), ())
_NOWHERE = 2**31 - 1  # a position outside of all rows
_MANY_NUMBERS = 5  # of clients, for which the same phase is compiled before a warning


class Program:
    """A plan for one layout, whose parts are compiled at their first use and kept.

    Attributes:
      plan: the plan.
      layout: where it runs.
    """

    def __init__(self, plan: Plan, layout: Layout):
        self.plan = plan
        self.layout = layout
        before = (None, *plan.passes)
        self._phases = [phase_program(phase, pass_, layout) for phase, pass_ in zip(plan.phases, before)]
        self._passes = [pass_program(plan, p, layout) for p in plan.passes]
        self._empty = [empty_program(plan, p, layout) for p in plan.passes]
        self._finish = finish_program(layout)
        self._numbers: set[int] = set()  # of clients, for which phases that read rows without padding are compiled

    def __call__(self, server: dict[Node, object], cohort: Cohort | None) -> list:
        """Runs all phases and passes.

        Args:
          server: the values of the arguments that exist once.
          cohort: the clients.

        Returns:
          The value of each output; a value at CLIENTS has a row per client, in cohort order.

        Raises:
          ValueError: a check of the program has a count above zero, or the values to be kept of every client exceed
            the memory budget.
        """
        # Placed before anything runs: results are committed to their device, so for a state that comes in as NumPy
        # arrays every program would be compiled again when it comes back.
        known = _put(server, self.layout.server)
        known |= self._run_phase(0, known, _NOTHING)
        for k in range(len(self.plan.passes)):
            assert cohort is not None  # the passes are over its clients
            aggregated, rows = self._run_pass(k, known, cohort)
            known |= rows
            known |= self._run_phase(k + 1, known, aggregated)
        # Last, since reading a count waits for the devices.
        for check in self.plan.checks:
            count = int(evaluate((check.count,), known)[0])
            if count:
                raise ValueError(check.message(count))
        return evaluate(self.plan.outputs, known)

    def lowered(self, server: dict[Node, object], cohort: Cohort) -> jax.stages.Lowered:
        """The program of the first pass, whose text is the same in every process and session."""
        pass_ = self.plan.passes[0]
        known = _put(server, self.layout.server)
        known |= self._run_phase(0, known, _NOTHING)
        inputs = _transfer.broadcast(tuple(evaluate(pass_.server_inputs, known)), self.layout)
        clients = self._clients(pack_wave(cohort, pack(cohort, self.layout, self.plan.ranges), 0))
        return self._passes[0].lower(inputs, None, clients)

    def _run_phase(self, k: int, known: dict[Node, object], aggregated: Aggregated) -> dict[Node, object]:
        """The values that the server computes after the pass that has `aggregated`, by node."""
        phase, pass_ = self.plan.phases[k], self.plan.passes[k - 1] if k else None
        if not phase.outputs:
            return {}
        inputs = tuple(known[n] for n in phase.inputs if pass_ is None or n not in pass_.aggregates)
        return dict(zip(phase.outputs, self._phases[k](inputs, *aggregated)))

    def _run_pass(self, k: int, known: dict[Node, object], cohort: Cohort) -> tuple[Aggregated, dict[Node, object]]:
        """What a pass has aggregated, as the phase after it takes it, and the values with a row a client, by node."""
        pass_ = self.plan.passes[k]
        packing = pack(cohort, self.layout, self.plan.ranges)
        with _other_processes(self.layout):
            server = _transfer.broadcast(tuple(evaluate(pass_.server_inputs, known)), self.layout)
            nodes, kept = self._waves(k, server, cohort, packing)
            aggregated = Aggregated(_transfer.parts_at_server(nodes, self.layout), packing.merges[1])
        if not pass_.materialized:
            return aggregated, {}
        return aggregated, self._rows(k, kept, packing.position())

    def _rows(self, k: int, kept: list, position: np.ndarray) -> dict[Node, object]:
        """The values of a pass with a row a client, by node; only those collected with padding keep theirs."""
        pass_, number = self.plan.passes[k], len(position)
        padding = np.full(self._num_rows(pass_, kept[0] if kept else (), number) - number, _NOWHERE)
        padded = dict(zip(pass_.materialized, _in_cohort_order(kept, np.concatenate([position, padding]))))
        is_client = np.arange(number + len(padding)) < number
        whole: dict[Node, object] = {n: (padded[n.inputs[0]], is_client) for n in pass_.collected if n.operation.padded}
        exact = {n: n.inputs[0] for n in pass_.collected if n not in whole}
        exact |= {n: n for n in self.plan.outputs if n in padded}
        self._warn_if_compiled_often(exact, number)
        return whole | {n: jax.tree.map(lambda x: leading_rows(x, number), padded[rows]) for n, rows in exact.items()}

    def _num_rows(self, pass_: Pass, kept: tuple, number: int) -> int:
        """The padded number of rows for so many clients; without padding where nobody sees it and it does not fit."""
        padded = num_rows(number)
        return padded if sum(_row_bytes(kept)) * padded <= self.layout.memory_budget else _fewest_rows(pass_, number)

    def _warn_if_compiled_often(self, collected: Iterable[Node], number: int):
        """Warns once if a phase that reads rows without padding meets many numbers of clients."""
        read = {n for phase in self.plan.phases for n in phase.inputs}
        node = next((n for n in collected if n in read), None)
        if node is None or number in self._numbers:
            return
        self._numbers.add(number)
        if len(self._numbers) == _MANY_NUMBERS:
            warnings.warn(_too_often(node), stacklevel=2)

    def _waves(self, k: int, server: tuple, cohort: Cohort, packing: Packing) -> tuple:
        """The nodes that the devices are left with, and for each wave the values that are kept of its clients.

        The next wave is read while the devices compute; no more than two are in memory.
        """
        totals, running, kept = None, None, []
        several = packing.schedule.num_waves > 1
        for wave in range(packing.schedule.num_waves):
            clients = self._clients(pack_wave(cohort, packing, wave))
            if wave == 0:
                self._check_kept(k, server, clients, len(cohort))
                totals = self._empty_totals(k, server, clients) if several else None
            totals, rows, done = self._passes[k](server, totals, clients)
            if self.plan.passes[k].materialized:
                kept.append(_transfer.to_server(rows, self.layout))
            if running is not None:
                jax.block_until_ready(running)  # otherwise a third wave would be read while two are in memory
            running = done
        return (self._finish(server, totals)[0] if several else totals), kept

    def _empty_totals(self, k: int, server: tuple, clients: PackedClients):
        """The accumulators before the first of several waves."""
        totals = self._empty[k](server, clients)[0]
        # On one device they are not committed to it, but the totals that the pass returns are, and the pass would be
        # compiled a second time for those.
        return jax.device_put(totals, self.layout.clients) if len(self.layout.devices) == 1 else totals

    def _clients(self, clients: PackedClients) -> PackedClients:
        """The clients as the programs take them: a tuple of arguments, and only those of `extra` that this plan reads.

        A packing is kept with its cohort for other computations too, and some of them may read more.
        """
        value = (clients.value,) if len(self.plan.client_parameters) == 1 else clients.value
        return dataclasses.replace(clients, value=value, extra={name: clients.extra[name] for name in self.plan.extra})

    def _check_kept(self, k: int, server: tuple, clients: PackedClients, number: int):
        """Raises if the values to be kept of the clients exceed the memory budget."""
        pass_ = self.plan.passes[k]
        if not pass_.materialized:
            return
        rows = jax.eval_shape(self._passes[k], server, None, clients)[1]
        sizes = _row_bytes(jax.eval_shape(joined, (rows,)))
        if sum(sizes) * _fewest_rows(pass_, number) > self.layout.memory_budget:
            raise ValueError(_too_much(pass_, sizes, number, self.layout.memory_budget))


@contextlib.contextmanager
def _other_processes(layout: Layout):
    """Turns the error of a process that has lost another one into one that says what to do."""
    try:
        yield
    except (
        jax.errors.JaxRuntimeError,
        ValueError,
    ) as error:  # ValueError: where the devices compute in the call itself
        if layout.one_process or not any(word in str(error) for word in _COLLECTIVES):
            raise
        raise RuntimeError(
            "another process of the run has ended, or cannot be reached, in the middle of a round; the state before "
            "this round is unchanged. End all processes, start them again, and continue from the last checkpoint"
        ) from error


def _fewest_rows(pass_: Pass, number: int) -> int:
    """The number of rows for so many clients where memory is short.

    What is collected with padding always has the same: sums over other numbers of rows would have other last bits.
    """
    return num_rows(number) if any(n.operation.padded for n in pass_.collected) else number


def _row_bytes(rows: tuple) -> list[int]:
    """The bytes of a row of each value."""
    return [sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in jax.tree.leaves(leaves)) for leaves in rows]


def _too_much(pass_: Pass, sizes: list[int], number: int, budget: int) -> str:
    """The message, which names the largest value; `sizes` are the bytes of each value for one client."""
    rows = _fewest_rows(pass_, number)
    node, total = pass_.materialized[sizes.index(max(sizes))], sum(sizes) * rows
    others = f" with {total - max(sizes) * rows} of others" if len(sizes) > 1 else ""
    padding = f" in {rows} rows" if rows > number else ""
    collected = [n for n in pass_.collected if n.inputs[0] is node]
    what = f"federated_collect at {collected[0].location}" if collected else "a result at CLIENTS"
    return (
        f"{what} keeps {node.member_type} of each of {number} clients{padding},{others} {total} bytes in all, but the "
        f"memory budget is {budget} bytes; combine the values with federated_sum or federated_aggregate, or raise the "
        f"budget: .with_config(fc.EngineConfig(memory_budget={total}))"
    )


def _too_often(node: Node) -> str:
    return (
        f"federated_collect at {node.location}: what the server computes from its rows has been compiled for "
        f"{_MANY_NUMBERS} numbers of clients, and will be for each other one. Collect padded rows, `rows, is_client = "
        "fc.federated_collect(value, padded=True)`, and use masks in place of slices by the number of clients: "
        "`jnp.sum(jnp.where(is_client[:, None], rows, 0), 0) / is_client.sum()` for `rows.mean(0)`, and "
        "`jnp.where((jnp.arange(rows.shape[0]) < n)[:, None], rows, 0)` for `rows[:n]`"
    )


def _put(server: dict[Node, object], sharding: jax.sharding.Sharding) -> dict[Node, object]:
    """Puts on the device only the values that are not there yet, since `jax.device_put` costs time for every leaf.

    Raises:
      ValueError: an array is split over several devices; it would silently end up on one of them.
    """
    away = [n for n, value in server.items() if not all(_is_at(leaf, sharding) for leaf in jax.tree.leaves(value))]
    if not away:
        return dict(server)
    for node in away:
        _refuse_split(node, server[node])
    return server | dict(zip(away, jax.device_put([_copied(server[node]) for node in away], sharding)))


def _copied(value):
    """The value with its NumPy arrays copied.

    On CPU an aligned one would be the memory of the device array, and the caller may write to it later.
    """
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, value)


def _refuse_split(node: Node, value):
    for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        if isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated:
            raise ValueError(
                f"argument {node.operation.name!r}{jax.tree_util.keystr(path)}: a value at SERVER must be whole on one "
                f"device, got {types.type_of(leaf)} split over {len(leaf.sharding.device_set)} devices "
                f"({leaf.sharding}); the engine does not run a sharded model yet. Give it whole: jax.device_put(value, "
                "jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())); or leave the shardings to JAX: "
                "jax.jit(computation.as_function())"
            )


def _is_at(leaf, sharding: jax.sharding.Sharding) -> bool:
    return isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding == sharding


@jax.jit
def _in_cohort_order(kept: list, position):
    """The rows that the waves kept, `[D * K * L, ...]` each, at these positions; zeros for positions outside."""

    def leaf(*waves):
        rows = jnp.concatenate(waves)
        if jnp.issubdtype(rows.dtype, jax.dtypes.prng_key):
            return rows[jnp.minimum(position, len(rows) - 1)]
        return rows.at[position].get(mode="fill", fill_value=0)

    return jax.tree.map(leaf, *kept)
