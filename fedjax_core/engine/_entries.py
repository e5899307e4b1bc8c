"""Python containers that stand for clients, or for a client's batches: lists, dicts by id, generators."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_core import _checks, types
from fedjax_core.engine._cohort import Cohort
from fedjax_core.language.graph import is_placed


class Clients(NamedTuple):
    """The clients of an argument, one entry each.

    Attributes:
      ids: their ids, or their places in a list.
      entries: what each client holds.
      named: whether the clients came with ids.
    """

    ids: tuple
    entries: list
    named: bool


def clients_of(value: Any, member: types.Type, name: str) -> Clients | None:
    """The clients of a list or of a dict by id; None for anything else, such as stacked arrays.

    Args:
      value: an argument at CLIENTS.
      member: the declared type of a client's value.
      name: the name of the argument in error messages.

    Raises:
      TypeError: a dict holds the fields of one client, or an id is neither a string nor an integer.
    """
    if isinstance(value, list):
        return Clients(tuple(range(len(value))), value, named=False)
    if isinstance(value, dict) and _is_by_id(value, member, name):
        return Clients(tuple(_plain_id(client_id, name) for client_id in value), list(value.values()), named=True)
    return None


def read_streams(value: Any, name: str) -> Any:
    """A value with every generator in it, or other iterable, replaced by a list; the value itself may be one.

    Args:
      value: a pytree.
      name: the name of the value in error messages.

    Raises:
      ValueError: a generator, or another iterator, has been read before.

    Example:

    >>> read_streams({"ada": iter([1.0, 2.0])}, "it")
    {'ada': [1.0, 2.0]}
    """

    if isinstance(value, list):
        return [read_streams(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):  # by hand, since JAX sorts the keys, here the clients, of every dict but OrderedDict
        read = copy.copy(value)  # an OrderedDict or defaultdict stays one
        read.update({key: read_streams(item, f"{name}[{key!r}]") for key, item in value.items()})
        return read
    if is_stream(value):
        # Read each item before the next is drawn, which may invalidate it (as in `itertools.groupby`).
        return [read_streams(item, f"{name}[{i}]") for i, item in enumerate(_drawn(value, name))]
    # JAX cannot flatten every mapping, for example not the data themselves, which would be read without end.
    if not isinstance(value, tuple | Mapping) or jax.tree_util.all_leaves([value]):
        return value
    return jax.tree.map(lambda leaf: read_streams(leaf, name), value, is_leaf=lambda node: node is not value)


def is_stream(value: Any) -> bool:
    """Whether a value is a plain iterable, such as a generator, and neither an array nor a pytree."""
    if isinstance(value, list | tuple | dict) or not isinstance(value, Iterable) or is_placed(value):
        return False
    is_other = isinstance(value, str | bytes | set | frozenset | Mapping | types.Type)
    is_array = hasattr(value, "shape") or hasattr(value, "__array__")
    return not is_other and not is_array and jax.tree_util.default_registry.flatten_one_level(value) is None


def _drawn(stream: Iterable, name: str) -> Iterator:
    """The items of a stream; raises if it has been read before, since it would silently be empty."""
    is_generator = inspect.isgenerator(stream)
    is_used = is_generator and inspect.getgeneratorstate(stream) == inspect.GEN_CLOSED
    is_empty = True
    for item in stream:
        is_empty = False
        yield item
    # A new generator may well yield nothing: its client has no batches.
    if is_used or (is_empty and isinstance(stream, Iterator) and not is_generator):
        raise ValueError(
            f"{name}: this {type(stream).__name__} is empty; it can be read only once, and may have been read before. "
            "Make a new one for every client and call, or give a list (`[]` for a client without batches)"
        )


def in_one_order(names: list[str], values: list) -> list:
    """The arguments of a call, with dicts by id put into the order of its cohort, or else of the first dict.

    Args:
      names: the names of the arguments in error messages.
      values: per argument a `Cohort`, `Clients` or stacked arrays.

    Raises:
      ValueError: some arguments have ids and others have none, or their ids differ.
    """
    by_id = [isinstance(value, Clients) and value.named for value in values]
    with_ids = [i for i, value in enumerate(values) if by_id[i] or isinstance(value, Cohort)]
    if not any(by_id) or len(values) == 1:
        return values
    if len(with_ids) < len(values):
        other = next(i for i in range(len(values)) if i not in with_ids)
        raise ValueError(
            f"{names[by_id.index(True)]} is {{id: client}}, but {names[other]} has no ids to match; give "
            "{id: client} for both"
        )
    first = min(with_ids, key=lambda i: by_id[i])
    return [
        _in_order(value, values[first].ids, names[i], names[first]) if by_id[i] else value
        for i, value in enumerate(values)
    ]


def _in_order(clients: Clients, ids: tuple, name: str, first: str) -> Clients:
    entries, expected = dict(zip(clients.ids, clients.entries)), set(ids)
    if entries.keys() != expected:
        differing = {"lacks": expected - entries.keys(), "alone has": entries.keys() - expected}
        found = ", ".join(f"{what} {sorted(some, key=str)[:3]}" for what, some in differing.items() if some)
        raise ValueError(f"all arguments at CLIENTS must have the same clients; compared with {first}, {name} {found}")
    return Clients(ids, [entries[client_id] for client_id in ids], named=True)


def _plain_id(client_id: Any, name: str) -> str | int:
    if isinstance(client_id, str):
        return str(client_id)
    if isinstance(client_id, int | np.integer) and not isinstance(client_id, bool):
        return int(client_id)
    raise TypeError(
        f"{name}: the keys of a dict of clients must be ids, strings or integers, got {client_id!r} of type "
        f"{type(client_id).__name__}; use {_checks.as_text(client_id)}"
    )


def _is_by_id(value: dict, member: types.Type, name: str) -> bool:
    """Whether a dict is `{id: client}` rather than stacked arrays by the names of a struct.

    An id may equal a name of the struct, so the values decide.
    """
    names = _names_of(member)
    if not names & set(map(str, value)) or all(_is_client(entry, member) for entry in value.values()):
        return member.contains("sequence") or not _is_struct_of_arrays(value, names)
    if member.contains("sequence"):
        raise TypeError(
            f"{name}: a dict of clients must be {{id: client}}, but this one has the fields "
            f"{sorted(map(str, value))} of a single client; give [client], or {{'its id': client}}"
        )
    return False


def _names_of(member: types.Type) -> set[str]:
    """The names of a client's struct, or of its batch's struct."""
    struct = member.element if isinstance(member, types.SequenceType) else member
    return {name for name in struct.names if name is not None} if isinstance(struct, types.StructType) else set()


def _is_client(entry: Any, member: types.Type) -> bool:
    """Whether a value that stands under one of the struct's names must be a client: it has the struct's names itself.

    Otherwise it may be that field of all clients. A list or a tuple may be the rows of an array, so it is a client only
    if it holds batches with names.
    """
    if isinstance(member, types.SequenceType):
        batches = entry if isinstance(entry, list) else [entry]
        return bool(batches) and all(_is_client(batch, member.element) for batch in batches)
    is_row = isinstance(entry, list | tuple) and not hasattr(entry, "_fields")
    if not isinstance(member, types.StructType) or is_row:
        return False
    try:
        parts = zip(member.children, member.unpack(entry), strict=True)
    except TypeError:
        return False
    return all(_is_client(part, child) for child, part in parts if isinstance(child, types.StructType))


def _is_struct_of_arrays(value: dict, names: set[str]) -> bool:
    """Whether a dict with other names than the struct's is still meant as one: none of its values is a struct."""
    return bool(names and value) and all(isinstance(v, list) or jax.tree_util.all_leaves([v]) for v in value.values())
