"""Who was left out of a round, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core.algorithms._guard import REASONS
from fedjax_core.language import Placed, federated_aggregate, federated_client_index

_LISTED = 20
_NOBODY = np.uint32(2**32 - 1)  # behind everybody


def by_reason(reason: jax.Array) -> dict[str, jax.Array]:
    """One for the reason that a client was left out for, int32, zero for the others."""
    return {name: (reason == i).astype(jnp.int32) for i, name in enumerate(REASONS)}


def listed_clients(reason: Placed) -> Placed:
    """The clients of the smallest rows in the population that a round has left out, up to 20.

    Neither the order of the cohort nor the number of devices matters. A client drawn twice is in it twice.

    Args:
      reason: int32 at CLIENTS, the number of a reason, -1 for a client that was not left out.

    Returns:
      At SERVER, `client`, int32 `[20]`, rows, and `reason`, int32 `[20]`; -1 where there are fewer.
    """
    return federated_aggregate((federated_client_index(), reason), _nobody, _add, _merge, _report)


def _nobody() -> jax.Array:
    """The empty list: in the order of their rows, uint32 `[20]`, four times the row and the reason."""
    return jnp.full(_LISTED, _NOBODY)


def _add(listed: jax.Array, client: tuple) -> jax.Array:
    row, reason = client
    return _insert(listed, jnp.where(reason < 0, _NOBODY, 4 * row.astype(jnp.uint32) + reason.astype(jnp.uint32)))


def _insert(listed: jax.Array, entry: jax.Array) -> jax.Array:
    """The list with an entry in its place: those before it stay, those behind it move up by one."""
    before = jnp.concatenate([jnp.zeros(1, listed.dtype), listed[:-1]])
    return jnp.minimum(listed, jnp.maximum(entry, before))


def _merge(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda listed, entry: (_insert(listed, entry), None), a, b)[0]


def _report(listed: jax.Array) -> dict[str, jax.Array]:
    empty = listed == _NOBODY
    parts = {"client": listed // 4, "reason": listed % 4}
    return {name: jnp.where(empty, -1, part.astype(jnp.int32)) for name, part in parts.items()}


def left_out_clients(metrics: Any, client_ids: Sequence | Mapping[int, Any]) -> dict:
    """The clients that a round left out since something of theirs was not finite, up to 20 of them.

    Args:
      metrics: what a round of `compose` measured, as `process.next` returns it.
      client_ids: those of the data that the cohort came from, `data.client_ids` (of a subset or a split, or of the
        whole: their rows are the same); for a plain list of clients `range(len(clients))`.

    Returns:
      A dict from id to "update", "weight" or "metrics", the first of the three that was not finite. How many
      clients it were in all is counted in `num_non_finite_clients`.

    Raises:
      TypeError: `metrics` is not what a round of `compose` measured.

    Example:

    >>> import jax, numpy as np, optax, fedjax_core as fc
    >>> x = np.eye(2, dtype=np.float32)
    >>> clients = {"ann": {"x": x, "y": np.array([0, 1])}, "bob": {"x": np.nan * x, "y": np.array([0, 1])}}
    >>> data = fc.data.from_clients(clients)
    >>> process = fc.algorithms.fed_avg(fc.models.logistic_regression(2, 2), optax.sgd(0.1), key=jax.random.key(0))
    >>> cohort = data.cohort(["ann", "bob"], fc.data.Batching(batch_size=2))
    >>> state, metrics = process.next(process.initialize(), cohort)
    >>> fc.algorithms.left_out_clients(metrics, data.client_ids)
    {'bob': 'update'}
    """
    try:
        listed = jax.device_get(metrics["client_work"]["train"]["non_finite_clients"])
    except (KeyError, TypeError, IndexError):
        raise TypeError(
            "left_out_clients(metrics, client_ids) takes the metrics of a round of training, with "
            f"client_work.train.non_finite_clients, got {metrics!r}; write state, metrics = process.next(state, cohort)"
        ) from None
    pairs = zip(listed["client"].tolist(), listed["reason"].tolist())
    named, population = {}, getattr(client_ids, "population", client_ids)
    for row, reason in pairs:
        if row >= 0:
            named.setdefault(population[row], REASONS[reason])
    return named
