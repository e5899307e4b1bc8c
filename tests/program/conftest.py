"""A run of three rounds in numbers."""

import pytest

from fedjax_core.program import History, Record


@pytest.fixture
def history() -> History:
    history = History()
    for i in range(1, 4):
        metrics = {"train/accuracy": 1 - 0.5 / i, "train/loss": 1 / 3 / i, "train/count": 10 * i}
        held_out = {"eval/accuracy": 1 - 0.6 / i, "eval/loss": 2 / i} if i != 2 else {}
        history.append(Record(i, 0.1 * i, 0.05, 10, metrics, held_out))
    return history
