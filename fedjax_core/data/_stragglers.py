"""Clients of different speed: how far they get, when they report, and for whom a round waits."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from fedjax_core.data import _batching, _federated_data, _hashing
from fedjax_core.data._effort import Effort
from fedjax_core.data._participation import (
    Participation,
    PerClient,
    Stage,
    check_number,
    check_positive,
    lasting,
    per_client,
)
from fedjax_core.data._sampling import count


def local_effort(
    effort: Effort,
    data: _federated_data.FederatedData,
    batching: _batching.Batching,
    *,
    steps_per_second: PerClient | None = None,
    examples_per_second: PerClient | None = None,
) -> Stage:
    """Says how many steps each client takes, and when it then reports.

    With `Effort(max_seconds=...)` a slow client takes fewer steps, and nobody is late; with other limits it takes
    all of them, and `deadline` or `first_to_report` may not wait for it.

    Args:
      effort: the limits.
      data: the population; its sizes are used, nothing is read.
      batching: the one that the cohorts of the rounds are made with.
      steps_per_second: the clients' speed, positive: a number, a dict by client id, or a function
        `(round_num, ids) -> [C]`, such as `lognormal_speeds(...)`.
      examples_per_second: the same, where a step takes as long as it takes to go through `batch_size` examples.

    Returns:
      A stage for `participation`; sets `max_steps`, and `seconds` if there is a speed.

    Raises:
      TypeError: an argument of another kind.
      ValueError: both speeds, none though the effort limits seconds, one that is not positive; other epochs
        than the batching's.

    Example:
      >>> from fedjax_core import data as fd
      >>> data = fd.from_clients({"ada": {"x": np.zeros(100)}, "bob": {"x": np.zeros(100)}, "eve": {"x": np.zeros(5)}})
      >>> batching = fd.Batching(batch_size=10, num_epochs=3)
      >>> speeds = {"ada": 5, "bob": 2, "eve": 5}
      >>> work = local_effort(Effort(max_seconds=2.0), data, batching, steps_per_second=speeds)
      >>> participation = fd.participation(fd.fixed_cohorts([data.client_ids]), work)(1)
      >>> participation.max_steps, participation.seconds
      (array([10,  4,  2]), array([2. , 2. , 0.4]))
    """
    if not isinstance(effort, Effort):
        raise TypeError(f"local_effort takes an Effort, got {effort!r}; for example Effort(max_seconds=60.0)")
    if not isinstance(data, _federated_data.FederatedData):
        raise TypeError(f"local_effort takes the FederatedData of the clients, got {type(data).__name__}")
    effort.check_batching(batching)
    speeds = _steps_per_second(effort, batching, steps_per_second, examples_per_second)

    def stage(round_num: int, participation: Participation) -> Participation:
        sizes = data.cohort(participation.ids, _UNSHUFFLED).value.num_examples
        speed = None if speeds is None else speeds(round_num, participation.ids)
        steps = effort.num_steps(sizes, batching, speed)
        return participation._replace(
            max_steps=steps, seconds=participation.seconds if speed is None else steps / speed
        )

    return stage


_UNSHUFFLED = _batching.Batching(batch_size=1)


def _steps_per_second(effort: Effort, batching: _batching.Batching, steps, examples) -> Callable | None:
    if steps is not None and examples is not None:
        raise ValueError(
            "local_effort takes one speed, got steps_per_second and examples_per_second; leave one of them out"
        )
    if examples is not None:
        speeds = per_client("local_effort(examples_per_second=...)", examples, check_positive)
        return lambda round_num, ids: speeds(round_num, ids) / batching.batch_size
    if steps is not None:
        return per_client("local_effort(steps_per_second=...)", steps, check_positive)
    if effort.max_seconds is not None:
        raise ValueError(f"local_effort({effort}) needs the clients' speed, got none; use steps_per_second=10.0")
    return None


def lognormal_speeds(median: float, sigma: float, *, key: jax.Array) -> Callable[[int, Sequence], np.ndarray]:
    """Speeds of a population with fast and slow clients; a client's is the same in every round.

    Args:
      median: half of the clients are faster, positive; in steps or examples a second.
      sigma: standard deviation of the logarithm, at least 0. With 0.5 one client in six is more than 1.65 times
        slower than the median.
      key: draws the speeds.

    Returns:
      A function `(round_num, ids) -> [C]` for `local_effort`.

    Raises:
      TypeError: `median` or `sigma` is no number, `key` no typed key.
      ValueError: the numbers are not as described.

    Example:
      >>> lognormal_speeds(10.0, 0.0, key=jax.random.key(0))(1, ("ada", "bob"))
      array([10., 10.])
    """
    check_number("lognormal_speeds(median=...)", median)
    check_number("lognormal_speeds(sigma=...)", sigma)
    check_positive("lognormal_speeds(median=...)", np.asarray(median))
    if not 0 <= sigma < np.inf:
        raise ValueError(f"lognormal_speeds(sigma=...) must be at least 0 and finite, got {sigma}; for example 0.5")
    seed = _hashing.seed(key, "lognormal_speeds")

    def speeds(round_num: int, ids: Sequence) -> np.ndarray:
        radius, angle = (_hashing.uniform(_hashing.fold(lasting(seed, ids), i)) for i in (0, 1))
        return median * np.exp(sigma * np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle))  # Box and Muller

    return speeds


def deadline(seconds: float) -> Stage:
    """Loses clients that report later than a time after the beginning of the round.

    Args:
      seconds: positive. Clients limited by `Effort(max_seconds=...)` end with the step within which these
        run out, a little later than that.

    Returns:
      A stage for `participation`, after `local_effort` with a speed; counts `late`.

    Raises:
      TypeError: `seconds` is no number.
      ValueError: `seconds` is not positive; or, in the first round, no stage before it says when clients report.

    Example:
      >>> from fedjax_core import data as fd
      >>> data = fd.from_clients({"ada": {"x": np.zeros(100)}, "bob": {"x": np.zeros(200)}})
      >>> work = local_effort(Effort(max_epochs=1), data, fd.Batching(batch_size=10), steps_per_second=2.0)
      >>> fd.participation(fd.fixed_cohorts([data.client_ids]), work, deadline(8.0))(1).ids
      ClientIds('ada')
    """
    check_number("deadline(seconds=...)", seconds)
    check_positive("deadline(seconds=...)", np.asarray(seconds))

    def stage(round_num: int, participation: Participation) -> Participation:
        if participation.seconds is None:
            raise ValueError(
                f"deadline({seconds}) needs to know when clients report, got a participation without a model of "
                "speed; put local_effort(effort, data, batching, steps_per_second=10.0) before it"
            )
        return participation.keep(participation.seconds <= seconds, "late")

    return stage


def first_to_report(num_clients: int) -> Stage:
    """Loses all but the first clients to report: the sampler asks for more than are needed ("over-selection").

    Args:
      num_clients: how many are needed. Among clients that report at the same time those that were asked
        first are taken, so without `local_effort` the first of the sampler's order.

    Returns:
      A stage for `participation`, after `local_effort`; counts `surplus`.

    Raises:
      TypeError: `num_clients` is no integer.
      ValueError: it is negative.

    Example:
      >>> from fedjax_core import data as fd
      >>> data = fd.from_clients({"ada": {"x": np.zeros(100)}, "bob": {"x": np.zeros(90)}})
      >>> work = local_effort(Effort(max_epochs=1), data, fd.Batching(batch_size=10), steps_per_second=2.0)
      >>> fd.participation(fd.fixed_cohorts([data.client_ids]), work, first_to_report(1))(1).ids
      ClientIds('bob')
    """
    num_clients = count("first_to_report", "num_clients", num_clients)

    def stage(round_num: int, participation: Participation) -> Participation:
        seconds = np.zeros(len(participation.ids)) if participation.seconds is None else participation.seconds
        here = np.zeros(len(participation.ids), bool)
        here[np.argsort(seconds, kind="stable")[:num_clients]] = True
        return participation.keep(here, "surplus")

    return stage


def minimum_reports(num_clients: int) -> Stage:
    """Skips the round if fewer clients report.

    Args:
      num_clients: how many are needed.

    Returns:
      A stage for `participation`, the last one. The participation of a skipped round has no clients and says `skipped`;
      `next` is then not called, so that the state stays what it is.

    Raises:
      TypeError: `num_clients` is no integer.
      ValueError: it is negative.

    Example:
      >>> from fedjax_core import data as fd
      >>> fd.participation(fd.fixed_cohorts([["ada", "bob"]]), minimum_reports(3))(1).metrics()
      {'selected': 2, 'unavailable': 0, 'dropped': 0, 'late': 0, 'surplus': 0, 'reported': 2, 'skipped': 1}
    """
    num_clients = count("minimum_reports", "num_clients", num_clients)

    def stage(round_num: int, participation: Participation) -> Participation:
        if participation.reported >= num_clients:
            return participation
        nobody = participation.keep(np.zeros(len(participation.ids), bool), "skipped")
        return nobody._replace(lost=participation.lost, skipped=True)

    return stage
