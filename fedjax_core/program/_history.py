"""What the rounds of a run measured."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

_MAX_ENTRIES = 16


def named_values(value: Any) -> dict[str, Any]:
    """The leaves of a pytree, by their paths.

    Args:
      value: a pytree of numbers, arrays and, on the host, strings.

    Returns:
      A dict from path, such as `"train/loss"`, to a Python number for a scalar, a NumPy array for an array, or the leaf
      itself for anything else. Narrow floating-point types that NumPy lacks become float32.

    Example:
      >>> named_values({"train": {"loss": jax.numpy.bfloat16(0.5), "counts": np.array([3, 4])}})
      {'train/loss': 0.5, 'train/counts': array([3, 4])}
    """
    leaves = dict(_leaves(value, ()))
    plain = map(_plain, on_host(list(leaves.values())))
    return {sys.intern(name): leaf for name, leaf in zip(leaves, plain)}  # all rounds share one string per name


def on_host(value: Any) -> Any:
    """Applies `jax.device_get` to the JAX arrays among the leaves only, since it is slow for every leaf."""
    leaves, structure = jax.tree.flatten(value)
    away = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
    if not away:
        return value
    for i, leaf in zip(away, jax.device_get([leaves[i] for i in away])):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _leaves(value: Any, prefix: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The leaves and their paths, with dicts in their own order, which JAX does not keep."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, (*prefix, str(key)))
    elif jax.tree_util.all_leaves((value,)):
        yield "/".join(prefix) or "value", value
    else:
        for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
            yield "/".join([*prefix, jax.tree_util.keystr(path, simple=True, separator="/")]), leaf


def _plain(leaf: Any) -> Any:
    if not isinstance(leaf, np.ndarray | np.generic):
        return leaf
    if leaf.dtype.kind == "V":
        leaf = leaf.astype(np.float32)
    return leaf.item() if leaf.ndim == 0 else leaf


def flatten_metrics(metrics: Any) -> dict[str, float | int]:
    """The numbers in a pytree of metrics, by their paths.

    Args:
      metrics: a pytree of numbers and arrays. An array of up to 16 entries becomes one number per entry, `path/0`,
        `path/1`, ...; a larger one does not fit into a table and is left out.

    Returns:
      A dict from path, such as `"train/loss"`, to a Python number.

    Example:
      >>> flatten_metrics({"train": {"loss": np.float32(0.5), "counts": np.array([3, 4])}})
      {'train/loss': 0.5, 'train/counts/0': 3, 'train/counts/1': 4}
    """
    flat = {}
    for name, value in named_values(metrics).items():
        if not isinstance(value, np.ndarray):
            flat[name] = value
        elif value.size <= _MAX_ENTRIES:
            flat |= {f"{name}/{i}": entry for i, entry in enumerate(value.ravel().tolist())}
    return flat


class Record(NamedTuple):
    """One round in numbers.

    Attributes:
      round: the number of the round, from 1.
      seconds: the time since the run began, including held-out evaluation.
      round_seconds: the time of the round itself, without evaluation.
      num_clients: how many clients took part.
      metrics: what the process measured, flat; see `flatten_metrics`.
      held_out: what the evaluation measured after the round, flat; empty if there was no evaluation.
      left_out: the clients that the round left out because their result was not finite, up to 20 of them, each with
        the reason: `(("ada", "update"), ...)`.

    Example: a round of ten clients that left out two of them.
      >>> counts = {"client_work/train/num_non_finite_clients/update": 2}
      >>> record = Record(1, 0.5, 0.5, 10, {"train/loss": 0.412, **counts}, {}, (("ada", "update"), ("bob", "update")))
      >>> record.num_left_out, record.reasons_left_out, record.names_left_out
      (2, 'update 2', 'ada (update), bob (update)')
    """

    round: int
    seconds: float
    round_seconds: float
    num_clients: int
    metrics: dict[str, float | int]
    held_out: dict[str, float | int]
    left_out: tuple[tuple[int | str, str], ...] = ()

    def row(self) -> dict[str, float | int]:
        """All numbers of the record, by name; those of the evaluation begin with `held_out/`.

        Example:
          >>> row = Record(1, 0.51234567, 0.5, 10, {"train/loss": 2.0}, {"eval/loss": 1.5}).row()
          >>> print(*(f"{name}={value}" for name, value in row.items()))
          round=1 seconds=0.5123 round_seconds=0.5 num_clients=10 train/loss=2.0 held_out/eval/loss=1.5
        """
        own = {
            "round": self.round,
            "seconds": round(self.seconds, 4),
            "round_seconds": round(self.round_seconds, 4),
            "num_clients": self.num_clients,
        }
        return {**own, **self.metrics, **{f"held_out/{name}": value for name, value in self.held_out.items()}}

    def summary(self) -> str:
        """Loss, accuracy and privacy in words: `loss 0.412, accuracy 88.1 % · held-out loss 0.397 · epsilon 2.44`.

        It also says if the round was skipped, `skipped, 2 of 13 clients reported`, or left out clients,
        `left out all 10 clients (update 9, weight 1)`.

        Example: `token_accuracy` is the accuracy, since no metric is named just `accuracy`.
          >>> metrics = {"train/loss": 0.412, "train/token_accuracy": 0.881, "privacy/epsilon": 2.438}
          >>> Record(1, 0.5, 0.5, 10, metrics, {}).summary()
          'loss 0.412, accuracy 88.1 % · epsilon 2.44'
        """
        parts = [
            _skipped(self.metrics) if self.is_skipped else "",
            self._left_out_in_words(),
            _described(self.metrics),
            "held-out " + _described(self.held_out) if self.held_out else "",
        ]
        parts += [f"epsilon {self.metrics['privacy/epsilon']:.3g}"] if "privacy/epsilon" in self.metrics else []
        return " · ".join(filter(None, parts))

    @property
    def num_left_out(self) -> int:
        """How many clients the round left out because their result was not finite."""
        return int(sum(_left_out_by_reason(self.metrics).values()))

    @property
    def reasons_left_out(self) -> str:
        """What was not finite, and for how many clients: `update 9, weight 1`; empty if no client was left out."""
        return ", ".join(f"{reason} {number}" for reason, number in _left_out_by_reason(self.metrics).items() if number)

    @property
    def names_left_out(self) -> str:
        """The clients left out, by name: `ada (update), bob (weight)`; if there are more than 20, the first ones."""
        more = ", ..." if self.num_left_out > len(self.left_out) else ""
        return ", ".join(f"{client} ({reason})" for client, reason in self.left_out) + more

    @property
    def has_left_out_all(self) -> bool:
        """Whether the round left out every client that took part, or every one with examples.

        Example: one of two clients is left out, and the other has no examples.
          >>> train = {"num_non_finite_clients/update": 1, "num_examples": 0}
          >>> metrics = {f"client_work/train/{name}": number for name, number in train.items()}
          >>> Record(1, 0.5, 0.5, 2, metrics, {}).has_left_out_all
          True
        """
        nobody_trained = any(self.metrics.get(name) == 0 for name in _NUM_EXAMPLES)
        return self.num_left_out > 0 and (nobody_trained or self.num_left_out == self.num_clients)

    @property
    def is_skipped(self) -> bool:
        """Whether the round was skipped because too few clients reported.

        Example: the counts are those of a `Participation`.
          >>> counts = {"participation/selected": 13, "participation/reported": 2, "participation/skipped": 1}
          >>> record = Record(1, 0.5, 0.5, 0, counts, {})
          >>> record.is_skipped, record.summary()
          (True, 'skipped, 2 of 13 clients reported')
        """
        return bool(self.metrics.get("participation/skipped"))

    def _left_out_in_words(self) -> str:
        left_out = self.num_left_out
        if not left_out:
            return ""
        who = f"all {left_out}" if left_out == self.num_clients else f"{left_out} of {self.num_clients}"
        return f"left out {who} clients ({self.reasons_left_out})"


_KINDS = (int, int | float, int | float, int, dict, dict)  # of the fields of a `Record`


class History:
    """The records of a run, in the order of the rounds.

    Attributes:
      records: a list of `Record`.

    Example:
      >>> history = History()
      >>> history.append(Record(1, 0.5, 0.5, 10, {"train/loss": 2.0}, {}))
      >>> history.append(Record(2, 0.9, 0.3, 10, {"train/loss": 1.0}, {"eval/loss": 1.5}))
      >>> history.columns
      ('round', 'seconds', 'round_seconds', 'num_clients', 'train/loss', 'held_out/eval/loss')
      >>> history.column("held_out/eval/loss")
      array([nan, 1.5])
    """

    def __init__(self):
        self.records = []
        self._encoded = []

    def __len__(self) -> int:
        return len(self.records)

    def append(self, record: Record) -> None:
        """Adds the record of the next round."""
        self.records.append(record)

    def to_lines(self) -> list[bytes]:
        """The records as lines of JSON, which `from_lines` turns back into the same history.

        Each record is encoded once, and the lines are not joined, so that a long run can be saved often.

        Example:
          >>> history = History()
          >>> history.append(Record(1, 0.5, 0.5, 10, {"train/loss": float("nan")}, {}))
          >>> history.to_lines()
          [b'[1, 0.5, 0.5, 10, {"train/loss": NaN}, {}, []]\\n']
          >>> History.from_lines(history.to_lines()).column("train/loss")
          array([nan])
        """
        for i, record in enumerate(self.records):
            if i == len(self._encoded) or self._encoded[i][0] is not record:
                self._encoded[i:] = [(record, json.dumps(record).encode() + b"\n")]
        return [line for _, line in self._encoded[: len(self.records)]]

    @classmethod
    def from_lines(cls, lines: Iterable[bytes]) -> "History":
        """The history whose `to_lines` returned these lines.

        Raises:
          ValueError: these are not the lines of a history.
        """
        history = cls()
        try:
            for line in lines:
                *fields, left_out = json.loads(line)
                history.append(Record(*fields, left_out=tuple((client, reason) for client, reason in left_out)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"these are not the lines of a history: {error}") from None
        for record in history.records:
            if not all(isinstance(value, kind) for value, kind in zip(record, _KINDS)):
                raise ValueError(f"these are not the lines of a history: {record!r:.100}")
        return history

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all numbers, in the order in which they first appear."""
        return tuple(dict.fromkeys(name for record in self.records for name in record.row()))

    def column(self, name: str) -> np.ndarray:
        """The number `name` of each round, float64 `[len(self)]`; NaN for a round without it.

        Raises:
          KeyError: no round has a number of that name.
        """
        if name not in self.columns:
            raise KeyError(f"no round measured {name!r}; the history has {', '.join(self.columns) or 'no rounds'}")
        return np.array([record.row().get(name, np.nan) for record in self.records], np.float64)


def find_metric(metrics: dict[str, float | int], name: str) -> str | None:
    """The first path whose last part is `name`, or else the first that ends in `_name`; None if there is neither.

    Example:
      >>> find_metric({"eval/loss": 1.0, "eval/token_accuracy": 0.5}, "accuracy")
      'eval/token_accuracy'
    """
    last = {path: path.rpartition("/")[2] for path in metrics}
    exact = [path for path in metrics if last[path] == name]
    similar = [path for path in metrics if last[path].endswith(f"_{name}")]
    return next(iter(exact + similar), None)


_LEFT_OUT = "client_work/train/num_non_finite_clients/"
# Count the examples of the clients that were not left out; the second name is that of a process whose metrics are of
# the current round and of all rounds.
_NUM_EXAMPLES = ("client_work/train/num_examples", "client_work/train/current_round_metrics/num_examples")


def _left_out_by_reason(metrics: dict[str, float | int]) -> dict[str, float | int]:
    return {name.removeprefix(_LEFT_OUT): value for name, value in metrics.items() if name.startswith(_LEFT_OUT)}


def _skipped(metrics: dict[str, float | int]) -> str:
    return f"skipped, {metrics['participation/reported']} of {metrics['participation/selected']} clients reported"


def _described(metrics: dict[str, float | int]) -> str:
    loss, accuracy = find_metric(metrics, "loss"), find_metric(metrics, "accuracy")
    parts = [f"loss {metrics[loss]:.3f}"] if loss else []
    parts += [f"accuracy {100 * metrics[accuracy]:.1f} %"] if accuracy else []
    return ", ".join(parts)
