"""The arguments of a call in the form that the engine runs on: values at the server, and one cohort."""

import dataclasses
import re
from typing import Any

import jax
import jax.core
import numpy as np

from fedjax_core import types
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._entries import Clients, clients_of, in_one_order
from fedjax_core.engine._identity import client_digests
from fedjax_core.engine._lists import cohort_of_list
from fedjax_core.engine._plan import Plan
from fedjax_core.engine._values import as_member
from fedjax_core.language.graph import Node, batch_dimension

_CONVERT = r"convert the examples: data.map(lambda e: {**e, 'FIELD': e['FIELD'].astype(\1)})"


def bind_clients(plan: Plan, values: list) -> Cohort | None:
    """The arguments at CLIENTS as one cohort whose value is the tuple of them (the value itself for one argument).

    Args:
      plan: the program.
      values: per argument a `Cohort`, a list with one entry per client, `{id: client}`, or stacked arrays.

    Raises:
      TypeError: a client's value, or a value that accompanies it, is missing or does not have the declared type.
      ValueError: the arguments have different numbers of clients, or different clients.
    """
    parameters = plan.client_parameters
    if not parameters:
        return None
    cohorts = as_cohorts(plan, parameters, values)
    if len(cohorts) == 1:
        bind_extra(plan, cohorts)
        _check_population(plan, cohorts)
        return cohorts[0]  # itself, since its packing is kept with it
    return joined(plan, cohorts, [isinstance(value, Cohort) for value in values])


def joined(plan: Plan, cohorts: list, named: list[bool]):
    """The arguments at CLIENTS, packed or not, as one cohort whose value is the tuple of them.

    Args:
      plan: the program.
      cohorts: a `Cohort`, or a `PackedCohort`, for each argument.
      named: which of them know their clients; the others (lists, arrays) are in the same order.

    Raises:
      TypeError, ValueError: as in `bind_clients`.
    """
    with_names = [cohort for cohort, is_named in zip(cohorts, named) if is_named] or cohorts
    _check_same_clients(plan.client_parameters, cohorts, with_names)
    _check_population(plan, with_names)
    value = tuple(cohort.value for cohort in cohorts)
    return dataclasses.replace(with_names[0], value=value, extra=bind_extra(plan, cohorts))


def bind_extra(plan: Plan, cohorts: list) -> dict[str, Any]:
    """The values that `federated_client_value` reads in a program, taken from the cohorts that are its arguments.

    Args:
      plan: the program.
      cohorts: a `Cohort`, or a `PackedCohort`, for each argument.

    Raises:
      TypeError: no cohort has a value of a name that the program reads, or it has another type.
      ValueError: two cohorts have different values of the same name.
    """
    extra = {}
    for node in plan.client_values:
        name, what = node.operation.name, _described(node)
        given = [cohort.extra[name] for cohort in cohorts if name in cohort.extra]
        if not given:
            raise TypeError(f"{what}: {_names_of_extra(cohorts)}; write data.cohort(..., extra={{{name!r}: values}})")
        if not all(_are_equal(given[0], other) for other in given[1:]):
            raise ValueError(
                f"{what}: the cohorts of the call have different values of this name; give it with one of them"
            )
        found = types.TensorType(given[0].dtype, given[0].shape[1:])
        if not node.member_type.is_assignable_from(found):
            raise TypeError(
                f"{what}: the cohort has {found} for each client; declare it as {str(found)!r}, or convert the "
                f"values: data.cohort(..., extra={{{name!r}: values}}) with rows of {node.member_type}"
            )
        extra[name] = given[0]
    return extra


def _described(node: Node) -> str:
    return f"federated_client_value({node.operation.name!r}, {str(node.member_type)!r}) at {node.location}"


def _names_of_extra(cohorts: list) -> str:
    names = ", ".join(sorted({repr(name) for cohort in cohorts for name in cohort.extra}))
    if names:
        return f"the clients come with {names}, but with no value of this name"
    return "the clients come with nothing beside their data, as clients of a list or a dict always do"


def _are_equal(one, other) -> bool:
    """Whether two arrays agree; tracers, whose values nobody knows yet, count as equal."""
    if one is other or any(isinstance(x, jax.core.Tracer) for x in (one, other)):
        return True
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)


def _check_same_clients(parameters, cohorts, named):
    sizes = {p.operation.name: len(c.identity) for p, c in zip(parameters, cohorts)}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise ValueError(f"all arguments at CLIENTS must have the same clients, got: {found}")
    if not all(_are_equal(c.identity, named[0].identity) for c in named[1:]):
        raise ValueError("all cohorts of a call must have the same clients in the same order; draw the ids once")


def _check_population(plan: Plan, cohorts: list):
    """Raises if the cohorts, or a table that the program addresses by row, belong to different populations.

    The rows would be those of other clients, and nothing in the result would show it.
    """
    first = cohorts[0]
    if plan.client_indices and not all(_are_equal(c.client_index, first.client_index) for c in cohorts[1:]):
        raise ValueError(
            "the cohorts of the call number their clients differently, and the program reads these numbers "
            f"(federated_client_index at {plan.client_indices[0].location}); take subsets or splits of one "
            "FederatedData, or make both with from_arrays from the same ids"
        )
    for node in plan.client_indices:
        rows, population = node.operation.rows, first.population
        if rows is not None and population is None:
            _check_rows_there(node, first.client_index)
        elif rows is not None and rows != population:
            raise ValueError(
                f"the table that federated_client_index addresses at {node.location} has {rows} rows, but the cohort's "
                f"population has {population} clients, so they do not belong together; make the table with "
                "len(data.client_ids.population) rows, and take subsets and splits of that data, which keep its rows"
            )


def _check_rows_there(node: Node, client_index):
    """Raises if a list has more clients than a table has rows: they would read the last row and write none."""
    if isinstance(client_index, jax.core.Tracer):
        return
    rows, last = node.operation.rows, int(np.max(client_index, initial=-1))
    if last >= rows:
        raise ValueError(
            f"the table that federated_client_index addresses at {node.location} has {rows} rows, but there is a "
            f"client of row {last}; a client of a list has its place as its row: make the table with a row for each"
        )


def _check_rows_known(plan: Plan, values: list):
    """Raises if clients come by id for a table by row: their places in the dict change from round to round."""
    named = [value for value in values if isinstance(value, Clients) and value.named]
    if not named or any(isinstance(value, Cohort) for value in values):
        return
    for node in plan.client_indices:
        if node.operation.rows is not None and named[0].ids != tuple(range(len(named[0].ids))):
            raise ValueError(
                f"the table that federated_client_index addresses at {node.location} has a row for each client of a "
                f"population, but {{id: client}} does not say which row is {named[0].ids[0]!r}'s; give "
                "data.cohort(ids, batching) of all clients' FederatedData, or a list in the order of the rows"
            )


def as_cohorts(plan: Plan, parameters: tuple[Node, ...], values: list) -> list[Cohort]:
    """Some arguments at CLIENTS as cohorts, checked; dicts by id are put into the same order of clients.

    Raises:
      TypeError: a client's value does not have the declared type.
      ValueError: stacked arrays have different numbers of rows; dicts have different ids than another argument; or a
        dict by id is given where the program has a table with a row for each client of a population.
    """
    names = [f"argument {p.operation.name!r}" for p in parameters]
    members = [p.member_type for p in parameters]
    if not all(isinstance(value, Cohort) for value in values):
        clients = [clients_of(*each) for each in zip(values, members, names)]
        values = in_one_order(names, [value if found is None else found for value, found in zip(values, clients)])
        _check_rows_known(plan, values)
    return [_as_cohort(*each) for each in zip(values, members, names)]


def _as_cohort(value: Any, member: types.Type, name: str) -> Cohort:
    if isinstance(value, Cohort):
        _check_cohort(value, member, name)
        return value
    if isinstance(value, Clients):
        return cohort_of_list(value.entries, member, name, value.ids)
    return _stacked(value, member, name)


def _check_cohort(cohort: Cohort, member: types.Type, name: str):
    found = cohort.member_type
    if member.is_assignable_from(found) or member.is_assignable_from(_with_batch_sizes(cohort)):
        return
    # A dict among them is put into the order of the type where it is used (`conform`).
    matched = [types.matched_type(member, type_) for type_ in (found, _with_batch_sizes(cohort))]
    if any(map(member.is_assignable_from, matched)):
        return
    try:
        member.check_assignable_from(matched[0])
    except TypeError as error:
        first = f" (its first client: {cohort.ids[0]!r})" if cohort.ids else ""
        # What is to be converted are the examples, of which the caller holds the data.
        text = re.sub(r"convert the value with jnp.asarray\(value, ('\w+')\)", _CONVERT, str(error))
        raise TypeError(f"{name}: the cohort's clients{first} do not have the declared type. {text}") from None


def _with_batch_sizes(cohort: Cohort) -> types.Type:
    """The cohort's type, every batch having the size that the engine pads it to."""

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
            f"{name}: for {{{member}}}@CLIENTS give a cohort (`data.cohort(client_ids, batching, key=key)`), "
            f"{{id: client}}, or a list with one entry per client, each a list of batches; got {type(value).__name__}"
        )
    stacked = types.type_of(
        jax.tree.map(lambda t: types.TensorType(t.dtype, (None, *t.shape)), types.tree_of_types(member))
    )
    value = as_member(value, stacked, name)
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(value)}
    if len(sizes) != 1:
        raise ValueError(
            f"{name}: stacked arrays must have one row per client in every field, got {sorted(sizes)} rows"
        )
    ids = range(sizes.pop())
    return Cohort(ids, value, np.arange(len(ids), dtype=np.int32), client_digests(ids))
