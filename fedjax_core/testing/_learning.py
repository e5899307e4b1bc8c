"""The laws of algorithms."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.data import Batching, FederatedData
from fedjax_core.templates import LearningProcess
from fedjax_core.testing._laws import chosen, compare, hold, sentences
from fedjax_core.testing._padding import extreme_rows, with_padding
from fedjax_core.testing._rounds import SHARED, Cases, Rounds, check_finite

_FEWEST = 11  # more than the engine has virtual shards, so that there are several waves
_WITHOUT = 2


def _padding(rounds: Rounds):
    """Clients without examples do not change the weights."""
    found = rounds.run(rounds.cases.padded)
    weights = rounds.process.get_model_weights
    compare(*([weights(o.state) for o in outputs] for outputs in (rounds.expected, found)), tolerance=rounds.tolerance)


def _masks(rounds: Rounds):
    """The mask leaves padding out: how many rows of it a batch has, and what they hold, changes only the rounding."""
    data: FederatedData = rounds.given
    padded = with_padding(rounds.process.next, data)
    for row in extreme_rows(data):
        found = rounds.run_another(padded, [(*arguments, row) for arguments in rounds.cases.usual])
        compare(rounds.expected, found, rounds.tolerance)


def _empty(rounds: Rounds):
    """A round without clients does not change a bit of the state except `round_num`."""
    state = rounds.expected[-1].state
    (output,) = rounds.run(rounds.cases.nobody, state)
    compare(_without_round_num(state), _without_round_num(output.state))


def _without_round_num(state: Any) -> Any:
    def leaf(path, x):
        name = getattr(path[-1], "name", getattr(path[-1], "key", None)) if path else None
        return None if name == "round_num" else x

    return jax.tree_util.tree_map_with_path(leaf, state)


def _weights(rounds: Rounds):
    """Getting the weights returns those that were set, setting the same ones changes nothing, and a report exists."""
    process, state = rounds.process, rounds.expected[-1].state
    weights = process.get_model_weights(state)
    compare(weights, process.get_model_weights(process.set_model_weights(process.initialize(), weights)))
    compare(jax.tree.leaves(state), jax.tree.leaves(process.set_model_weights(state, weights)))
    expected, found = process.report.type_signature.result, types.type_of(process.report(state))
    if not expected.is_assignable_from(found):
        raise AssertionError(f"report: expected {expected}, found {found}")


def _non_finite(rounds: Rounds):
    """A client with NaN leaves no trace: the state and the next round are the same as without that client."""
    spoilt, spared = rounds.run(rounds.cases.non_finite), rounds.run(rounds.cases.spared)
    compare(*([output.state for output in outputs] for outputs in (spared, spoilt)), tolerance=rounds.tolerance)
    compare(spared[-1].metrics, spoilt[-1].metrics, rounds.tolerance)
    check_finite([output.state for output in rounds.expected], [output.state for output in spoilt])


_LAWS = {
    **SHARED,
    "non_finite": _non_finite,
    "masks": _masks,
    "padding": _padding,
    "empty": _empty,
    "weights": _weights,
}

LEARNING_PROCESS_LAWS = sentences(_LAWS)
"""The laws of algorithms: the name and the sentence of each."""


def check_learning_process(
    process: LearningProcess | Callable[[], LearningProcess],
    data: FederatedData,
    batching: Batching | None = None,
    *,
    laws: Iterable[str] | str = LEARNING_PROCESS_LAWS,
    memory_budget: int = 1,
    tolerance: float = 2e-5,
) -> None:
    """Checks that an algorithm keeps the laws of learning processes.

    Two rounds with all clients of the data except the last two run on one lane of one device, and again under
    variations that must not matter. If your algorithm breaks a law by design, leave the law out of its check:
    `laws=LEARNING_PROCESS_LAWS.keys() - {"empty"}` if its aggregator always releases. To check one law alone,
    pass `laws="order"`.

    Args:
      process: the process, or a function that makes it; only with a function does `same_key` compare two
        processes that were built with the same key.
      data: some small clients, at least eleven. The last two lose their examples for the law `padding`.
      batching: how examples become batches, without shuffling; None means `Batching(batch_size=4)`.
      laws: the names of the laws, from `LEARNING_PROCESS_LAWS`.
      memory_budget: bytes, so few that a round needs several waves; it must be larger than 1 if the algorithm
        collects something from every client.
      tolerance: the relative and absolute tolerance of floats where lanes or padding change the order of sums.

    Raises:
      AssertionError: a law is broken. The message has the name, the sentence and the difference of every broken
        law; a path such as `[1].state.weights['w'][0]` begins with the index of the round.
      ValueError: a name in `laws` is not a law, or there are too few clients.
      TypeError: `process` is neither a `LearningProcess` nor a function that returns one.

    Example:

    >>> import jax, optax, fedjax_core as fc
    >>> clients = [{"x": np.eye(2, dtype=np.float32)[:n], "y": np.arange(n)} for n in (0, 1, 2) * 4]
    >>> model = fc.models.logistic_regression(2, 2)
    >>> def algorithm():
    ...     return fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    >>> check_learning_process(algorithm, fc.data.from_clients(clients), laws=["empty", "weights"])
    """
    names = chosen("check_learning_process", laws, _LAWS)
    build = (lambda: process) if isinstance(process, LearningProcess) else process
    first = build() if callable(build) else build
    if not isinstance(first, LearningProcess):
        raise TypeError(
            f"check_learning_process takes a LearningProcess or a function that returns one, got {process!r}"
        )
    if len(data) < _FEWEST:
        raise ValueError(f"check_learning_process(data=...) must have at least {_FEWEST} clients, got {len(data)}")
    cases = _cases(data, Batching(4) if batching is None else batching)
    rounds = Rounds(first, build, cases, memory_budget=memory_budget, tolerance=tolerance, laws=names, given=data)
    hold("the learning process", _LAWS, names, rounds)


def _cases(data: FederatedData, batching: Batching) -> Cases:
    everyone = list(data.client_ids)
    present = everyone[:-_WITHOUT]
    shuffled = [present[i] for i in np.random.default_rng(0).permutation(len(present))]
    spoilt = present[int(np.argmax(data.sizes[: len(present)]))]

    def rounds(data, ids, number=2):
        return [(data.cohort(ids, batching),)] * number

    return Cases(
        usual=rounds(data, present),
        reordered=rounds(data, shuffled),
        padded=rounds(_changed(data, everyone[-_WITHOUT:], lambda x: x[:0]), everyone),
        nobody=rounds(data, [], 1),
        non_finite=[*rounds(_changed(data, [spoilt], _spoiled), present, 1), *rounds(data, present, 1)],
        spared=[*rounds(data, [i for i in present if i != spoilt], 1), *rounds(data, present, 1)],
    )


def _changed(data: FederatedData, ids: list, change: Callable) -> FederatedData:
    """The same clients with the arrays of some of them changed."""
    return FederatedData.from_clients({i: jax.tree.map(change, data[i]) if i in ids else data[i] for i in data})


def _spoiled(x: np.ndarray) -> np.ndarray:
    return np.full_like(x, np.nan) if jnp.issubdtype(x.dtype, jnp.inexact) else x
