"""How a client's examples become batches."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from fedjax_core import _checks, types
from fedjax_core.data import _hashing, _sources
from fedjax_core.engine import batch_width, identities, ranges

_MOST_EXAMPLES = 2**31 - 1  # of a client in a round: their positions are int32


@dataclasses.dataclass(frozen=True)
class Batching:
    """How a client's examples are repeated, shuffled and cut into batches.

    The examples of a client are repeated `num_epochs` times, the repeated stream is shuffled, and the shuffled
    stream is cut into batches. Batches may therefore span epochs, and only the last one may be partial, as with
    `dataset.repeat(num_epochs).shuffle(buffer_size).batch(batch_size)` in tf.data.

    Attributes:
      batch_size: number of examples in a batch, at least 1. One beyond the clients' data costs nothing: batches are
        padded only to about the largest that a client of the cohort has, unless the computation declares their size.
      num_epochs: how often every example occurs, at least 1. With None the examples repeat without end, and the
        cohort needs a step limit (`data.cohort(..., max_steps=...)`).
      shuffle: whether the stream is shuffled; the cohort then needs a key.
      buffer_size: the window of the shuffle: the i-th example (from 0) comes from the first `i + buffer_size` of
        the stream. With None, or with a window as long as the stream, the whole stream is shuffled uniformly.
      drop_remainder: whether a partial last batch is dropped.

    Raises:
      TypeError: a size is not an integer, or a switch is not a bool.
      ValueError: a size is below 1, `num_epochs` or `buffer_size` is above 2**31 - 1, or there is a `buffer_size`
        without `shuffle`.

    Example:
      >>> Batching(batch_size=20, num_epochs=10, shuffle=True)
      Batching(batch_size=20, num_epochs=10, shuffle=True, buffer_size=None, drop_remainder=False)
      >>> Batching(batch_size=-1)
      Traceback (most recent call last):
      ValueError: Batching(batch_size=...) must be an integer of at least 1, got -1; write Batching(batch_size=20)
    """

    batch_size: int
    num_epochs: int | None = 1
    shuffle: bool = False
    buffer_size: int | None = None
    drop_remainder: bool = False

    def __post_init__(self):
        self._check_size("batch_size", 20, most=math.inf)
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

    def _check_size(self, name: str, example: int, most: float = _MOST_EXAMPLES) -> None:
        call, repair = f"Batching({name}=...)", _repaired(name, example)
        value = _checks.checked_integer(call, getattr(self, name), 1, repair, most)
        object.__setattr__(self, name, value)

    def _check_switch(self, name: str) -> None:
        value = _checks.checked_switch(f"Batching({name}=...)", getattr(self, name), _repaired(name, True))
        object.__setattr__(self, name, value)

    def num_steps(self, num_examples: np.ndarray, max_steps: np.ndarray | int | None = None) -> np.ndarray:
        """The number of batches of clients with these numbers of examples, int64.

        Args:
          num_examples: number of examples of each client, `[...]`.
          max_steps: upper limit, an integer or `[...]`; required with `num_epochs=None`.

        Raises:
          ValueError: `num_epochs` and `max_steps` are both None.

        Example:
          >>> Batching(batch_size=20, num_epochs=2).num_steps([15, 100, 0], max_steps=5)
          array([2, 5, 0])
        """
        check_end(self, max_steps)
        sizes = np.asarray(num_examples, np.int64)
        limits = _limits("num_steps", 0 if max_steps is None else max_steps)
        if self.num_epochs is None:
            return np.where(sizes > 0, limits, 0)
        stream = sizes * self.num_epochs
        size = min(self.batch_size, np.iinfo(np.int64).max)  # NumPy raises OverflowError for a larger integer
        steps = stream // size if self.drop_remainder else -(-stream // size)
        return steps if max_steps is None else np.minimum(steps, limits)


def _repaired(name: str, value) -> str:
    batch_size = "" if name == "batch_size" else "batch_size=20, "
    return f"write Batching({batch_size}{name}={value})"


@dataclasses.dataclass(frozen=True, eq=False)
class BatchedClients:
    """The batches of the clients of a cohort: the `ClientSequences` of `engine`.

    Attributes:
      source: the store of the examples.
      clients: int32 `[C]`, the number that each client of the cohort has in the source.
      digests: uint64 `[C]`, `client_digests` of the ids, from which all of a client's randomness derives.
      batching: how examples become batches.
      seed: uint64 `[1]`, derived from the key; None without shuffling.
      max_steps: int64 `[C]`, the limit on each client's batches, of which the first are taken; or None.
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
    def is_thread_safe(self) -> bool:
        return _sources.is_thread_safe(self.source)

    @property
    def batch_size(self) -> int:
        return self.batching.batch_size

    @functools.cached_property
    def width(self) -> int:
        _check_positions(self.batching, self.num_examples, self.num_steps)
        streams = _stream_lengths(self.batching, self.num_examples, self.num_steps)
        return batch_width(int(streams.max(initial=0, where=self.num_steps > 0)), self.batch_size)

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
        # A client with a second step has a stream longer than a batch, so beyond int32 the size is never multiplied.
        size = np.int32(min(self.batch_size, _MOST_EXAMPLES))
        rows = step[:, None] * size + np.arange(self.width, dtype=np.int32)
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
    """The length in examples of the stream that each client's batches are cut from: whole epochs, int64."""
    if batching.num_epochs is not None:
        return sizes * batching.num_epochs
    return -(-steps * batching.batch_size // np.maximum(sizes, 1)) * sizes


def _check_positions(batching: Batching, sizes: np.ndarray, steps: np.ndarray) -> None:
    """Raises ValueError if the positions of a client's examples in its stream do not fit int32."""
    most, largest = int(steps.max(initial=0)), int(sizes.max(initial=0))
    length = most * batching.batch_size
    if batching.num_epochs is not None:  # a shuffled stream is drawn as a whole, whatever the number of steps
        stream = largest * batching.num_epochs
        length = stream if batching.shuffle else min(length, stream)
    if length + largest > _MOST_EXAMPLES:
        raise ValueError(
            f"{batching} gives a client {length} examples in a round, got at most {most} steps and {largest} examples "
            f"of its own, and the engine counts up to {_MOST_EXAMPLES}; use a smaller batch_size, num_epochs or "
            "max_steps, for example Batching(batch_size=20)"
        )


def check_end(batching: Batching, max_steps) -> None:
    """Raises ValueError unless the number of epochs or of steps is limited."""
    if batching.num_epochs is None and max_steps is None:
        raise ValueError(
            f"{batching} repeats the examples endlessly and needs a step limit, got none; use "
            "data.cohort(client_ids, batching, key=key, max_steps=100), or set num_epochs"
        )


def step_limits(batching: Batching, max_steps: int | np.ndarray | None, num_clients: int) -> np.ndarray | None:
    """The step limit of each client, int64 `[num_clients]`, or None.

    Raises:
      TypeError: a limit is not an integer.
      ValueError: a limit is negative, there is not one limit per client, or the batching needs one and has none.
    """
    check_end(batching, max_steps)
    if max_steps is None:
        return None
    limits = _limits("cohort", max_steps)
    if limits.shape not in ((), (num_clients,)):
        raise ValueError(
            f"cohort(max_steps=...) must be an integer or one integer per client, got the shape {limits.shape} for "
            f"{num_clients} clients; for example max_steps=100"
        )
    return np.broadcast_to(limits, (num_clients,))


def _limits(caller: str, max_steps: Any) -> np.ndarray:
    """Step limits as int64, checked: in an array of uint64 they might turn negative."""
    limits = np.asarray(max_steps)
    if limits.dtype == object and all(isinstance(limit, int) for limit in limits.flat):
        # Python integers beyond 64 bits, which are out of range in any case.
        limits = np.asarray(np.clip(limits, -1, 2**63), np.float64)
    elif limits.dtype.kind not in "iu" and limits.size:
        raise TypeError(
            f"{caller}(max_steps=...) must be an integer or one integer per client, got {_checks.shown(max_steps)}; "
            "for example max_steps=100"
        )
    if (limits < 0).any():
        raise ValueError(
            f"{caller}(max_steps=...) must be at least 0, got {_checks.shown(max_steps)}; use 0 for no steps"
        )
    if (limits >= 2**63).any():
        raise ValueError(
            f"{caller}(max_steps=...) must be below 2**63, got {_checks.shown(max_steps)}; for no limit leave it out"
        )
    return limits.astype(np.int64)


def batch_type(element: Any) -> types.Type:
    """The type of a batch of any number of examples, such as `<x=float32[?,784],y=int32[?]>`."""
    return types.type_of(jax.tree.map(lambda e: types.TensorType(e.dtype, (None, *e.shape)), element))


def shuffled(lengths: np.ndarray, seeds: np.ndarray, buffer_size: int | None) -> np.ndarray:
    """Permutes each client's stream independently.

    Args:
      lengths: int64 `[C]`, the lengths of the streams.
      seeds: uint64 `[C]`; a client's permutation depends only on its seed, its length and the window.
      buffer_size: the window, or None for the whole stream.

    Returns:
      int32 `[sum(lengths)]`: client after client, a permutation of `arange(length)`, obtained by sorting random tags.
      With a window of b the tag of position p is uniform in [p, p + b), so at least `p - b + 1` positions come
      before it: the i-th example is one of the first i + b.
    """
    positions = ranges(np.zeros_like(lengths), lengths)
    tag = _hashing.tags(np.repeat(seeds, lengths), positions)
    if buffer_size is not None:
        start = np.where(np.repeat(lengths <= buffer_size, lengths), 0, positions)
        tag = (start + buffer_size * _hashing.uniform(tag)).view(np.uint64)  # floats >= 0 sort like their bits
    return positions.astype(np.int32)[_grouped_argsort(tag, lengths)]


def _grouped_argsort(tag: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`np.lexsort((tag, client))`, several times faster: sorts integers made of the client and the tag's top bits.

    If two of these integers are equal, the dropped bits decide the order, and lexsort is used after all.
    """
    client = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    bits = np.uint64(len(lengths).bit_length())
    packed = (client << (np.uint64(64) - bits)) | (tag >> bits)
    order = np.argsort(packed, kind="stable")
    ordered = packed[order]
    if (ordered[1:] == ordered[:-1]).any():
        return np.lexsort((tag, client))
    return order
