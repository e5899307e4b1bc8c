"""The traced entry: the same graph as a pure function, with static trip counts.

Under `jit`, `grad`, `vmap` and `scan` no host can plan. A `PackedCohort` was packed before; its
clients are vmapped, each scanning as many steps as the longest of them takes, so that the whole can
be differentiated.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.engine._binding import as_cohorts, bind_extra
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._entries import clients_of
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.engine._execution import client_values
from fedjax_core.engine._plan import Plan
from fedjax_core.language._client_batches import ClientBatches, is_batched
from fedjax_core.language._graph import Aggregate, Node


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StaticSequences:
    """The batches of all clients, for static trip counts.

    Attributes:
      examples: pytree of `[R, ...]`; row 0 is zeros.
      index: int32 `[C, S, B]`, rows of `examples`, 0 for padding.
      num_batches: int32 `[C]`.
      element: the type of a batch.
    """

    examples: Any
    index: jax.Array
    num_batches: jax.Array
    element: types.Type = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedCohort:
    """A cohort as a pytree of arrays, which can cross `jit`, `grad`, `vmap` and `scan`.

    Made by `pack_cohort`; several of one shape stacked by `stack_cohorts` can be scanned over.

    Attributes:
      value: a pytree of `StaticSequences` and arrays `[C, ...]`.
      identity: uint32 `[C, 2]`.
      client_index: int32 `[C]`.
      extra: what `federated_client_value` reads, arrays `[C, ...]` by name.
    """

    value: Any
    identity: jax.Array
    client_index: jax.Array
    extra: dict[str, Any]


def pack_cohort(cohort: Cohort) -> PackedCohort:
    """Packs a cohort for `Computation.as_function`.

    Args:
      cohort: from `FederatedData.cohort`.

    Returns:
      A pytree of arrays; examples are stored once, flat.

    Raises:
      TypeError: `cohort` is no cohort.

    Example:

    >>> import numpy as np, fedjax_core as fc
    >>> data = fc.data.from_clients({"a": {"x": np.ones((5, 2), np.float32)}})
    >>> packed = fc.pack_cohort(data.cohort(["a"], fc.data.Batching(batch_size=2)))
    >>> packed.value.index.shape
    (1, 3, 2)
    """
    return stack_cohorts([cohort], axis=None)


def stack_cohorts(cohorts: Iterable[Cohort], *, axis: int | None = 0) -> PackedCohort:
    """Packs cohorts of equally many clients to one shape and stacks them, for a `scan` over rounds.

    Args:
      cohorts: one per round.
      axis: 0; None for a single cohort without the leading dimension.

    Returns:
      A `PackedCohort` whose leaves have a leading dimension over the rounds.

    Raises:
      TypeError: not a cohort, or cohorts whose clients have different types.
      ValueError: the cohorts have different numbers of clients, or there is none.

    Example:

    >>> import numpy as np, fedjax_core as fc
    >>> data = fc.data.from_clients({"a": {"x": np.ones((5, 2), np.float32)}, "b": {"x": np.ones((2, 2), np.float32)}})
    >>> rounds = fc.stack_cohorts(data.cohort([i], fc.data.Batching(batch_size=2)) for i in ["a", "b"])
    >>> rounds.value.index.shape, rounds.value.num_batches.tolist()
    ((2, 1, 3, 2), [[3], [1]])
    """
    cohorts = list(cohorts)
    for cohort in cohorts:
        if not isinstance(cohort, Cohort):
            raise TypeError(
                f"expected a cohort, got {type(cohort).__name__}; make one with data.cohort(client_ids, batching)"
            )
    if len({len(c) for c in cohorts}) != 1:
        raise ValueError(f"stacked cohorts have equally many clients, got {[len(c) for c in cohorts]}")
    for cohort in cohorts:
        if not cohorts[0].member_type.is_equivalent_to(cohort.member_type):
            raise TypeError(
                f"stacked cohorts have clients of one type, got {cohorts[0].member_type} and {cohort.member_type}"
            )
        if not cohorts[0].extra_type.is_equivalent_to(cohort.extra_type):
            raise TypeError(
                f"stacked cohorts have the same values beside their data, got {cohorts[0].extra_type} and "
                f"{cohort.extra_type}; give data.cohort(..., extra={{...}}) the same names and types each round"
            )
    packed = _packed_alike(cohorts)
    if axis is None:
        return jax.tree.map(jnp.asarray, packed[0])
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *packed)


def _packed_alike(cohorts: list[Cohort]) -> list[PackedCohort]:
    """The cohorts as NumPy arrays of the same shapes."""

    def leaf(*columns):
        if not isinstance(columns[0], ClientSequences):
            return list(columns)
        steps = max(int(s.num_steps.max(initial=1)) for s in columns)
        rows = 1 + max(int(s.num_examples.sum()) for s in columns)
        batch_size = max(s.batch_size for s in columns)
        return [_static(s, steps, rows, batch_size) for s in columns]

    structure = jax.tree.structure(cohorts[0].value)
    columns = [leaf(*leaves) for leaves in zip(*(jax.tree.leaves(c.value) for c in cohorts))]
    return [
        PackedCohort(
            jax.tree.unflatten(structure, [column[i] for column in columns]),
            cohort.identity.view(np.uint32).reshape(-1, 2),
            cohort.client_index,
            dict(cohort.extra),
        )
        for i, cohort in enumerate(cohorts)
    ]


def _static(sequences: ClientSequences, steps: int, num_rows: int, batch_size: int) -> StaticSequences:
    everyone = np.arange(len(sequences.num_steps))
    batch = types.tree_of_types(sequences.element_type)
    lead = int(is_batched(sequences.element_type))
    used = 1 + int(sequences.num_examples.sum())
    examples = jax.tree.map(lambda leaf: np.zeros((num_rows, *leaf.shape[lead:]), leaf.dtype), batch)
    sequences.read(everyone, jax.tree.map(lambda x: x[1:used], examples))
    index = np.zeros((len(everyone), steps, batch_size), np.int32)
    client, step = np.nonzero(np.arange(steps) < sequences.num_steps[:, None])
    start = 1 + np.cumsum(sequences.num_examples) - sequences.num_examples
    rows = sequences.batch_rows(everyone)
    index[client, step, : rows.shape[1]] = np.where(rows >= 0, rows + start[client, None], 0)
    # An empty client looks at somebody's example: the step is thrown away, but must be finite for its gradient.
    index[sequences.num_steps == 0] = min(1, used - 1)
    return StaticSequences(examples, index, sequences.num_steps.astype(np.int32), sequences.element_type)


def one_sequence(cohort: Cohort) -> ClientBatches:
    """The batches of the only client of a cohort."""
    packed = jax.tree.map(jnp.asarray, _packed_alike([cohort])[0].value)
    number = packed.num_batches[0]
    zero = jnp.zeros((), jnp.int32)
    return ClientBatches(
        packed.examples, packed.index[0], zero, number, number, number, element=packed.element, guarded=False
    )


def run_traced(plan: Plan, server: dict[Node, object], clients: list) -> tuple[list, jax.Array]:
    """Evaluates a plan on tracers.

    Args:
      plan: the plan.
      server: the values of the arguments that exist once.
      clients: per argument at CLIENTS a `PackedCohort`, stacked arrays, or what a call takes.

    Returns:
      The outputs, and int32: how many clients the checks of the program refuse.
    """
    known = dict(server)
    cohort = _cohort(plan, clients)
    for k, stage in enumerate(plan.stages):
        known.update(zip(stage.outputs, evaluate(stage.outputs, {n: known[n] for n in stage.inputs})))
        if k < len(plan.passes):
            known.update(_pass(plan, plan.passes[k], known, cohort))
    counts = evaluate(tuple(check.count for check in plan.checks), known)
    return evaluate(plan.outputs, known), sum(counts, jnp.zeros((), jnp.int32))


def _pass(plan: Plan, pass_, known: dict, cohort: PackedCohort) -> dict:
    server = tuple(evaluate(pass_.server_inputs, known))
    block = _sequences(cohort)
    number = cohort.identity.shape[0]
    run = jax.vmap(lambda client: client_values(plan, pass_, server, client), (_axes(block),), axis_size=number)
    values, kept = run(block)
    rows = dict(zip(pass_.materialized, kept))
    totals = {n: _reduced(n.operation, v) for n, v in zip(pass_.aggregates, values)}
    return totals | rows | {n: rows[n.inputs[0]] for n in pass_.collected}


def _reduced(aggregate: Aggregate, values):
    lane = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), values)
    zero = jax.tree.map(jnp.asarray, aggregate.zero(lane))
    return aggregate.report(aggregate.accumulate(zero, values, None))


def _cohort(plan: Plan, clients: list) -> PackedCohort | None:
    """One packed cohort whose value is the tuple of the arguments."""
    if not clients:
        return None
    packed = _packed(plan.client_parameters, clients)
    named = [p for kind in (PackedCohort, Cohort) for p, v in zip(packed, clients) if isinstance(v, kind)] or packed
    sizes = [p.identity.shape[0] for p in packed]
    if len(set(sizes)) > 1:
        raise ValueError(f"all arguments at CLIENTS have the same clients, got {sizes} clients")
    extra = bind_extra(plan, packed)
    return PackedCohort(tuple(p.value for p in packed), named[0].identity, named[0].client_index, extra)


def _packed(parameters: tuple[Node, ...], values: list) -> list[PackedCohort]:
    packed = {p: v for p, v in zip(parameters, values) if isinstance(v, PackedCohort)}
    others = {p: v for p, v in zip(parameters, values) if p not in packed}
    for parameter, cohort in packed.items():
        _check(parameter, cohort)
    if packed:
        _refuse_ids(others)
    cohorts = as_cohorts(tuple(others), list(others.values()))
    packed |= {parameter: pack_cohort(cohort) for parameter, cohort in zip(others, cohorts)}
    return [packed[parameter] for parameter in parameters]


def _refuse_ids(values: dict[Node, Any]):
    """A `PackedCohort` has digests, which may be traced, in place of ids, so no client can be found in it by its id."""
    for parameter, value in values.items():
        name = f"argument {parameter.operation.name!r}"
        if isinstance(value, dict) and clients_of(value, parameter.member_type, name):
            raise ValueError(
                f"{name} is {{id: client}} and another argument a PackedCohort, whose clients are matched by their "
                "place; give a list in the order of the cohort"
            )


def _check(parameter: Node, cohort: PackedCohort):
    def leaf(x):
        if isinstance(x, StaticSequences):
            return types.SequenceType(x.element)
        return types.TensorType(x.dtype, x.shape[1:])

    found = types.type_of(jax.tree.map(leaf, cohort.value, is_leaf=lambda x: isinstance(x, StaticSequences)))
    if not parameter.member_type.is_assignable_from(types.matched_type(parameter.member_type, found)):
        raise TypeError(
            f"argument {parameter.operation.name!r}: expected clients of {parameter.member_type}, got {found}"
        )


def _sequences(cohort: PackedCohort) -> tuple:
    """The clients' values with a leading client axis, sequences as the client functions see them."""
    zero = jnp.zeros((), jnp.int32)

    def leaf(x):
        if not isinstance(x, StaticSequences):
            return x
        return ClientBatches(
            x.examples, x.index, zero, zero, zero, x.num_batches, element=x.element, trip_count=x.index.shape[1]
        )

    value = jax.tree.map(leaf, cohort.value, is_leaf=lambda x: isinstance(x, StaticSequences))
    return value, cohort.identity, cohort.client_index, cohort.extra


def _axes(block: tuple) -> tuple:
    def axes(x):
        if not isinstance(x, ClientBatches):
            return 0
        return dataclasses.replace(x, examples=None, index=0, first=None, common=None, bound=None, num_batches=0)

    return jax.tree.map(axes, block, is_leaf=lambda x: isinstance(x, ClientBatches))
