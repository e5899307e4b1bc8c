"""The warnings of a run."""

import warnings

import numpy as np
import pytest

from fedjax_core.program._history import Record, flatten_metrics
from fedjax_core.program._outlets import Round, to_log

LARGEST = 2**31 - 1


def a_round(number, metrics, held_out=None):
    record = Record(number, 0.1, 0.1, 3, flatten_metrics(metrics), flatten_metrics(held_out))
    return Round(number, None, metrics, held_out, record, False)


def test_counts_too_large_for_their_integers_are_told_once():
    log = to_log()
    metrics = {"train": {"all": np.int32(LARGEST), "loss": np.float32(LARGEST), "rows": np.full(20, LARGEST, np.int32)}}
    with pytest.warns(
        UserWarning, match="round 2 measured counts .* instead: train/all, train/rows, held_out/n; "
    ) as told:
        log.take(a_round(1, {"train": {"all": np.int32(LARGEST - 1), "flag": np.True_}}))
        log.take(a_round(2, metrics, {"n": np.uint32(2**32 - 1), "least": np.array([-LARGEST])}))
        log.take(a_round(3, metrics))
    assert len(told) == 1


def test_a_skipped_round_has_no_counts():
    with warnings.catch_warnings(action="error"):
        to_log().take(a_round(1, None))
