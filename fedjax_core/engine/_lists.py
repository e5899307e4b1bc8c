"""Plain Python lists as clients: one entry per client, which is a list of batches or one batch."""

import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees, types
from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._identity import client_digests
from fedjax_core.engine._values import as_member
from fedjax_core.language.graph import batch_dimension


class ListSequences:
    """The batches of a list of clients, as flat examples; implements `ClientSequences`."""

    is_thread_safe = True

    def __init__(self, element: types.Type, clients: list[list[Any]]):
        """
        Args:
          element: the declared type of a batch.
          clients: for each client its batches, already checked against `element`.
        """
        fixed = batch_dimension(element)
        batches = [batch for client in clients for batch in client]
        sizes = np.array([_size(batch, fixed) for batch in batches], np.int64)
        owner = np.repeat(np.arange(len(clients)), [len(client) for client in clients])
        self.batch_size = int(fixed[0] if fixed and fixed[0] is not None else max(sizes, default=1) or 1)
        self.width = self.batch_size
        self.num_steps = np.array([len(client) for client in clients], np.int64)
        self.num_examples = np.bincount(owner, sizes, len(clients)).astype(np.int64)
        self.element_type = _concrete(element, batches, fixed)
        self._sizes = sizes
        self._examples = _join(self.element_type, batches, fixed)
        self._offsets = np.cumsum(self.num_examples) - self.num_examples
        self._first_batch = np.cumsum(self.num_steps) - self.num_steps
        self._batch_offsets = np.cumsum(sizes) - sizes

    def batch_rows(self, clients: np.ndarray) -> np.ndarray:
        """See `ClientSequences.batch_rows`."""
        steps = self.num_steps[clients]
        batches = ranges(self._first_batch[clients], steps)
        start = self._batch_offsets[batches] - np.repeat(self._offsets[clients], steps)
        column = np.arange(self.width)
        return np.where(column < self._sizes[batches, None], start[:, None] + column, -1).astype(np.int32)

    def read(self, clients: np.ndarray, out: Any) -> None:
        """See `ClientSequences.read`."""
        rows = ranges(self._offsets[clients], self.num_examples[clients])
        # mode="clip", though no row is out of range: with the default mode NumPy fills a copy of `out` first.
        jax.tree.map(lambda to, source: np.take(source, rows, 0, out=to, mode="clip"), out, self._examples)


def _size(batch, fixed) -> int:
    return len(jax.tree.leaves(batch)[0]) if fixed else 1


def _concrete(element, batches, fixed):
    """The declared type with the sizes of the data, except for the batch dimension."""
    if not batches:
        return _filled(element)

    def leaf(x):
        return types.TensorType(x.dtype, (None, *x.shape[1:]) if fixed else x.shape)

    return types.type_of(jax.tree.map(leaf, batches[0]))


def _filled(element):
    lead = len(batch_dimension(element))

    def leaf(t):
        rest = tuple(0 if d is None else d for d in t.shape[lead:])
        return types.TensorType(t.dtype, (None, *rest) if lead else rest)

    return types.type_of(jax.tree.map(leaf, types.tree_of_types(element)))


def _join(element, batches, fixed):
    if not batches:
        return jax.tree.map(lambda t: np.zeros((0, *t.shape[len(fixed) :]), t.dtype), types.tree_of_types(element))
    join = np.concatenate if fixed else np.stack
    return jax.tree.map(lambda *leaves: join(leaves), *batches)


def cohort_of_list(value: list, member: types.Type, name: str, ids: tuple | None = None) -> Cohort:
    """A cohort of a plain list with one entry per client.

    Args:
      value: for each client a value of type `member`; where that has a sequence, a list of batches or one batch.
      member: the declared type of a client's value.
      name: the name of the argument in error messages.
      ids: the clients' ids; None for their places in the list.

    Raises:
      TypeError, ValueError: an entry has another type; the message names the client and the field.
    """
    ids = tuple(range(len(value))) if ids is None else ids
    columns = _columns(value, member, [f"{name}, client {i!r}" for i in ids])
    return Cohort(ids, columns, np.arange(len(ids), dtype=np.int32), client_digests(ids))


def member_type_of_list(clients: list) -> types.Type:
    """The type of a client of a plain list, where a client that is itself a list is a sequence of batches.

    Args:
      clients: one entry per client; the first one decides.

    Raises:
      ValueError: there is no client, or the first one is an empty list.

    Example: the leading dimension of a batch is open.

    >>> print(member_type_of_list([[np.zeros((3, 2), np.float32)], []]))
    float32[?,2]*
    >>> print(member_type_of_list([np.zeros((3, 2), np.float32)]))
    float32[3,2]
    """
    if not clients:
        raise ValueError("an empty list does not show the clients' type; declare it, as in at_clients('float32')")
    first = clients[0]
    if not isinstance(first, list):
        return types.type_of(first)
    if not first:
        raise ValueError("a client without batches does not show its type; declare it, as in at_clients('float32[?]*')")
    element = types.type_of(first[0])
    shapes = [types.of_kind(leaf, types.TensorType).shape for _, leaf in types.type_leaves(element)]
    if not all(shapes):
        return types.SequenceType(element)
    batch = jax.tree.map(lambda t: types.TensorType(t.dtype, (None, *t.shape[1:])), types.tree_of_types(element))
    return types.SequenceType(types.type_of(batch))


def _columns(entries: list, member: types.Type, described: list[str]):
    """One `ClientSequences` or stacked array per leaf of `member`, from one entry per client."""
    match member:
        case types.StructType():
            rows = [_unpack(member, entry, what) for entry, what in zip(entries, described)]
            columns = [list(column) for column in zip(*rows)] or [[] for _ in member.children]
            labels = [n or str(i) for i, n in enumerate(member.names)]
            return member.pack(
                [
                    _columns(column, child, [f"{what}, field {label!r}" for what in described])
                    for column, child, label in zip(columns, member.children, labels)
                ]
            )
        case types.SequenceType():
            pairs = zip(entries, described)
            clients = [_batches(entry, member.element, what) for entry, what in pairs]
            _check_alike(clients, member.element, described)
            return ListSequences(member.element, clients)
    arrays = [as_member(entry, member, what) for entry, what in zip(entries, described)]
    return _stack(arrays, member, described)


def _unpack(member, entry, what):
    try:
        return member.unpack(entry)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None


def _stack(arrays, member, described):
    if not arrays:
        return trees.zeros_like(jax.ShapeDtypeStruct((0, *(d or 0 for d in member.shape)), member.dtype))
    for array, what in zip(arrays, described):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"{what}: a dimension `?` of a client's tensor must be the same for all clients of a cohort, got shape "
                f"{array.shape}, and {arrays[0].shape} for the first client; give data of different sizes as a sequence"
            )
    is_traced = any(isinstance(array, jax.core.Tracer) for array in arrays)
    if is_traced or jnp.issubdtype(member.dtype, jax.dtypes.prng_key):
        return jax.numpy.stack(arrays)
    # On the host: JAX would compile a program for every number of clients.
    return np.stack([np.asarray(array) for array in arrays])


def _batches(entry, element: types.Type, what: str) -> list:
    """A client's batches, checked; a batch without examples is left out."""
    batches = entry if isinstance(entry, list) else [entry]
    lead = batch_dimension(element)
    checked = []
    for i, batch in enumerate(batches):
        label = f"{what}, batch {i}"
        batch = jax.tree.map(functools.partial(_on_host, what=label), as_member(batch, element, label))
        if lead:
            _check_batch(batch, element, label)
        if _size(batch, lead):
            checked.append(batch)
    return checked


def _on_host(array, what: str) -> np.ndarray:
    if isinstance(array, jax.core.Tracer):
        raise TypeError(
            f"{what}: a batch under jit, grad, vmap or scan cannot be packed; pack the clients beforehand, with "
            "fc.pack_cohort(cohort)"
        )
    return np.asarray(array)


def _check_batch(batch, element: types.Type, what: str):
    sizes = {path: len(leaf) for (path, _), leaf in zip(types.type_leaves(element), jax.tree.leaves(batch))}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{path!r} has {size}" for path, size in sizes.items())
        raise ValueError(f"{what}: all fields of a batch must have the same number of examples, got: {found}")


def _check_alike(clients: list[list], element, described):
    """Raises unless every dimension `?` of the examples has the same size in all of them."""
    lead = len(batch_dimension(element))
    paths = [path for path, _ in types.type_leaves(element)]
    expected = {}
    for client, what in zip(clients, described):
        for batch in client:
            for path, leaf in zip(paths, jax.tree.leaves(batch)):
                shape, (first, of) = leaf.shape[lead:], expected.setdefault(path, (leaf.shape[lead:], what))
                if shape != first:
                    raise ValueError(
                        f"{what}, field {path!r}: a dimension `?` of an example must have one size in all clients, got "
                        f"the shape {shape} and in {of} {first}; pad the examples, or make it the batch dimension"
                    )


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Concatenates `arange(start, start + size)` over all pairs, int64 `[sum(sizes)]`.

    Args:
      starts: integers `[C]`.
      sizes: int64 `[C]`, not negative.

    Example:

    >>> ranges(np.array([10, 0]), np.array([3, 2])).tolist()
    [10, 11, 12, 0, 1]
    """
    offsets = np.cumsum(sizes) - sizes
    return np.repeat(starts - offsets, sizes) + np.arange(sizes.sum())
