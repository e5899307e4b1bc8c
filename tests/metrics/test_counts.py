import numpy as np
import pytest

from fedjax_core import metrics, model_calls


@pytest.mark.parametrize(("mask", "examples", "batches"), [([1, 1, 0], 2, 1), ([0, 0], 0, 0), ([], 0, 0), ([1], 1, 1)])
def test_counts(mask, examples, batches):
    mask = np.array(mask, bool)
    for metric, expected in ((metrics.num_examples(), examples), (metrics.num_batches(), batches)):
        statistic = metric.measure(None, {}, mask)
        assert statistic.dtype == np.int32
        assert metric.finalize(statistic) == expected


def test_loss_is_that_of_model_metrics():
    assert metrics.loss is model_calls.mean_loss
