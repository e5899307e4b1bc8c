"""Arguments of a call as what the engine runs on: values at the server, and one cohort."""

from typing import Any

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._lists import cohort_of_list, indexed_cohort
from fedjax_core.engine._values import as_member
from fedjax_core.language._client_batches import batch_dimension
from fedjax_core.language._graph import Node


def bind_clients(parameters: tuple[Node, ...], values: list) -> Cohort | None:
    """The arguments at CLIENTS as one cohort whose value is the tuple of them.

    Args:
      parameters: the nodes of the arguments.
      values: per argument a `Cohort`, a list with one entry per client, or stacked arrays.

    Raises:
      TypeError: a client's value has another type than declared.
      ValueError: the arguments have different numbers of clients, or different clients.
    """
    if not parameters:
        return None
    cohorts = [_cohort(p, v) for p, v in zip(parameters, values)]
    named = [c for c, v in zip(cohorts, values) if isinstance(v, Cohort)] or cohorts
    _check_same_clients(parameters, cohorts, named)
    if len(cohorts) == 1:
        return cohorts[0]
    return Cohort(named[0].ids, tuple(c.value for c in cohorts), named[0].client_index, named[0].digests)


def _check_same_clients(parameters, cohorts, named):
    sizes = {p.operation.name: len(c) for p, c in zip(parameters, cohorts)}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise ValueError(f"all arguments at CLIENTS have the same clients, got: {found}")
    if any(not np.array_equal(c.identity, named[0].identity) for c in named[1:]):
        raise ValueError("all cohorts of a call have the same clients in the same order; draw the ids once")


def _cohort(parameter: Node, value: Any) -> Cohort:
    name, member = f"argument {parameter.operation.name!r}", parameter.member_type
    if isinstance(value, Cohort):
        _check_cohort(value, member, name)
        return value
    if isinstance(value, list):
        return cohort_of_list(value, member, name)
    return _stacked(value, member, name)


def _check_cohort(cohort: Cohort, member: types.Type, name: str):
    found = cohort.member_type
    if member.is_assignable_from(found) or member.is_assignable_from(_with_batch_sizes(cohort)):
        return
    try:
        member.check_assignable_from(found)
    except TypeError as error:
        first = f" (its first client: {cohort.ids[0]!r})" if cohort.ids else ""
        raise TypeError(f"{name}: the cohort's clients{first} do not have the declared type. {error}") from None


def _with_batch_sizes(cohort: Cohort) -> types.Type:
    """The cohort's type with every batch of the size that the engine pads it to."""

    def leaf(x):
        if not isinstance(x, ClientSequences):
            return types.TensorType(x.dtype, x.shape[1:])
        if batch_dimension(x.element_type) == ():
            return types.SequenceType(x.element_type)
        sized = jax.tree.map(
            lambda t: types.TensorType(t.dtype, (x.batch_size, *t.shape[1:])), types.tree_of_types(x.element_type)
        )
        return types.SequenceType(types.type_of(sized))

    return types.type_of(jax.tree.map(leaf, cohort.value))


def _stacked(value: Any, member: types.Type, name: str) -> Cohort:
    """Arrays with a leading dimension over the clients."""
    if any(not isinstance(leaf, types.TensorType) for _, leaf in types.type_leaves(member)):
        raise TypeError(
            f"{name}: for {{{member}}}@CLIENTS give a cohort (`data.cohort(client_ids, batching, key=key)`) or a "
            f"list with one entry per client, each a list of batches; got {type(value).__name__}"
        )
    stacked = types.type_of(
        jax.tree.map(lambda t: types.TensorType(t.dtype, (None, *t.shape)), types.tree_of_types(member))
    )
    value = as_member(value, stacked, name)
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(value)}
    if len(sizes) != 1:
        raise ValueError(f"{name}: stacked arrays have one row per client in every field, got {sorted(sizes)} rows")
    return indexed_cohort(value, sizes.pop())
