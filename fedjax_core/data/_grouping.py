"""Grouping of loose arrays into rows that are ordered by client."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fedjax_core.data import _examples, _id_stores, _sources


def joined(ids: Sequence, clients: Sequence) -> _sources.Flat:
    """Concatenates the examples of the clients `ids`, all of which must have the fields and dtypes of one of them."""
    if not clients:
        raise ValueError(
            "from_clients needs at least one client, whose examples determine the type; for a client without "
            "examples use arrays of length 0: {'ada': {'x': np.zeros((0, 784), np.float32)}}"
        )
    first = next((i for i, examples in enumerate(clients) if not any(map(_examples.is_bare, _leaves(examples)))), 0)
    reference = _examples.owner_of(ids[first])
    names, expected = _examples.field_names(clients[first]), _rows_of(clients[first], reference)
    rows = jax.tree.leaves(expected)
    columns = [[] for _ in names]
    for client_id, examples in zip(ids, clients):
        owner = _examples.owner_of(client_id)
        leaves = _examples.check_fields(examples, expected, owner, reference)
        for number, (value, row, name) in enumerate(zip(leaves, rows, names)):
            if _examples.is_bare(value):
                value = np.zeros((0, *row.shape), row.dtype)
            leaves[number] = _examples.canonical(value, f"{owner}: {_examples.field_of(name)}")
        _examples.check_same_rows(leaves, names, owner)
        for leaf, row, name, column in zip(leaves, rows, names, columns):
            _examples.check_like(leaf, row, f"{owner}: {_examples.field_of(name)}", reference)
            column.append(leaf)
    sizes = np.fromiter(map(len, columns[0]), np.int64, len(ids))
    arrays = jax.tree.unflatten(jax.tree.structure(expected), [np.concatenate(column) for column in columns])
    return _sources.Flat(arrays, np.cumsum(sizes) - sizes, sizes)


def _leaves(examples: Any) -> list:
    return _examples.flatten(examples)[0]


def _rows_of(examples: Any, owner: str) -> Any:
    """The dtype and the shape of a row of each field of a client."""
    leaves, structure = _examples.flatten(examples)
    if not leaves:
        raise ValueError(f"{owner} has no fields, got {examples!r}; give a dict of arrays: {{'x': ..., 'y': ...}}")
    names = _examples.field_names(examples)
    arrays = [_examples.canonical(leaf, f"{owner}: {_examples.field_of(name)}") for leaf, name in zip(leaves, names)]
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for array in arrays])


def numbered(client_ids: Sequence | np.ndarray) -> tuple[Sequence | np.ndarray, np.ndarray]:
    """The distinct ids in ascending order, integers before strings, and each row's place among them, int64.

    The order depends on the ids alone: the same clients have the same rows in the population, however the rows of
    `client_ids` are shuffled.
    """
    ids = _id_stores.compact(client_ids)
    if isinstance(ids, range):
        ids = np.array(ids, np.int64)
    if isinstance(ids, np.ndarray):
        if ids.dtype.kind == "i" and (ids[1:] >= ids[:-1]).all():
            begins = np.append(True, ids[1:] > ids[:-1])[: len(ids)]
            return ids[begins], np.cumsum(begins) - 1
        return np.unique(ids, return_inverse=True)
    distinct = sorted(set(ids), key=lambda i: (isinstance(i, str), i))
    places = dict(zip(distinct, range(len(distinct))))
    return distinct, np.fromiter(map(places.__getitem__, ids), np.int64, len(ids))


def grouped(arrays: Any, owners: np.ndarray, ids: Sequence) -> _sources.Flat:
    """Groups rows by client.

    Args:
      arrays: a pytree of arrays `[rows, ...]`.
      owners: int64 `[rows]`, the place in `ids` of each row's client.
      ids: the ids of all clients; a client may own no row.
    """
    leaves, treedef = _examples.flatten(arrays)
    names = _examples.field_names(arrays)
    if not leaves:
        raise ValueError(f"from_arrays needs at least one field, got {arrays!r}; give {{'x': ..., 'y': ...}}")
    for leaf, name in zip(leaves, names):
        if len(np.shape(leaf)) and len(leaf) != len(owners):
            raise ValueError(
                f"from_arrays: {_examples.field_of(name)} has {len(leaf)} rows and there are {len(owners)} client "
                "ids; every field needs one row per example, and every row one client id"
            )

    def owner(row: int) -> str:
        return _examples.owner_of(ids[int(owners[row])])

    leaves = [
        _examples.canonical(leaf, f"from_arrays: {_examples.field_of(name)}", owner)
        for leaf, name in zip(leaves, names)
    ]
    if (owners[1:] < owners[:-1]).any():
        order = np.argsort(owners, kind="stable")
        leaves = [np.take(leaf, order, axis=0) for leaf in leaves]
    sizes = np.bincount(owners, minlength=len(ids)).astype(np.int64)
    return _sources.Flat(jax.tree.unflatten(treedef, leaves), np.cumsum(sizes) - sizes, sizes)
