"""Clients of different speeds: how many steps they take, when they report, and which reports a round waits for."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _batching, _federated_data, _hashing
from fedjax_core.data._effort import Effort
from fedjax_core.data._participation import (
    Participation,
    PerClient,
    Stage,
    check_positive,
    lasting,
    per_client,
)


def local_effort(
    effort: Effort,
    data: _federated_data.FederatedData,
    batching: _batching.Batching,
    *,
    steps_per_second: PerClient | None = None,
    examples_per_second: PerClient | None = None,
) -> Stage:
    """Determines how many steps each client takes and when it then reports.

    With `Effort(max_seconds=...)` a slow client takes fewer steps, and nobody is late. With other limits it takes all
    its steps, and `deadline` or `first_to_report` may not wait for it.

    Args:
      effort: the limits.
      data: the population, of which only the sizes are used; no examples are read.
      batching: the batching of the rounds' cohorts.
      steps_per_second: the clients' speed, positive: a number, a dict by client id, or a function
        `(round_num, ids) -> [C]`, such as `lognormal_speeds(...)`.
      examples_per_second: the same speed in examples, for a step of `batch_size` examples. Give one of the two.

    Returns:
      A stage for `participation`. It sets `max_steps`, and `seconds` if there is a speed.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: both speeds are given, the effort limits seconds and no speed is given, a speed is not positive and
        finite, or the effort's epochs are not the batching's.

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
        raise TypeError(
            f"local_effort takes the FederatedData of the clients, got {type(data).__name__}; for example "
            "FederatedData.from_clients({'ada': {'x': [1.0]}})"
        )
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
    """Speeds for a population of fast and slow clients; a client has the same speed in every round.

    Args:
      median: the speed that half of the clients exceed, in steps or examples per second, positive.
      sigma: standard deviation of the logarithm of the speed, at least 0. With 0.5, one client in six is more than
        1.65 times slower than the median.
      key: draws the speeds.

    Returns:
      A function `(round_num, ids) -> [C]` for `local_effort`.

    Raises:
      TypeError: `median` or `sigma` is not a number, or `key` is not a typed key.
      ValueError: a number is outside its range.

    Example:
      >>> lognormal_speeds(10.0, 0.0, key=jax.random.key(0))(1, ("ada", "bob"))
      array([10., 10.])
    """
    median = _checks.checked_number("lognormal_speeds(median=...)", median, _checks.POSITIVE, "write median=10.0")
    sigma = _checks.checked_number("lognormal_speeds(sigma=...)", sigma, _checks.NOT_NEGATIVE, "write sigma=0.5")
    seed = _hashing.seed(key, "lognormal_speeds")

    def speeds(round_num: int, ids: Sequence) -> np.ndarray:
        radius, angle = (_hashing.uniform(_hashing.fold(lasting(seed, ids), i)) for i in (0, 1))
        return median * np.exp(sigma * np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle))  # Box and Muller

    return speeds


def deadline(seconds: float) -> Stage:
    """Removes clients that report too late.

    Args:
      seconds: the latest time for a report, in seconds from the start of the round, positive. A client limited by
        `Effort(max_seconds=...)` finishes the step during which its seconds run out, so it reports a little later
        than that limit.

    Returns:
      A stage for `participation`, to be placed after a `local_effort` with a speed. It counts the clients it removes
      as `late`.

    Raises:
      TypeError: `seconds` is not a number.
      ValueError: `seconds` is not positive and finite; or, in the first round, no stage before it says when clients
        report.

    Example:
      >>> from fedjax_core import data as fd
      >>> data = fd.from_clients({"ada": {"x": np.zeros(100)}, "bob": {"x": np.zeros(200)}})
      >>> work = local_effort(Effort(max_epochs=1), data, fd.Batching(batch_size=10), steps_per_second=2.0)
      >>> fd.participation(fd.fixed_cohorts([data.client_ids]), work, deadline(8.0))(1).ids
      ClientIds('ada')
    """
    seconds = _checks.checked_number("deadline(seconds=...)", seconds, _checks.POSITIVE, "write seconds=60.0")

    def stage(round_num: int, participation: Participation) -> Participation:
        if participation.seconds is None:
            raise ValueError(
                f"deadline({seconds}) needs to know when clients report, got a participation without report times; "
                "put local_effort(effort, data, batching, steps_per_second=10.0) before it"
            )
        return participation.keep(participation.seconds <= seconds, "late")

    return stage


def first_to_report(num_clients: int) -> Stage:
    """Keeps only the first clients to report, for a sampler that selects more than are needed ("over-selection").

    Args:
      num_clients: number of clients to keep, at least 0. Among clients that report at the same time, those selected
        first are kept; without `local_effort` these are the first in the sampler's order.

    Returns:
      A stage for `participation`, to be placed after `local_effort`. It counts the clients it removes as `surplus`.

    Raises:
      TypeError: `num_clients` is not an integer.
      ValueError: `num_clients` is negative.

    Example:
      >>> from fedjax_core import data as fd
      >>> data = fd.from_clients({"ada": {"x": np.zeros(100)}, "bob": {"x": np.zeros(90)}})
      >>> work = local_effort(Effort(max_epochs=1), data, fd.Batching(batch_size=10), steps_per_second=2.0)
      >>> fd.participation(fd.fixed_cohorts([data.client_ids]), work, first_to_report(1))(1).ids
      ClientIds('bob')
    """
    call, repair = "first_to_report(num_clients=...)", "write num_clients=10"
    num_clients = _checks.checked_integer(call, num_clients, 0, repair)

    def stage(round_num: int, participation: Participation) -> Participation:
        seconds = np.zeros(len(participation.ids)) if participation.seconds is None else participation.seconds
        here = np.zeros(len(participation.ids), bool)
        here[np.argsort(seconds, kind="stable")[:num_clients]] = True
        return participation.keep(here, "surplus")

    return stage


def minimum_reports(num_clients: int) -> Stage:
    """Skips the round if too few clients report.

    Args:
      num_clients: number of reports that the round needs, at least 0.

    Returns:
      A stage for `participation`, to be placed last. The participation of a skipped round has no clients, and its
      `skipped` is True; `next` is then not called, so the state does not change.

    Raises:
      TypeError: `num_clients` is not an integer.
      ValueError: `num_clients` is negative.

    Example:
      >>> from fedjax_core import data as fd
      >>> fd.participation(fd.fixed_cohorts([["ada", "bob"]]), minimum_reports(3))(1).metrics()
      {'selected': 2, 'unavailable': 0, 'dropped': 0, 'late': 0, 'surplus': 0, 'reported': 2, 'skipped': 1}
    """
    call, repair = "minimum_reports(num_clients=...)", "write num_clients=10"
    num_clients = _checks.checked_integer(call, num_clients, 0, repair)

    def stage(round_num: int, participation: Participation) -> Participation:
        if participation.reported >= num_clients:
            return participation
        nobody = participation.keep(np.zeros(len(participation.ids), bool), "skipped")
        return nobody._replace(lost=participation.lost, skipped=True)

    return stage
