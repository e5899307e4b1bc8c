"""Execution: one XLA program per pass over the clients, one per phase of server work.

A pass runs under `shard_map` over the devices. Each device loops over its leaves of the tree (see `_tree`), over a
leaf's blocks, and inside each client function over exactly as many steps as the block needs; the lanes of a block are
vmapped. A finished leaf is pushed on a stack, whose topmost nodes are merged as the host has written down. What is left
on the stacks is merged, and all other work of the server done, on one device.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from fedjax_core import trees
from fedjax_core.engine._compiling import JittedPhase
from fedjax_core.engine._config import Layout
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.engine._packing import PackedClients, PackedSequences
from fedjax_core.engine._plan import Pass, Plan, ServerPhase
from fedjax_core.engine._transfer import FlatTree, flatten, joined, unflatten
from fedjax_core.engine._tree import nodes_sent, stack_size
from fedjax_core.engine._values import conform
from fedjax_core.language import ClientBatches
from fedjax_core.language.graph import Aggregate, ClientIdentity, ClientIndex, ClientValue, Node, ancestors


def phase_program(phase: ServerPhase, pass_: Pass | None, layout: Layout) -> Callable:
    """The server's work of one phase: `(inputs, parts, merges) -> outputs`.

    `inputs` and the outputs are tuples in the phase's order, with None in place of each leaf that nobody reads. What
    the pass before, `pass_`, has aggregated is not among the inputs: `parts` are those that `parts_at_server` makes of
    it (`()` without a pass), and `merges` the integers of `server_merges`.
    """
    aggregates = pass_.aggregates if pass_ is not None else ()
    others = tuple(n for n in phase.inputs if n not in aggregates)

    # A program of its own, on one device: inside the partitioned program XLA writes the server's arithmetic in another
    # way for each number of devices (a division became a product with the reciprocal), and the bits would differ.
    def run(inputs: tuple, parts: tuple, merges: tuple) -> tuple:
        values = dict(zip(others, inputs))
        if pass_ is not None and aggregates:
            # A large model does not fit into memory several times, and in a loop its accumulator would be copied.
            alone = layout.direct and len(layout.devices) == 1
            root = _first(parts[0]) if alone else _root(pass_, joined(parts), *merges)
            for (operation, nodes), accumulator in zip(pass_.reductions, root):
                values |= zip(nodes, operation.report(accumulator))
        return tuple(map(_only_read, evaluate(phase.outputs, values), phase.is_read))

    return JittedPhase(run, layout.devices[0].platform)


def _only_read(value, is_read: tuple[bool, ...]):
    leaves, structure = jax.tree.flatten(value)
    return structure.unflatten([leaf if read else None for leaf, read in zip(leaves, is_read)])


def _root(pass_: Pass, nodes: tuple, place, merges) -> tuple:
    """The accumulators of the whole tree from the nodes that the devices have sent, `[D * n, ...]`."""

    def take(carry):
        k, stack, height = carry
        # The nodes come in the order of their places, so the stack never grows over one that is still to come.
        node = jax.tree.map(lambda x: x[place[k]], stack)
        return k + 1, *_push(pass_, stack, height, node, merges[k])

    # In loops over integers that come in as values, even where there is a single node: XLA compiles a loop's body by
    # itself, and contracts merges in a row with one another and with `report`.
    start = (jnp.int32(0), nodes, jnp.int32(0))
    stack = lax.while_loop(lambda carry: (carry[0] < len(place)) & (place[carry[0]] >= 0), take, start)[1]
    return _first(stack)


def _push(pass_: Pass, stack: tuple, height, node: tuple, merges) -> tuple:
    """The stack and its height after `node` has been merged with the topmost ones, `merges` times, and pushed."""

    # This loop only reads the stack. If it wrote to it, too, XLA would copy the whole stack at every turn.
    def merge(i, node):
        top = jax.tree.map(lambda x: x[height - 1 - i], stack)
        return tuple(op.merge(a, b) for (op, _), a, b in zip(pass_.reductions, top, node))

    height, node = height - merges, lax.fori_loop(0, merges, merge, node)
    return _write(stack, node, height), height + 1


class Totals(NamedTuple):
    """What a device has aggregated so far.

    Attributes:
      running: what the blocks of the group that is running have added to, `[1, ...]`; if the layout is direct, the
        accumulators of all blocks.
      stack: the accumulators of finished nodes, `[stack_size, ...]`; if the layout is direct, `()`.
    """

    running: tuple
    stack: tuple


def pass_program(plan: Plan, pass_: Pass, layout: Layout) -> Callable:
    """One pass over the clients of a wave: `(server inputs, totals, PackedClients) -> (aggregated, kept, done)`.

    `totals` are the `Totals` of the waves before, whose memory is donated, and `aggregated` those after this wave; if
    there is only one wave, `totals` is None and `aggregated` is what the server needs (see `finish_program`).
    `kept` is `[D * K * L, ...]` per materialized value; `done` becomes ready when the wave has been computed,
    and is None if there is only one wave.
    """
    # Only the totals are donated: nobody else holds them. The server's values may be the caller's own arrays, and the
    # clients are kept with their cohort.
    return _on_devices(functools.partial(_run_device, plan, pass_, layout), layout, donate_argnums=1)


def empty_program(plan: Plan, pass_: Pass, layout: Layout) -> Callable:
    """The totals before the first of several waves: `(server inputs, PackedClients) -> (Totals,)`."""

    def empty(server: tuple, clients: PackedClients):
        clients = _first(clients)
        block = jax.eval_shape(_block_runner(plan, pass_, layout, server, clients), jnp.int32(0))
        return (_empty(pass_, layout, block[0]),)

    return _on_devices(empty, layout)


def finish_program(layout: Layout) -> Callable:
    """The nodes that a device is left with after the last of several waves: `(server inputs, Totals) -> (nodes,)`."""
    return _on_devices(lambda _, totals: (_sent(totals, layout),), layout)


def accumulator_bytes(plan: Plan) -> int:
    """The bytes of the accumulators of one node, in the pass where these are the most; unknown sizes do not count."""
    return max((sum(_bytes_of(*r) for r in pass_.reductions) for pass_ in plan.passes), default=0)


def _bytes_of(operation: Aggregate, nodes: tuple[Node[Aggregate], ...]) -> int:
    leaves = jax.tree.leaves(jax.eval_shape(operation.empty, tuple(n.inputs[0].abstract for n in nodes)))
    known = [x for x in leaves if all(isinstance(d, int) for d in x.shape)]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in known)


def _on_devices(per_device: Callable, layout: Layout, **options) -> Callable:
    """A program over all devices: the first argument is the same on each, and each has its part of the others.

    With several devices, values from the server are a `FlatTree`, and values to the server one of arrays `[D, ...]`.
    """
    if len(layout.devices) == 1:
        return jax.jit(per_device, **options)
    clients = PartitionSpec("clients")

    def flat(server, *sharded):
        result = per_device(
            unflatten(server), *(unflatten(_first(x)) if isinstance(x, FlatTree) else x for x in sharded)
        )
        return tuple(jax.tree.map(lambda x: x[None], flatten(part)) for part in result)

    @functools.partial(jax.jit, **options)
    def run(server, *sharded):
        return jax.shard_map(
            flat,
            mesh=layout.mesh,
            in_specs=(PartitionSpec(), *(clients for _ in sharded)),
            out_specs=clients,
            check_vma=False,  # the check refuses a loop whose carry starts equal on all devices, as accumulators do
        )(server, *sharded)

    return run


def _block_runner(plan: Plan, pass_: Pass, layout: Layout, server: tuple, clients: PackedClients) -> Callable:
    # Under `jit` it is traced once, although its abstract values are asked for before it runs.
    return jax.jit(functools.partial(_run_block, plan, pass_, layout.lanes, server, clients), inline=True)


def _empty(pass_: Pass, layout: Layout, values: tuple) -> Totals:
    """The totals of a device before its first block, whose abstract values are `[L, ...]`."""
    lane = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), values)
    zeros = tuple(jax.tree.map(jnp.asarray, op.zero(v)) for (op, _), v in zip(pass_.reductions, lane))
    empty = _closed(pass_, zeros)
    if layout.direct:
        return Totals(_stacked(empty, 1), ())
    return Totals(_stacked(zeros, 1), _stacked(empty, stack_size(layout.leaves, len(layout.devices))))


def _stacked(tree, number: int):
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), tree)


def _closed(pass_: Pass, running: tuple) -> tuple:
    return tuple(op.close(r) for (op, _), r in zip(pass_.reductions, running))


def _added(aggregate: Aggregate, running, values, valid, direct: bool):
    if not direct:
        return aggregate.accumulate(running, values, valid)
    lane = jax.tree.map(lambda x: x[0], values)
    return aggregate.merge(running, aggregate.close(aggregate.accumulate(aggregate.zero(lane), values, valid)))


def _sent(totals: Totals, layout: Layout) -> tuple:
    """The nodes of a device that the server needs, `[nodes_sent, ...]`."""
    number = nodes_sent(layout.leaves, len(layout.devices))
    return totals.running if layout.direct else jax.tree.map(lambda x: x[:number], totals.stack)


def _run_device(plan: Plan, pass_: Pass, layout: Layout, server: tuple, totals: Totals | None, clients: PackedClients):
    clients = _first(clients)
    run_block = _block_runner(plan, pass_, layout, server, clients)
    abstract = jax.eval_shape(run_block, jnp.int32(0))
    groups, blocks = clients.groups, clients.valid.shape[0]
    kept = trees.zeros_like(jax.tree.map(lambda a: jax.ShapeDtypeStruct((blocks, *a.shape), a.dtype), abstract[1]))
    empty = _empty(pass_, layout, abstract[0])

    def block(k, carry):
        running, kept = carry
        values, rows = run_block(k)
        # A block of one lane always has its client, so a select over the whole accumulator would be for nothing.
        valid = clients.valid[k] if layout.lanes > 1 else None
        running = tuple(
            _added(op, r, v, valid, layout.direct) for (op, _), r, v in zip(pass_.reductions, running, values)
        )
        return running, _write(kept, rows, k)

    def group(g, carry):
        running, stack, height, kept = carry
        first, count, ends, merges = groups.table[g]
        running, kept = lax.fori_loop(first, first + count, block, (running, kept))
        if layout.direct:
            return running, stack, height, kept
        # A group that goes on in the next wave is pushed for nothing, and written over then.
        stack, height = _push(pass_, stack, height, _closed(pass_, running), merges)
        next_group = _first(empty.running)
        if totals is not None:
            next_group = trees.where(ends > 0, next_group, running)
        return next_group, stack, height, kept

    start = empty if totals is None else totals
    # The number of groups comes in as a value also where it is always 1: XLA would unroll a loop that runs once, and
    # its body would then give other bits than with more groups per device.
    carry = (_first(start.running), start.stack, groups.start[1], kept)
    running, stack, _, kept = lax.fori_loop(0, groups.start[0], group, carry)
    after = Totals(jax.tree.map(lambda x: x[None], running), stack)
    # Not -1: where another dimension is zero, JAX cannot infer its size.
    kept = jax.tree.map(lambda x: x.reshape((x.shape[0] * x.shape[1], *x.shape[2:])), kept)
    # An output of its own for the host to wait for: the totals are donated to the next wave before this one is done.
    return (_sent(after, layout), kept, None) if totals is None else (after, kept, groups.start[:1])


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def _write(buffer, rows, k):
    return jax.tree.map(lambda b, r: lax.dynamic_update_index_in_dim(b, r, k, 0), buffer, rows)


def _run_block(plan: Plan, pass_: Pass, lanes: int, server: tuple, clients: PackedClients, k):
    """The contributions of the clients of block `k`: `[L, ...]` per reduction and per materialized value."""
    block = _block(clients, k, lanes)
    run = functools.partial(client_values, plan, pass_, server)
    # One lane is not a vmap of one: its steps would be batched loops, with a select over the carry at every step.
    if lanes > 1:
        return jax.vmap(run, in_axes=(lane_axes(block),))(block)
    return jax.tree.map(lambda x: x[None], run(only_lane(block)))


def client_values(plan: Plan, pass_: Pass, server: tuple, client: tuple) -> tuple[tuple, tuple]:
    """The contribution of one client to a pass.

    Args:
      plan: the plan.
      pass_: the pass.
      server: the values of `pass_.server_inputs`.
      client: `(value, identity, client_index, extra)`, `value` a tuple of the client's arguments.

    Returns:
      The values to aggregate, a tuple for each of `pass_.reductions`, and the values to keep.
    """
    value, identity, client_index, extra = client
    known = dict(zip(pass_.server_inputs, server))
    known |= {p: conform(p.member_type, v) for p, v in zip(plan.client_parameters, value)}
    reduced = [tuple(n.inputs[0] for n in nodes) for _, nodes in pass_.reductions]
    roots = (*itertools.chain(*reduced), *pass_.materialized)
    for node in ancestors(roots):
        match node.operation:
            case ClientIdentity():
                known[node] = identity
            case ClientIndex():
                known[node] = client_index
            case ClientValue(name):
                known[node] = extra[name]
    values = iter(evaluate(roots, known))
    return tuple(tuple(itertools.islice(values, len(nodes))) for nodes in reduced), tuple(values)


def _block(clients: PackedClients, k, lanes: int) -> tuple:
    """The clients of block `k`, `[L, ...]`: their values, identities, rows in the population, and extra values."""

    def leaf(x):
        return _sequence(x, k, lanes) if isinstance(x, PackedSequences) else x[k]

    value = jax.tree.map(leaf, clients.value, is_leaf=lambda x: isinstance(x, PackedSequences))
    return value, clients.identity[k], clients.client_index[k], {name: x[k] for name, x in clients.extra.items()}


def _sequence(packed: PackedSequences, k, lanes: int) -> ClientBatches:
    return ClientBatches(
        examples=packed.examples,
        index=packed.index,
        first=packed.first[k],
        common=packed.common[k],
        bound=packed.bound[k],
        num_batches=packed.num_batches[k],
        element=packed.element,
        guarded=lanes > 1,
    )


def lane_axes(block: Any) -> Any:
    """The axis of the lanes, per leaf: 0, but 1 for an index and None for what the block shares."""

    def axes(x):
        if not isinstance(x, ClientBatches):
            return 0
        return dataclasses.replace(x, examples=None, index=1, first=None, common=None, bound=None, num_batches=0)

    return jax.tree.map(axes, block, is_leaf=lambda x: isinstance(x, ClientBatches))


def only_lane(block: Any) -> Any:
    """The only lane of a block, without the axis of the lanes."""

    def take(axis, x):
        return x if axis is None else lax.index_in_dim(x, 0, axis, keepdims=False)

    return jax.tree.map(take, lane_axes(block), block, is_leaf=lambda axis: axis is None)
