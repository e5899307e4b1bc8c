"""Which selected clients report back.

A sampler selects the clients of a round. Stages then say, one after another, which of them drop out and how far the
others get. A stage is a function `(round_num, Participation) -> Participation`. `_availability.py` and
`_stragglers.py` provide some; your own keeps some of the clients:

```python
def charging(round_num, participation):
    return participation.keep([plugged_in(i, round_num) for i in participation.ids], "not_charging")
```

All of them are pure functions of their key, the round number and the client ids, so a resumed run needs no other
state. The clients that remain are an ordinary cohort: a round with dropouts equals, bit for bit, a round for which
only the remaining clients were selected.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _hashing, _ids
from fedjax_core.data._samplers import Sampler
from fedjax_core.data._sampling import checked_round, numbers
from fedjax_core.engine import client_digests, identities

REASONS = ("unavailable", "dropped", "late", "surplus")
"""The reasons for which the stages of this room remove a client."""

PerClient = float | Mapping | Callable
"""A number for all clients, a dict by client id, or a function `(round_num, ids) -> [C]`."""


class Participation(NamedTuple):
    """The clients that remain in a round, and how many were lost for which reason.

    Attributes:
      ids: the ids of the `C` remaining clients, in the order in which they were selected: `ClientIds` if the sampler
        returns these, otherwise a tuple.
      identity: uint64 `[C]`, from which all of a client's randomness derives: it depends on the client's id and, if a
        client was selected repeatedly, on the occurrence.
      max_steps: int64 `[C]`, for `data.cohort(..., max_steps=...)`; None if nothing limits the steps.
      seconds: float64 `[C]`, from the start of the round until the client reports; None if no stage models speed.
      selected: number of clients that were selected.
      lost: number of clients that were lost, by reason.
      skipped: whether to skip the round because too few clients reported; `ids` is then empty.
      extra: values of each client for `data.cohort(..., extra=...)`: a dict from name to either an array with one row
        for each of `ids`, or a dict from client id to value.

    Example: a stage that limits one client to a single step.

      >>> from fedjax_core import data as fd
      >>> def ada_stops(round_num, participation):
      ...     return participation._replace(max_steps=np.array([1 if i == "ada" else 9 for i in participation.ids]))
      >>> fd.participation(fd.fixed_cohorts([["bob", "ada"]]), ada_stops)(1).max_steps
      array([9, 1])
    """

    ids: Sequence
    identity: np.ndarray
    max_steps: np.ndarray | None
    seconds: np.ndarray | None
    selected: int
    lost: dict[str, int]
    skipped: bool = False
    extra: Mapping[str, Any] = MappingProxyType({})

    def keep(self, here: np.ndarray, reason: str) -> "Participation":
        """Keeps some of the clients and counts the others as lost.

        Args:
          here: bool `[C]`, which clients to keep.
          reason: the name under which the others are counted in `lost`.

        Raises:
          ValueError: `here` does not have one bool per client.

        Example:
          >>> from fedjax_core import data as fd
          >>> selected = fd.participation(fd.fixed_cohorts([["ada", "bob", "eve"]]))(1)
          >>> kept = selected.keep([True, False, True], "on_battery")
          >>> kept.ids, kept.lost["on_battery"]
          (('ada', 'eve'), 1)
        """
        here = np.asarray(here, bool if len(self.ids) == 0 else None)
        if here.shape != (len(self.ids),) or here.dtype != bool:
            raise ValueError(
                f"Participation.keep takes one bool per client, got {here.dtype}{list(here.shape)} for {len(self.ids)} "
                "clients; for example participation.seconds < 60"
            )
        return self._replace(
            ids=_ids.taken(self.ids, np.flatnonzero(here)),
            identity=self.identity[here],
            max_steps=None if self.max_steps is None else self.max_steps[here],
            seconds=None if self.seconds is None else self.seconds[here],
            lost={**self.lost, reason: self.lost.get(reason, 0) + int((~here).sum())},
            extra={name: _rows_of(values, here) for name, values in self.extra.items()},
        )

    @property
    def reported(self) -> int:
        """The number of clients that reported, also in a skipped round."""
        return self.selected - sum(self.lost.values())

    def metrics(self) -> dict[str, int]:
        """The participation metrics of the round: `selected`, a count for each reason, `reported`, `skipped` (0 or 1).

        Example:
          >>> from fedjax_core import data as fd
          >>> fd.participation(fd.fixed_cohorts([["ada", "bob"]]), fd.first_to_report(1))(1).metrics()
          {'selected': 2, 'unavailable': 0, 'dropped': 0, 'late': 0, 'surplus': 1, 'reported': 1, 'skipped': 0}
        """
        return {"selected": self.selected, **self.lost, "reported": self.reported, "skipped": int(self.skipped)}


def _rows_of(values: Any, here: np.ndarray) -> Any:
    return values if isinstance(values, Mapping) else np.asarray(values)[here]


Stage = Callable[[int, Participation], Participation]


def participation(sampler: Sampler, *stages: Stage) -> Callable[[int], Participation]:
    """Selects the clients of a round and passes them through the stages, in the given order.

    Args:
      sampler: round number -> the ids of the selected clients, such as `uniform_sampler(...)`.
      *stages: `(round_num, participation) -> participation`, such as `dropout(0.1, key=key)`.

    Returns:
      A function from the round number (at least 0) to a `Participation`.

    Raises:
      TypeError: the sampler or a stage is not a function.

    Example: 13 clients are selected and the first 10 to report are kept; if fewer than 8 report, the round is skipped.

      >>> import jax
      >>> from fedjax_core import data as fd
      >>> data, key = fd.synthetic_iid(num_clients=100, key=jax.random.key(0)), jax.random.key(1)
      >>> batching, effort = fd.Batching(batch_size=10, num_epochs=None), fd.Effort(max_steps=50, max_seconds=60.0)
      >>> first = fd.participation(
      ...     fd.uniform_sampler(data.client_ids, 13, key=key),
      ...     fd.available(fd.diurnal(0.8, 1.0, rounds_per_day=100, key=key), key=key),
      ...     fd.dropout(0.05, key=key),
      ...     fd.local_effort(effort, data, batching, steps_per_second=fd.lognormal_speeds(1.0, 0.5, key=key)),
      ...     fd.first_to_report(10),
      ...     fd.minimum_reports(8),
      ... )(1)
      >>> first.metrics()
      {'selected': 13, 'unavailable': 3, 'dropped': 0, 'late': 0, 'surplus': 0, 'reported': 10, 'skipped': 0}
      >>> cohort = data.cohort(first.ids, batching, max_steps=first.max_steps)

    References:
      Bonawitz et al. 2019, Towards Federated Learning at Scale: System Design, sections 2 and 4 (over-selection,
      deadlines and minimum numbers of reports).
    """
    for value in (sampler, *stages):
        if not callable(value):
            raise TypeError(
                f"participation takes functions, got {value!r}; for example "
                "participation(uniform_sampler(ids, 10, key=key), dropout(0.1, key=key))"
            )

    def select(round_num: int) -> Participation:
        round_num = checked_round("participation", "round_num", round_num)
        ids = _ids.sequence(sampler(round_num))
        identity = identities(client_digests(ids))
        current = Participation(ids, identity, None, None, len(ids), dict.fromkeys(REASONS, 0))
        for stage in stages:
            current = _checked(stage, stage(round_num, current))
        return current

    if hasattr(sampler, "sampling"):
        # The sampler's privacy accounting carries over: it assumes that what a client holds does not decide its loss.
        select.sampling = sampler.sampling
    return select


def _checked(stage: Stage, participation: Participation) -> Participation:
    if not isinstance(participation, Participation):
        raise TypeError(
            f"a stage of participation must return a Participation, got {participation!r} from {stage!r}; end it with "
            "`return participation.keep(here, 'my_reason')`"
        )
    return participation


def chance(seed: np.ndarray, round_num: int, participation: Participation) -> np.ndarray:
    """A number in [0, 1) for each client, which depends on seed, round and client only, float64 `[C]`."""
    return _hashing.uniform(_hashing.fold(seed, round_num, participation.identity))


def lasting(seed: np.ndarray, ids: Sequence) -> np.ndarray:
    """64 random bits for each client, the same in every round, uint64 `[C]`."""
    return _hashing.fold(seed, client_digests(ids))


def per_client(what: str, value: PerClient, check: Callable[[str, np.ndarray], None]) -> Callable:
    """Turns a number, a dict or a function into a function `(round_num, ids) -> float64 [C]`.

    Args:
      what: how an error names the argument, such as `dropout(probability=...)`.
      value: the argument.
      check: `(what, values)`, raises for wrong values. It sees values that are already known now, and those of a
        function in each round.

    Raises:
      TypeError: `value` is none of the three.
    """
    if isinstance(value, Mapping):
        check(what, numbers(what, list(value.values()), "for example {'ada': 0.5}"))
    elif not callable(value):
        number = np.asarray(value)
        if number.shape or number.dtype.kind not in "iuf":
            raise TypeError(
                f"{what} must be a number, a dict by client id or a function (round_num, ids) -> [C], got {value!r}; "
                "for example lambda round_num, ids: [values[i] for i in ids]"
            )
        check(what, number)

    def values(round_num: int, ids: Sequence) -> np.ndarray:
        if isinstance(value, Mapping):
            return np.fromiter((_of_client(what, value, i) for i in ids), np.float64, len(ids))
        given = np.asarray(value(round_num, ids) if callable(value) else value, np.float64)
        if given.shape not in ((), (len(ids),)):
            raise ValueError(
                f"{what} must give one value per client, got the shape {given.shape} for {len(ids)} clients; "
                "for example lambda round_num, ids: [values[i] for i in ids]"
            )
        if callable(value):
            check(what, given)
        return np.broadcast_to(given, (len(ids),))

    return values


def _of_client(what: str, values: Mapping, client_id) -> float:
    if client_id not in values:
        raise ValueError(f"{what} must have a value for every client, got none for client {client_id!r}; add one")
    return values[client_id]


def check_probability(what: str, values: np.ndarray) -> None:
    """Raises ValueError unless all values are from 0 to 1."""
    wrong = values[~((values >= 0) & (values <= 1))]
    if wrong.size:
        raise ValueError(_checks.message(what, _checks.FROM_0_TO_1.words, wrong.flat[0].item(), "for example 0.1"))


def check_positive(what: str, values: np.ndarray) -> None:
    """Raises ValueError unless all values are positive and finite."""
    wrong = values[~((values > 0) & (values < np.inf))]
    if wrong.size:
        raise ValueError(_checks.message(what, _checks.POSITIVE.words, wrong.flat[0].item(), "for example 10.0"))
