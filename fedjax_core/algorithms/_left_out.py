"""The clients that were left out of a round, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core.algorithms._guard import REASONS
from fedjax_core.language import Placed, federated_aggregate, federated_client_index

_LISTED = 20
_NOBODY = np.uint32(2**32 - 1)  # sorts behind every client


def by_reason(reason: jax.Array) -> dict[str, jax.Array]:
    """For each reason, int32: one if the client was left out for it, otherwise zero."""
    return {name: (reason == i).astype(jnp.int32) for i, name in enumerate(REASONS)}


def listed_clients(reason: Placed) -> Placed:
    """Lists up to 20 clients that a round has left out, those with the smallest rows in the population.

    The list depends neither on the order of the cohort nor on the number of devices. A client that was drawn twice is
    listed twice.

    Args:
      reason: int32 at CLIENTS, the number of the reason; -1 for a client that was not left out.

    Returns:
      At SERVER, `client`, int32 `[20]`, the clients' rows, and `reason`, int32 `[20]`; both are filled up with -1.
    """
    return federated_aggregate((federated_client_index(), reason), _nobody, _add, _merge, _report)


def _nobody() -> jax.Array:
    """The empty list. An entry is four times a client's row plus the reason; entries are sorted, uint32 `[20]`."""
    return jnp.full(_LISTED, _NOBODY)


def _add(listed: jax.Array, client: tuple) -> jax.Array:
    row, reason = client
    return _insert(listed, jnp.where(reason < 0, _NOBODY, 4 * row.astype(jnp.uint32) + reason.astype(jnp.uint32)))


def _insert(listed: jax.Array, entry: jax.Array) -> jax.Array:
    """The list with a new entry in its place: smaller entries stay, larger entries move back by one."""
    before = jnp.concatenate([jnp.zeros(1, listed.dtype), listed[:-1]])
    return jnp.minimum(listed, jnp.maximum(entry, before))


def _merge(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda listed, entry: (_insert(listed, entry), None), a, b)[0]


def _report(listed: jax.Array) -> dict[str, jax.Array]:
    empty = listed == _NOBODY
    parts = {"client": listed // 4, "reason": listed % 4}
    return {name: jnp.where(empty, -1, part.astype(jnp.int32)) for name, part in parts.items()}


def left_out_clients(metrics: Any, client_ids: Sequence | Mapping[int, Any]) -> dict:
    """Names up to 20 clients that a round left out because their results were not finite.

    Args:
      metrics: the metrics of a round of `compose`, as `process.next` returns them.
      client_ids: the ids of the data that the cohort came from, `data.client_ids`. Those of a subset, of a split and
        of the whole population have the same rows, so either will do. For a plain list of clients use
        `range(len(clients))`.

    Returns:
      A dict from id to "update", "weight" or "metrics", the first of the three that was not finite.
      `num_non_finite_clients` in the metrics counts all such clients.

    Raises:
      TypeError: `metrics` are not the metrics of a round of `compose`.

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
