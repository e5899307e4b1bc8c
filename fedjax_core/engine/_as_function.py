"""The traced entry: the same graph as a pure function, with static trip counts.

The clients of a `PackedCohort` are vmapped, and each scans as many steps as the longest of them takes, so that the
function can be differentiated.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.engine._arguments import as_cohorts, joined
from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._entries import clients_of
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.engine._execution import client_values, lane_axes
from fedjax_core.engine._packed_cohort import PackedCohort, pack_cohort
from fedjax_core.engine._plan import Pass, Plan
from fedjax_core.language import ClientBatches
from fedjax_core.language.graph import Aggregate, Node


def packed_clients(plan: Plan, values: list) -> PackedCohort | None:
    """The arguments at CLIENTS as one packed cohort whose value is the tuple of them.

    Args:
      plan: the program.
      values: per argument a `PackedCohort`, stacked arrays, or whatever a call takes.

    Raises:
      TypeError, ValueError: as in a call.
    """
    if not values:
        return None
    packed = _packed(plan, values)
    return joined(plan, packed, [isinstance(value, PackedCohort | Cohort) for value in values])


def _packed(plan: Plan, values: list) -> list[PackedCohort]:
    parameters = plan.client_parameters
    packed = {p: v for p, v in zip(parameters, values) if isinstance(v, PackedCohort)}
    others = {p: v for p, v in zip(parameters, values) if p not in packed}
    for parameter, cohort in packed.items():
        _check_type(parameter, cohort)
    if packed:
        _refuse_ids(others)
    cohorts = as_cohorts(plan, tuple(others), list(others.values()))
    packed |= {parameter: pack_cohort(cohort) for parameter, cohort in zip(others, cohorts)}
    return [packed[parameter] for parameter in parameters]


def _refuse_ids(values: dict[Node, Any]):
    """Raises for a dict by id: a `PackedCohort` holds digests, possibly traced, so no client can be found by its id."""
    for parameter, value in values.items():
        name = f"argument {parameter.operation.name!r}"
        if isinstance(value, dict) and clients_of(value, parameter.member_type, name):
            raise ValueError(
                f"{name} is {{id: client}} and another argument is a PackedCohort, whose clients are matched by their "
                "place; give a list in the order of the cohort"
            )


def _check_type(parameter: Node, cohort: PackedCohort):
    def leaf(x):
        return types.SequenceType(x.element) if isinstance(x, ClientBatches) else types.TensorType(x.dtype, x.shape[1:])

    found = types.type_of(jax.tree.map(leaf, cohort.value, is_leaf=lambda x: isinstance(x, ClientBatches)))
    if not parameter.member_type.is_assignable_from(types.matched_type(parameter.member_type, found)):
        raise TypeError(
            f"argument {parameter.operation.name!r}: expected clients of {parameter.member_type}, got {found}"
        )


def run_traced(plan: Plan, server: dict[Node, object], cohort: PackedCohort | None) -> tuple[list, jax.Array]:
    """Evaluates a plan on tracers.

    Args:
      plan: the plan.
      server: the values of the arguments that exist once.
      cohort: the clients, from `packed_clients`.

    Returns:
      The outputs, and the number of clients that the checks of the program refuse, int32.
    """
    known = dict(server)
    for phase, pass_ in zip(plan.phases, (*plan.passes, None)):
        known |= zip(phase.outputs, evaluate(phase.outputs, {n: known[n] for n in phase.inputs}))
        if pass_ is not None:
            assert cohort is not None  # the passes are over its clients
            known |= _run_pass(plan, pass_, known, cohort)
    counts = evaluate(tuple(check.count for check in plan.checks), known)
    return evaluate(plan.outputs, known), sum(counts, jnp.zeros((), jnp.int32))


def _run_pass(plan: Plan, pass_: Pass, known: dict, cohort: PackedCohort) -> dict:
    """The results of a pass, by node."""
    server = tuple(evaluate(pass_.server_inputs, known))
    block = (cohort.value, cohort.identity, cohort.client_index, cohort.extra)
    run = functools.partial(client_values, plan, pass_, server)
    values, kept = jax.vmap(run, (lane_axes(block),), axis_size=len(cohort.identity))(block)
    rows = dict(zip(pass_.materialized, kept))
    totals = {}
    for (operation, nodes), reduced in zip(pass_.reductions, values):
        totals |= zip(nodes, _reduced(operation, reduced))
    is_client = jnp.ones(len(cohort.identity), bool)  # a program is traced for one number of clients: no padding
    collected = {n: rows[n.inputs[0]] for n in pass_.collected}
    return totals | rows | {n: (r, is_client) if n.operation.padded else r for n, r in collected.items()}


def _reduced(aggregate: Aggregate, values):
    lane = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), values)
    zero = jax.tree.map(jnp.asarray, aggregate.zero(lane))
    return aggregate.report(aggregate.close(aggregate.accumulate(zero, values, None)))
