"""Execution: one XLA program per pass over the clients, one per phase of server work.

A pass runs under `shard_map` over the devices. Each device loops over its virtual shards, over a
shard's blocks, and inside each client function over exactly as many steps as the block needs; the
lanes of a block are vmapped. What a pass aggregates is carried, from wave to wave too, and comes back
stacked over the shards. The shards are merged, and all other work of the server done, on one device.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from fedjax_core import trees
from fedjax_core.engine._config import Layout
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.engine._packing import PackedClients, PackedSequences
from fedjax_core.engine._plan import Pass, Plan, ServerPhase
from fedjax_core.engine._transfer import FlatTree, flatten, unflatten
from fedjax_core.engine._values import conform
from fedjax_core.language import ClientBatches
from fedjax_core.language.graph import Aggregate, ClientIdentity, ClientIndex, ClientValue, Node, ancestors


def phase_program(phase: ServerPhase) -> Callable:
    """The server's work of one phase, `inputs -> outputs`, tuples in the phase's order.

    An aggregate comes in as its accumulators, stacked over the shards `[V, ...]`.
    """

    # A program of its own, on one device: inside the partitioned program XLA writes the server's arithmetic in another
    # way for each number of devices (a division became a product with the reciprocal), and the bits would differ.
    @jax.jit
    def run(inputs: tuple) -> tuple:
        values = {n: _merged(n, x) if isinstance(n.operation, Aggregate) else x for n, x in zip(phase.inputs, inputs)}
        return tuple(evaluate(phase.outputs, values))

    return run


def _merged(node: Node, stacked):
    """The aggregate's result from the accumulators of the shards, merged in their order."""
    aggregate = node.operation
    if not jax.tree.leaves(stacked):
        return aggregate.report(stacked)
    # In a loop, whose body XLA compiles by itself: merges in a row are contracted with one another and with `report`.
    first = jax.tree.map(lambda x: x[0], stacked)
    rest = jax.tree.map(lambda x: x[1:], stacked)
    return aggregate.report(lax.scan(lambda a, b: (aggregate.merge(a, b), None), first, rest)[0])


def pass_program(plan: Plan, pass_: Pass, layout: Layout) -> Callable:
    """One pass over the clients of a wave: `(server inputs, totals, PackedClients) -> (totals, kept, done)`.

    `totals` are the accumulators `[V, ...]` of the waves before, whose memory is donated, or None before the only wave;
    `kept` is `[D * K * L, ...]` per materialized value; `done` becomes ready when the wave has been computed,
    and is None if there is only one wave.
    """
    # Only the totals are donated: nobody else holds them. The server's values may be the caller's own arrays, and the
    # clients are kept with their cohort.
    return _on_devices(functools.partial(_run_device, plan, pass_, layout), layout, donate_argnums=1)


def empty_program(plan: Plan, pass_: Pass, layout: Layout) -> Callable:
    """The accumulators before the first of several waves: `(server inputs, PackedClients) -> (totals [V, ...],)`."""

    def empty(server: tuple, clients: PackedClients):
        clients = jax.tree.map(lambda x: x[0], clients)
        block = jax.eval_shape(_block_runner(plan, pass_, layout, server, clients), jnp.int32(0))
        return (_empty(pass_, layout, block),)

    return _on_devices(empty, layout)


def _on_devices(per_device: Callable, layout: Layout, **options) -> Callable:
    """A program over all devices: the first argument is the same on each, and each has its part of the others.

    With several devices, values from the server and values to the server are `FlatTree`.
    """
    if len(layout.devices) == 1:
        return jax.jit(per_device, **options)
    clients = PartitionSpec("clients")

    def flat(server, *sharded):
        result = per_device(unflatten(server), *(unflatten(x) if isinstance(x, FlatTree) else x for x in sharded))
        return tuple(flatten(part, 1) for part in result)

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
    return functools.partial(_run_block, plan, pass_, layout.lanes, server, clients)


def _empty(pass_: Pass, layout: Layout, block: tuple):
    """The empty accumulators of a device, for a block with these abstract values."""
    lane = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), block[0])
    zeros = tuple(jax.tree.map(jnp.asarray, n.operation.zero(v)) for n, v in zip(pass_.aggregates, lane))
    shards = layout.shards // len(layout.devices)
    return jax.tree.map(lambda z: jnp.broadcast_to(z, (shards, *z.shape)), zeros)


def _run_device(plan: Plan, pass_: Pass, layout: Layout, server: tuple, totals: tuple | None, clients: PackedClients):
    clients = jax.tree.map(lambda x: x[0], clients)
    run_block = _block_runner(plan, pass_, layout, server, clients)
    abstract = jax.eval_shape(run_block, jnp.int32(0))
    # An output of its own for the host to wait for: the totals are donated to the next wave before this one is done.
    done = None if totals is None else clients.count.sum(keepdims=True)
    totals = _empty(pass_, layout, abstract) if totals is None else totals
    blocks = clients.valid.shape[0]
    kept = trees.zeros_like(jax.tree.map(lambda a: jax.ShapeDtypeStruct((blocks, *a.shape), a.dtype), abstract[1]))

    def block(k, carry):
        accumulators, kept = carry
        values, rows = run_block(k)
        # A block of one lane always has its client, so a select over the whole accumulator would be for nothing.
        valid = clients.valid[k] if layout.lanes > 1 else None
        accumulators = tuple(
            n.operation.accumulate(a, v, valid) for n, a, v in zip(pass_.aggregates, accumulators, values)
        )
        return accumulators, _write(kept, rows, k)

    def shard(s, carry):
        totals, kept = carry
        first, count = clients.first[s], clients.count[s]
        total, kept = lax.fori_loop(first, first + count, block, (jax.tree.map(lambda t: t[s], totals), kept))
        return _write(totals, total, s), kept

    # The number of shards is known here, but comes in as a value all the same: XLA would unroll a loop that runs once,
    # and its body would then give other bits than with more shards per device.
    totals, kept = lax.fori_loop(0, clients.shards[0], shard, (totals, kept))
    # Not -1: where another dimension is zero, JAX cannot infer its size.
    return totals, jax.tree.map(lambda x: x.reshape((x.shape[0] * x.shape[1], *x.shape[2:])), kept), done


def _write(buffer, rows, k):
    return jax.tree.map(lambda b, r: lax.dynamic_update_index_in_dim(b, r, k, 0), buffer, rows)


def _run_block(plan: Plan, pass_: Pass, lanes: int, server: tuple, clients: PackedClients, k):
    """The contributions of the clients of block `k`: `[L, ...]` per aggregate and per materialized value."""
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
      The values to aggregate and the values to keep.
    """
    value, identity, client_index, extra = client
    known = dict(zip(pass_.server_inputs, server))
    known |= {p: conform(p.member_type, v) for p, v in zip(plan.client_parameters, value)}
    roots = (*(n.inputs[0] for n in pass_.aggregates), *pass_.materialized)
    for node in ancestors(roots):
        match node.operation:
            case ClientIdentity():
                known[node] = identity
            case ClientIndex():
                known[node] = client_index
            case ClientValue(name):
                known[node] = extra[name]
    values = evaluate(roots, known)
    return tuple(values[: len(pass_.aggregates)]), tuple(values[len(pass_.aggregates) :])


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
