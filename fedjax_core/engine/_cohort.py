"""The cohort: the clients of one round, described but not yet read."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from collections.abc import Sequence as AbstractSequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from fedjax_core import types

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the increment of splitmix64


@runtime_checkable
class ClientSequences(Protocol):
    """One sequence argument of a cohort: the batches of each of its `C` clients.

    This is the whole contract between a data source and the engine. A client owns
    `num_examples` rows of examples and takes `num_steps` batches; a batch is a row of `B`
    positions among the client's own examples, so epochs and shuffling are integers and an
    example is stored once however often it is used.

    Attributes:
      element_type: the type of one batch; every leaf has the leading dimension `?`, or none
        has one where a batch is a single element.
      batch_size: `B`, the largest number of examples in a batch.
      num_examples: int64 `[C]`.
      num_steps: int64 `[C]`.
    """

    element_type: types.Type
    batch_size: int
    num_examples: np.ndarray
    num_steps: np.ndarray

    def batch_rows(self, clients: np.ndarray) -> np.ndarray:
        """The batches of `clients` (positions in the cohort), one client after another.

        Returns:
          int32 `[sum(num_steps[clients]), B]`: positions among the client's own examples,
          -1 where the batch has no example.
        """
        ...

    def read(self, clients: np.ndarray, out: Any) -> None:
        """Copies the examples of `clients` (positions in the cohort) into `out`.

        Args:
          clients: int32 positions in the cohort.
          out: a pytree of arrays like the element's, with `sum(num_examples[clients])` rows,
            to be filled one client after another.
        """
        ...


def client_digests(ids: AbstractSequence) -> np.ndarray:
    """A stable 64-bit digest of each client id, uint64 `[len(ids)]`.

    It depends on nothing but the id (a string, or an integer of any width), so the randomness
    of a client is the same in every cohort, process and session.
    """
    return np.fromiter((_digest(i) for i in ids), np.uint64, len(ids))


def _digest(client_id) -> int:
    if isinstance(client_id, str):
        data = b"s" + client_id.encode()
    elif isinstance(client_id, int | np.integer) and not isinstance(client_id, bool):
        data = b"i" + str(int(client_id)).encode()
    else:
        raise TypeError(
            f"a client id is a string or an integer, got {client_id!r} of type {type(client_id).__name__}; "
            f"use str({client_id!r})"
        )
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def identities(digests: np.ndarray) -> np.ndarray:
    """Tells apart the occurrences of a client that a cohort holds more than once.

    Args:
      digests: uint64 `[C]`, `client_digests` of the cohort's ids, in cohort order.

    Returns:
      uint64 `[C]`: the digest itself for the first occurrence of a client, another value for
      every further one. All randomness of a client comes from this number.
    """
    ordered = np.sort(digests)
    if not np.any(ordered[1:] == ordered[:-1]):
        return digests  # `mix` maps 0 to 0, and a million clients need not be held twice
    with np.errstate(over="ignore"):
        return digests ^ mix(_occurrences(digests) * GOLDEN)


def _occurrences(digests: np.ndarray) -> np.ndarray:
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    position = np.arange(len(ordered))
    first = np.maximum.accumulate(np.where(starts, position, 0))
    result = np.empty(len(ordered), np.uint64)
    result[order] = position - first
    return result


def mix(z: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014), a bijection of uint64 that maps 0 to 0."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """The clients of one round. Nothing is read before a computation needs it.

    Attributes:
      ids: the clients' ids, strings or integers; a client may occur more than once.
      value: what each client holds: a pytree whose leaves are `ClientSequences` or arrays
        `[C, ...]`, one row a client.
      client_index: int32 `[C]`, each client's row in the population.
      digests: uint64 `[C]`, `client_digests(ids)`.
      extra: what `federated_client_value` reads: arrays `[C, ...]` by name, one row a client.
      packed: the engine's cache, which alone of a cohort changes: how it runs on each layout, and what was read of it
        for that. It lives as long as the cohort, which so is read once for many calls.
    """

    ids: tuple
    value: Any
    client_index: np.ndarray
    digests: np.ndarray
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    packed: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def identity(self) -> np.ndarray:
        """uint64 `[C]`: what all randomness of a client is folded from."""
        return identities(self.digests)

    @functools.cached_property
    def member_type(self) -> types.Type:
        """The type of one client's value."""
        return types.type_of(jax.tree.map(_leaf_type, self.value))

    @functools.cached_property
    def extra_type(self) -> types.Type:
        """The type of what comes in beside one client's value, by name."""
        return types.type_of({name: types.TensorType(x.dtype, x.shape[1:]) for name, x in self.extra.items()})

    def __repr__(self) -> str:
        return f"Cohort({len(self)} clients of {self.member_type})"


def _leaf_type(leaf) -> types.Type:
    if isinstance(leaf, ClientSequences):
        return types.SequenceType(leaf.element_type)
    return types.TensorType(leaf.dtype, leaf.shape[1:])
