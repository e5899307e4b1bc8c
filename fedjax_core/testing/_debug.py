"""Finds where the training of a client stops being finite."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.engine import ClientSequences, Cohort
from fedjax_core.templates import LearningProcess
from fedjax_core.testing._laws import as_numpy


class NonFinite(NamedTuple):
    """The first NaN or infinity in the training of a client.

    Attributes:
      step: the step that caused it, counted from 1; 0 if it was there before the first step.
      leaf: its place in the client's `ClientResult` or in the server's weights, for example
        `update['kernel'][0, 2]`.
      value: the value at that place.
      data: the first entry of the step's batch that is not finite, for example `['x'][3, 0]`; None if all are finite.
    """

    step: int
    leaf: str
    value: float
    data: str | None


def debug_client(process: LearningProcess, state: Any, client: Any) -> NonFinite | None:
    """Runs one client of a round step by step and finds where its result first stops being finite.

    Use it for a client that a round has left out, which `algorithms.left_out_clients` names. The client is run for
    the first step of the round, then for the first two, and so on, each time with the keys of the round, so the
    time grows with the square of the number of steps.

    Args:
      process: a process made by `algorithms.compose` or by an algorithm that is built on it.
      state: the state before the round.
      client: a cohort of one client, `data.cohort([client_id], batching, key=...)` as in the round; a list of
        batches; or one batch.

    Returns:
      A `NonFinite`, or None if the result is finite after every step.

    Raises:
      TypeError: the process has no `client_results`, or `client` is not one of these.
      ValueError: `client` is a cohort of several clients or of none.

    Example: the learning rate is far too large.

    >>> import jax, optax, fedjax_core as fc
    >>> process = fc.algorithms.fed_avg(fc.models.logistic_regression(1, 2), optax.sgd(1e30), key=jax.random.key(0))
    >>> batch = {"x": np.full((1, 1), 1e20, np.float32), "y": np.array([0])}
    >>> found = debug_client(process, process.initialize(), [batch, batch, batch])
    >>> print(found.step, found.leaf)
    1 update['kernel'][0, 0]
    """
    results = getattr(process, "client_results", None)
    if results is None:
        raise TypeError(
            f"debug_client(process=...) must be a learning process with `client_results`, got {process!r}; "
            "fc.algorithms.compose makes one, and so do the algorithms that are built on it"
        )
    if found := _first("weights", process.get_model_weights(state)):
        return NonFinite(0, *found, None)
    number, up_to, batch = _steps(client)
    for step in range(number + 1):
        answer = results(state, up_to(step))
        found = _first("", jax.tree.map(lambda leaf: leaf[0], answer))
        if found:
            data = _first("", batch(step - 1)) if step else None
            return NonFinite(step, *found, data and data[0])
    return None


def _first(name: str, tree: Any) -> tuple[str, float] | None:
    """The first entry that is not finite, by its path, and its value."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = as_numpy(leaf)
        if not jnp.issubdtype(array.dtype, jnp.inexact) or np.isfinite(array).all():
            continue
        index = np.argwhere(~np.isfinite(array))[0].tolist()
        place = f"{name}{jax.tree_util.keystr(path)}".lstrip(".") + (f"{index}" if index else "")
        return place, array[tuple(index)].item()
    return None


def _steps(client: Any) -> tuple[int, Callable, Callable]:
    """The number of a client's steps, `number -> the client with only its first steps`, and `step -> batch`."""
    if isinstance(client, Cohort):
        return _steps_of_cohort(client)
    batches = client if isinstance(client, list) else [client]
    if not batches or not jax.tree.leaves(batches[0]):
        raise TypeError(
            f"debug_client(client=...) must be a cohort of one client, or its batches, got {client!r}; write "
            "data.cohort([client_id], batching)"
        )
    return len(batches), lambda number: [batches[:number]], lambda step: batches[step]


def _steps_of_cohort(cohort: Cohort) -> tuple[int, Callable, Callable]:
    if len(cohort) != 1:
        raise ValueError(
            f"debug_client(client=...) must be a cohort of one client, got {len(cohort)}; write "
            "data.cohort([client_id], batching)"
        )
    whole = cohort.value
    rows, examples = whole.batch_rows(np.zeros(1, np.int32)), _examples(whole)

    def batch(step: int):
        kept = rows[step][rows[step] >= 0]
        return jax.tree.map(lambda x: x[kept], examples)

    return len(rows), lambda number: dataclasses.replace(cohort, value=_FirstSteps(whole, number)), batch


def _examples(sequences: ClientSequences) -> Any:
    """All examples of the only client."""
    number = int(sequences.num_examples[0])
    element = types.tree_of_types(sequences.element_type)
    out = jax.tree.map(lambda t: np.zeros((number, *t.shape[1:]), t.dtype), element)
    sequences.read(np.zeros(1, np.int32), out)
    return out


@dataclasses.dataclass(frozen=True, eq=False)
class _FirstSteps:
    """The `ClientSequences` of one client, cut off after some steps."""

    whole: ClientSequences
    number: int

    element_type = property(lambda self: self.whole.element_type)
    batch_size = property(lambda self: self.whole.batch_size)
    width = property(lambda self: self.whole.width)
    num_examples = property(lambda self: self.whole.num_examples)
    num_steps = property(lambda self: np.minimum(self.whole.num_steps, self.number))

    def batch_rows(self, clients: np.ndarray) -> np.ndarray:
        return self.whole.batch_rows(clients)[: len(clients) * self.number]

    def read(self, clients: np.ndarray, out: Any) -> None:
        self.whole.read(clients, out)
