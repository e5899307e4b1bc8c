"""How a client's examples become batches."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.data import _hashing, _sources
from fedjax_core.engine import identities, ranges


@dataclasses.dataclass(frozen=True)
class Batching:
    """Epochs, shuffling and batch size, in the order in which they are applied.

    The examples of a client are repeated `num_epochs` times, the repeated stream is shuffled, and
    the shuffled stream is cut into batches. So batches cross epochs and only the last one may
    be partial, as with `dataset.repeat(num_epochs).shuffle(buffer_size).batch(batch_size)` of tf.data.

    Attributes:
      batch_size: number of examples in a batch, at least 1.
      num_epochs: how often every example occurs, at least 1. None repeats them as often as the step
        limits of the cohort take (`data.cohort(..., max_steps=...)`), which is then the only end.
      shuffle: whether the stream is shuffled; the cohort then needs a key.
      buffer_size: None shuffles the whole stream uniformly. A number shuffles within a window: the
        i-th example (from 0) comes from the first `i + buffer_size` of the stream. A window as
        long as the stream is uniform again.
      drop_remainder: whether a partial last batch is left out.

    Raises:
      TypeError: a size that is no integer, a switch that is no bool.
      ValueError: a size below 1, or a `buffer_size` without `shuffle`.

    Example:
      >>> Batching(batch_size=20, num_epochs=10, shuffle=True)
      Batching(batch_size=20, num_epochs=10, shuffle=True, buffer_size=None, drop_remainder=False)
      >>> Batching(batch_size=-1)
      Traceback (most recent call last):
      ValueError: Batching(batch_size=...) must be at least 1, got -1; for example Batching(batch_size=20)
    """

    batch_size: int
    num_epochs: int | None = 1
    shuffle: bool = False
    buffer_size: int | None = None
    drop_remainder: bool = False

    def __post_init__(self):
        self._check_size("batch_size", 20)
        if self.num_epochs is not None:
            self._check_size("num_epochs", 1)
        self._check_switch("shuffle")
        self._check_switch("drop_remainder")
        if self.buffer_size is not None:
            self._check_size("buffer_size", 100)
            if not self.shuffle:
                raise ValueError(
                    f"Batching(buffer_size={self.buffer_size}) is the window of a shuffle, got shuffle=False; use "
                    f"Batching(batch_size={self.batch_size}, shuffle=True, buffer_size={self.buffer_size})"
                )

    def _check_size(self, name: str, example: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"Batching({name}=...) must be an integer, got {value!r}; {_repaired(name, example)}")
        if value < 1:
            raise ValueError(f"Batching({name}=...) must be at least 1, got {value}; {_repaired(name, example)}")
        object.__setattr__(self, name, int(value))

    def _check_switch(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"Batching({name}=...) must be True or False, got {value!r}; {_repaired(name, True)}")
        object.__setattr__(self, name, bool(value))

    def num_steps(self, num_examples: np.ndarray, max_steps: np.ndarray | int | None = None) -> np.ndarray:
        """The number of batches that clients of these sizes take, int64.

        Args:
          num_examples: of each client, `[...]`.
          max_steps: at most so many, an integer or `[...]`; needed with `num_epochs=None`.

        Raises:
          ValueError: there is no end.

        Example:
          >>> Batching(batch_size=20, num_epochs=2).num_steps([15, 100, 0], max_steps=5)
          array([2, 5, 0])
        """
        check_end(self, max_steps)
        sizes = np.asarray(num_examples, np.int64)
        if self.num_epochs is None:
            return np.where(sizes > 0, np.asarray(max_steps, np.int64), 0)
        stream = sizes * self.num_epochs
        steps = stream // self.batch_size if self.drop_remainder else -(-stream // self.batch_size)
        return steps if max_steps is None else np.minimum(steps, np.asarray(max_steps, np.int64))


def _repaired(name: str, value) -> str:
    batch_size = "" if name == "batch_size" else "batch_size=20, "
    return f"for example Batching({batch_size}{name}={value})"


@dataclasses.dataclass(frozen=True, eq=False)
class BatchedClients:
    """The batches of the clients of a cohort: the `ClientSequences` of `engine`.

    Attributes:
      source: where the examples lie.
      clients: int32 `[C]`, the source's number of each client of the cohort.
      digests: uint64 `[C]`, `client_digests` of the ids, from which all randomness of a client comes.
      batching: how examples become batches.
      seed: uint64 `[1]` from the key, or None without shuffling.
      max_steps: int64 `[C]`, at most so many batches a client, the first ones; or None.
    """

    source: _sources.ExampleSource
    clients: np.ndarray
    digests: np.ndarray
    batching: Batching
    seed: np.ndarray | None
    max_steps: np.ndarray | None = None

    @functools.cached_property
    def element_type(self) -> types.Type:
        return batch_type(self.source.element)

    @property
    def batch_size(self) -> int:
        return self.batching.batch_size

    @functools.cached_property
    def num_examples(self) -> np.ndarray:
        return _sources.sizes_of(self.source, self.clients)

    @functools.cached_property
    def num_steps(self) -> np.ndarray:
        return self.batching.num_steps(self.num_examples, self.max_steps)

    @functools.cached_property
    def _seeds(self) -> np.ndarray:
        assert self.seed is not None  # there is one where the batching shuffles
        return _hashing.fold(self.seed, identities(self.digests))

    def batch_rows(self, clients: np.ndarray) -> np.ndarray:
        sizes, steps = self.num_examples[clients], self.num_steps[clients]
        lengths = _stream_lengths(self.batching, sizes, steps)
        step = ranges(np.zeros_like(steps), steps).astype(np.int32)
        rows = step[:, None] * np.int32(self.batch_size) + np.arange(self.batch_size, dtype=np.int32)
        padding = rows >= np.repeat(lengths, steps)[:, None]
        if self.seed is not None:
            stream = shuffled(lengths, self._seeds[clients], self.batching.buffer_size)
            offset = np.repeat(np.cumsum(lengths) - lengths, steps)
            rows = np.take(stream, offset[:, None] + rows, mode="clip")
        if self.batching.num_epochs != 1:
            rows %= np.repeat(sizes, steps).astype(np.int32)[:, None]
        rows[padding] = -1
        return rows

    def read(self, clients: np.ndarray, out: Any) -> None:
        self.source.read(self.clients[clients].astype(np.int64), out)


def _stream_lengths(batching: Batching, sizes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The length of the stream that each client's batches are cut from: whole epochs, int64."""
    if batching.num_epochs is not None:
        return sizes * batching.num_epochs
    return -(-steps * batching.batch_size // np.maximum(sizes, 1)) * sizes


def check_end(batching: Batching, max_steps) -> None:
    """Refuses batches without an end.

    Raises:
      ValueError: neither epochs nor steps are limited.
    """
    if batching.num_epochs is None and max_steps is None:
        raise ValueError(
            f"{batching} repeats the examples without end and needs a step limit, got none; use "
            "data.cohort(client_ids, batching, key=key, max_steps=100), or set num_epochs"
        )


def step_limits(batching: Batching, max_steps: int | np.ndarray | None, num_clients: int) -> np.ndarray | None:
    """The step limit of each client, int64 `[num_clients]`, or None.

    Raises:
      TypeError: it is not of integers.
      ValueError: it is negative, there is not one a client, or it is missing.
    """
    check_end(batching, max_steps)
    if max_steps is None:
        return None
    limits = np.asarray(max_steps)
    if limits.dtype.kind not in "iu" and limits.size:
        raise TypeError(
            f"cohort(max_steps=...) is an integer, or has one a client, got {max_steps!r}; for example max_steps=100"
        )
    if limits.shape not in ((), (num_clients,)):
        raise ValueError(
            f"cohort(max_steps=...) is an integer, or has one a client, got the shape {limits.shape} for "
            f"{num_clients} clients"
        )
    if (limits < 0).any():
        raise ValueError(f"cohort(max_steps=...) must be at least 0, got {limits.min()}; 0 is a client without steps")
    return np.broadcast_to(limits.astype(np.int64), (num_clients,))


def batch_type(element: Any) -> types.Type:
    """The type of any number of examples, such as `<x=float32[?,784],y=int32[?]>`."""
    return types.type_of(jax.tree.map(lambda e: types.TensorType(e.dtype, (None, *e.shape)), element))


def shuffled(lengths: np.ndarray, seeds: np.ndarray, buffer_size: int | None) -> np.ndarray:
    """Permutes the stream of every client on its own.

    Args:
      lengths: int64 `[C]`.
      seeds: uint64 `[C]`; the permutation of a client is a function of its seed and length alone.
      buffer_size: the window, or None for the whole stream.

    Returns:
      int32 `[sum(lengths)]`: for one client after another a permutation of `arange(length)`, sorted by tags.
      With a window of b the tag of position p is uniform in [p, p + b), so that at least `p - b + 1`
      positions come before it: the i-th is one of the first i + b.
    """
    positions = ranges(np.zeros_like(lengths), lengths)
    tag = _hashing.tags(np.repeat(seeds, lengths), positions)
    if buffer_size is not None:
        start = np.where(np.repeat(lengths <= buffer_size, lengths), 0, positions)
        tag = (start + buffer_size * _hashing.uniform(tag)).view(np.uint64)  # floats >= 0 sort like their bits
    return positions.astype(np.int32)[_grouped_argsort(tag, lengths)]


def _grouped_argsort(tag: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`np.lexsort((tag, client))`, several times faster: the client takes the place of the lowest bits."""
    client = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    bits = np.uint64(len(lengths).bit_length())
    packed = (client << (np.uint64(64) - bits)) | (tag >> bits)
    order = np.argsort(packed, kind="stable")
    ordered = packed[order]
    if (ordered[1:] == ordered[:-1]).any():
        return np.lexsort((tag, client))
    return order
