"""The cohort: the clients of one round, described but not yet read."""

import dataclasses
import functools
from collections.abc import Mapping
from collections.abc import Sequence as AbstractSequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.engine._identity import identities


@runtime_checkable
class ClientSequences(Protocol):
    """One sequence argument of a cohort: the batches of each of its `C` clients.

    This is the whole contract between a data source and the engine. A client owns
    `num_examples` rows of examples and takes `num_steps` batches. A batch is a row of `B`
    positions among the client's own examples, so epochs and shuffling are integers, and an
    example is stored once however often it is used.

    Attributes:
      element_type: the type of one batch. Every leaf has the leading dimension `?`; where a
        batch is a single element, none has.
      batch_size: the number of examples in a batch that is full, which may be more than any client has.
      width: `B`, at most `batch_size` and at least the examples of the largest batch of any of the clients: what the
        engine pads batches to (see `batch_width`).
      num_examples: int64 `[C]`.
      num_steps: int64 `[C]`.
    """

    element_type: types.Type
    batch_size: int
    width: int
    num_examples: np.ndarray
    num_steps: np.ndarray

    def batch_rows(self, clients: np.ndarray) -> np.ndarray:
        """The batches of `clients` (positions in the cohort), one client after another.

        Returns:
          int32 `[sum(num_steps[clients]), B]`: positions among the client's own examples,
          -1 where the batch has no example.

        Example: one client with five examples, in batches of two.

        >>> import numpy as np, fedjax_core as fc
        >>> data = fc.data.from_clients({"ada": {"x": np.ones(5, np.float32)}})
        >>> cohort = data.cohort(["ada"], fc.data.Batching(batch_size=2))
        >>> cohort.value.batch_rows(np.array([0])).tolist()
        [[0, 1], [2, 3], [4, -1]]
        """
        ...

    def read(self, clients: np.ndarray, out: Any) -> None:
        """Copies the examples of `clients` (positions in the cohort) into `out`.

        It is called by the thread that calls the computation, once after another; if the object has an attribute
        `is_thread_safe` that is true, by several threads at once.

        Args:
          clients: int32 positions in the cohort.
          out: a pytree of arrays like the element's, with `sum(num_examples[clients])` rows,
            to be filled one client after another.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """The clients of one round. Nothing is read before a computation needs it.

    Attributes:
      ids: the clients' ids, a sequence of strings or integers; a client may occur more than once. A cohort of
        `FederatedData` holds a view of the population's ids, which makes each id when it is looked at.
      value: what each client holds: a pytree whose leaves are `ClientSequences` or arrays
        `[C, ...]`, one row per client.
      client_index: int32 `[C]`, each client's row in the population, of which the data may be a subset or a split.
      digests: uint64 `[C]`, `client_digests(ids)`.
      extra: what `federated_client_value` reads: arrays `[C, ...]` by name, one row per client.
      population: the number of clients in the population; None where it is not known, as for a plain list.
      packed: the engine's cache, the only part of a cohort that changes: for each layout, how the cohort runs on it and
        what was read for that. It lives as long as the cohort, so a cohort is read once for many calls.

    Example:

    >>> import numpy as np, fedjax_core as fc
    >>> data = fc.data.from_clients({name: {"x": np.ones((5, 2), np.float32)} for name in ("ada", "bob", "cyd")})
    >>> cohort = data.cohort(["cyd", "ada"], fc.data.Batching(batch_size=2))
    >>> cohort
    Cohort(2 clients of <x=float32[?,2]>*)
    >>> cohort.client_index.tolist(), cohort.population  # rows of the population, not places in the cohort
    ([2, 0], 3)
    """

    ids: AbstractSequence
    value: Any
    client_index: np.ndarray
    digests: np.ndarray
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    population: int | None = None
    packed: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def identity(self) -> np.ndarray:
        """uint64 `[C]`: the number from which all randomness of a client is folded."""
        return identities(self.digests)

    @functools.cached_property
    def member_type(self) -> types.Type:
        """The type of one client's value."""
        return types.type_of(jax.tree.map(_leaf_type, self.value))

    @functools.cached_property
    def extra_type(self) -> types.Type:
        """The type of the values that accompany one client's value, by name."""
        return types.type_of({name: types.TensorType(x.dtype, x.shape[1:]) for name, x in self.extra.items()})

    @property
    def __jax_array__(self):
        # `jit` and its kin look for this attribute in an argument that JAX does not know. They let a ValueError pass.
        raise ValueError(
            "a cohort is packed by the call that takes it, so it cannot be an argument under jit, grad, vmap or scan; "
            "leave jit out, since process.next(state, cohort) is compiled already, or write "
            "jax.jit(process.next.as_function())(state, fc.pack_cohort(cohort))"
        )

    def __repr__(self) -> str:
        return f"Cohort({len(self)} clients of {self.member_type})"


def _leaf_type(leaf) -> types.Type:
    if isinstance(leaf, ClientSequences):
        return types.SequenceType(leaf.element_type)
    return types.TensorType(leaf.dtype, leaf.shape[1:])
