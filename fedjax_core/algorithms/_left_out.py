"""Who was left out of a round, and why."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core.algorithms._guard import REASONS
from fedjax_core.language import Placed, federated_aggregate, federated_client_index, federated_map, federated_sum

_LISTED = 20
_NOBODY = jnp.iinfo(jnp.int32).max  # behind all rows of a population


class _Listed(NamedTuple):
    """The clients of the smallest rows in the population that were left out, in their order.

    Attributes:
      client: int32 `[20]`, rows.
      reason: int32 `[20]`, numbers of reasons.
    """

    client: jax.Array
    reason: jax.Array


def left_out(reason: Placed) -> dict[str, Placed]:
    """The metrics of a round about the clients that it left out.

    Args:
      reason: int32 at CLIENTS, the number of a reason, -1 for a client that was not left out.

    Returns:
      At SERVER, `num_non_finite_clients`: int32 by reason; and `non_finite_clients`: `client` and `reason`, both
      int32 `[20]`, of the clients of the smallest rows in the population, so that neither the order of the cohort
      nor the number of devices matters; -1 where there are fewer.
    """
    numbers = federated_sum(federated_map(_by_reason, reason))
    rows = federated_client_index()
    return {
        "num_non_finite_clients": numbers,
        "non_finite_clients": federated_aggregate((rows, reason), _nobody, _add, _merge, _report),
    }


def _by_reason(reason):
    return {name: (reason == i).astype(jnp.int32) for i, name in enumerate(REASONS)}


def _nobody() -> _Listed:
    return _Listed(jnp.full(_LISTED, _NOBODY, jnp.int32), jnp.full(_LISTED, -1, jnp.int32))


def _add(listed: _Listed, client: tuple) -> _Listed:
    row, reason = client
    # Hardly a client is left out, and the list would be moved for each of them.
    return jax.lax.cond(reason >= 0, lambda: _insert(listed, row, reason), lambda: listed)


def _insert(listed: _Listed, row, reason) -> _Listed:
    """The list with a client in its place; the last one drops out. A client drawn twice is in it twice."""
    before = (listed.client < row) | ((listed.client == row) & (listed.reason <= reason))
    place, position = jnp.sum(before), jnp.arange(_LISTED)

    def put(entries, entry):
        moved = jnp.where(position == place, entry, jnp.roll(entries, 1))
        return jnp.where(position < place, entries, moved)

    return _Listed(put(listed.client, row), put(listed.reason, reason))


def _merge(a: _Listed, b: _Listed) -> _Listed:
    def both():
        return jax.lax.scan(lambda listed, client: (_insert(listed, *client), None), a, b)[0]

    return jax.lax.cond(b.reason[0] >= 0, both, lambda: a)


def _report(listed: _Listed) -> dict:
    return {"client": jnp.where(listed.client == _NOBODY, -1, listed.client), "reason": listed.reason}


def left_out_clients(metrics: Any, client_ids: Sequence) -> dict:
    """The clients that a round left out since something of theirs was not finite, up to 20 of them.

    Args:
      metrics: what a round of `compose` measured, as `process.next` returns it.
      client_ids: those of the data that the cohort came from, `data.client_ids`; for a plain list of clients
        `range(len(clients))`.

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
    named = {}
    for row, reason in pairs:
        if row >= 0:
            named.setdefault(client_ids[row], REASONS[reason])
    return named
