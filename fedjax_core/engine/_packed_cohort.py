"""Cohorts as pytrees of arrays, for the traced entry.

Under `jit`, `grad`, `vmap` and `scan` the host cannot plan, so a cohort is packed beforehand: all its clients are the
lanes of one block, and its index has as many steps as the longest of them takes.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._execution import only_lane
from fedjax_core.engine._packing import fill_index, read_examples
from fedjax_core.language import ClientBatches


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedCohort:
    """A cohort as a pytree of arrays, which can enter `jit`, `grad`, `vmap` and `scan`.

    `pack_cohort` makes one; `stack_cohorts` makes several of the same shape, which can be scanned over.

    Attributes:
      value: a pytree of arrays `[C, ...]` and of sequences whose index is int32 `[S, C, B]`, the steps of all clients.
      identity: uint32 `[C, 2]`.
      client_index: int32 `[C]`.
      extra: what `federated_client_value` reads, arrays `[C, ...]` by name.
      population: the number of clients in the population, as in a `Cohort`; static when a function is traced.
    """

    value: Any
    identity: jax.Array | np.ndarray
    client_index: jax.Array | np.ndarray
    extra: dict[str, Any]
    population: int | None = dataclasses.field(default=None, metadata={"static": True})


def pack_cohort(cohort: Cohort) -> PackedCohort:
    """Packs a cohort for `Computation.as_function`.

    Args:
      cohort: from `FederatedData.cohort`.

    Returns:
      A pytree of arrays, in which each example is stored once.

    Raises:
      TypeError: `cohort` is not a `Cohort`.

    Example:

    >>> import numpy as np, fedjax_core as fc
    >>> data = fc.data.from_clients({"a": {"x": np.ones((5, 2), np.float32)}})
    >>> packed = fc.pack_cohort(data.cohort(["a"], fc.data.Batching(batch_size=2)))
    >>> packed.value.index.shape
    (3, 1, 2)
    """
    return stack_cohorts([cohort], axis=None)


def stack_cohorts(cohorts: Iterable[Cohort], *, axis: int | None = 0) -> PackedCohort:
    """Packs cohorts with the same number of clients to one shape and stacks them, for a `scan` over rounds.

    Args:
      cohorts: one per round.
      axis: 0, or None for a single cohort without the leading dimension.

    Returns:
      A `PackedCohort` whose leaves have a leading dimension over the rounds.

    Raises:
      TypeError: one of them is not a `Cohort`, or their clients have different types.
      ValueError: there is no cohort, or they have different numbers of clients or different populations.

    Example: the shorter round gets the shape of the longer one.

    >>> import numpy as np, fedjax_core as fc
    >>> data = fc.data.from_clients({"a": {"x": np.ones((5, 2), np.float32)}, "b": {"x": np.ones((2, 2), np.float32)}})
    >>> rounds = fc.stack_cohorts(data.cohort([i], fc.data.Batching(batch_size=2)) for i in ["a", "b"])
    >>> rounds.value.index.shape, rounds.value.num_batches.tolist()
    ((2, 3, 1, 2), [[3], [1]])
    """
    cohorts = list(cohorts)
    for cohort in cohorts:
        if not isinstance(cohort, Cohort):
            raise TypeError(
                f"expected a cohort, got {type(cohort).__name__}; make one with data.cohort(client_ids, batching)"
            )
    if len({len(c) for c in cohorts}) != 1:
        raise ValueError(f"stacked cohorts must have equally many clients, got {[len(c) for c in cohorts]}")
    for cohort in cohorts:
        if not cohorts[0].member_type.is_equivalent_to(cohort.member_type):
            raise TypeError(
                f"stacked cohorts must have clients of one type, got {cohorts[0].member_type} and {cohort.member_type}"
            )
        if cohorts[0].population != cohort.population:
            raise ValueError(
                "stacked cohorts must come from one population, since a client's row in it is packed, got populations "
                f"of {cohorts[0].population} and {cohort.population} clients; draw them all from one FederatedData"
            )
        if not cohorts[0].extra_type.is_equivalent_to(cohort.extra_type):
            raise TypeError(
                f"stacked cohorts must have the same values beside their data, got {cohorts[0].extra_type} and "
                f"{cohort.extra_type}; give data.cohort(..., extra={{...}}) the same names and types each round"
            )
    # JAX arrays even where nothing is stacked: batches are gathered with `.at`, which NumPy arrays do not have.
    packed = _packed_alike(cohorts)
    if axis is None:
        return jax.tree.map(jnp.asarray, packed[0])
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *packed)


def _packed_alike(cohorts: list[Cohort]) -> list[PackedCohort]:
    """The cohorts as NumPy arrays of the same shapes."""

    def leaf(*columns):
        if not isinstance(columns[0], ClientSequences):
            return list(columns)
        steps = max(int(s.num_steps.max(initial=1)) for s in columns)
        rows = 1 + max(int(s.num_examples.sum()) for s in columns)
        width = max(s.width for s in columns)
        return [_one_block(s, steps, rows, width) for s in columns]

    structure = jax.tree.structure(cohorts[0].value)
    columns = [leaf(*leaves) for leaves in zip(*(jax.tree.leaves(c.value) for c in cohorts))]
    return [
        PackedCohort(
            jax.tree.unflatten(structure, [column[i] for column in columns]),
            cohort.identity.view(np.uint32).reshape(-1, 2),
            cohort.client_index,
            dict(cohort.extra),
            cohort.population,
        )
        for i, cohort in enumerate(cohorts)
    ]


def _one_block(sequences: ClientSequences, num_steps: int, num_rows: int, width: int) -> ClientBatches:
    """The clients as the lanes of one block that starts at step 0."""
    everyone = np.arange(len(sequences.num_steps))
    index = np.zeros((num_steps, len(everyone), width), np.int32)
    fill_index(index, sequences, everyone[None], np.zeros(1, np.int32))
    # A lane without steps still computes them, and its gradient is finite only if the result that it throws away is:
    # the client looks at another client's example where there is one.
    index[:, sequences.num_steps == 0] = min(1, int(sequences.num_examples.sum()))
    return ClientBatches(
        examples=read_examples(sequences, everyone, num_rows, np.zeros),
        index=index,
        first=np.int32(0),
        common=sequences.num_steps.min(initial=num_steps).astype(np.int32),
        bound=np.int32(num_steps),
        num_batches=sequences.num_steps.astype(np.int32),
        element=sequences.element_type,
        trip_count=num_steps,
    )


def one_sequence(cohort: Cohort) -> ClientBatches:
    """The batches of the only client of a cohort, for as many steps as that client has."""
    packed = jax.tree.map(jnp.asarray, _packed_alike([cohort])[0].value)
    return dataclasses.replace(only_lane(packed), bound=packed.num_batches[0], guarded=False, trip_count=None)
