"""A check of the integers that clients hold, on the host, where their examples are read."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.engine._cohort import ClientSequences
from fedjax_core.language.graph import IntegerRange

Ranges = tuple[tuple[IntegerRange, ...], ...]
"""The ranges of each argument at CLIENTS, in order."""


def merged(one: Ranges, other: Ranges) -> Ranges:
    """The ranges of both, each once.

    Example:

    >>> merged((), ((IntegerRange("y", 0, 9),),))[0][0].greatest
    9
    """
    if not one or not other:
        return one or other
    return tuple(tuple(dict.fromkeys((*a, *b))) for a, b in zip(one, other))


def by_leaf(ranges: Ranges, value: Any) -> list[tuple[IntegerRange, ...]]:
    """The ranges of each leaf of a cohort's value; only an argument that is one sequence has any."""
    if not ranges:
        return [()] * len(jax.tree.leaves(value))
    found = []
    for of_argument, argument in zip(ranges, (value,) if len(ranges) == 1 else value):
        leaves = jax.tree.leaves(argument)
        is_sequence = argument is leaves[0] if leaves else False
        found += [of_argument if is_sequence else ()] * len(leaves)
    return found


def check_ranges(
    ranges: tuple[IntegerRange, ...], sequences: ClientSequences, clients: np.ndarray, ids: Sequence, examples: Any
) -> None:
    """Raises ValueError if an integer is outside its range, with the client and the value.

    Args:
      ranges: what the fields may hold.
      sequences: the batches of all clients of the cohort.
      clients: the positions in the cohort of those that were read.
      ids: the ids of all clients of the cohort.
      examples: a pytree of `[rows, ...]`, the examples of `clients` one after another.
    """
    if not ranges:
        return
    names = [path for path, _ in types.type_leaves(sequences.element_type)]
    fields = dict(zip(names, jax.tree.leaves(examples)))
    for expected in ranges:
        rows = fields.get(expected.field)
        if rows is None or not rows.size or (rows.min() >= expected.least and rows.max() <= expected.greatest):
            continue
        wrong = (rows < expected.least) | (rows > expected.greatest)
        if expected.also is not None:
            wrong &= rows != expected.also
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0].tolist())
            ends = np.cumsum(sequences.num_examples[clients])
            client = ids[int(clients[np.searchsorted(ends, place[0], side="right")])]
            raise ValueError(_message(expected, client, rows[place]))


def _message(expected: IntegerRange, client: Any, value: Any) -> str:
    also = "" if expected.also is None else f", or {expected.also}"
    return (
        f"client {client!r} has {value} in field {expected.field!r}, which must be from {expected.least} to "
        f"{expected.greatest}{also}, {expected.what}; renumber the values with data.map, or make a model that has more "
        "of them; to train without this check write process.with_config(fc.EngineConfig(check_ranges=False))"
    )
