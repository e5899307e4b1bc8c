"""Metrics by domain."""

import jax
import numpy as np
import pytest

from fedjax_core import metrics


def _batch(seed, size=60):
    random = np.random.default_rng(seed)
    batch = {
        "y": random.integers(0, 4, size).astype(np.int32),
        "domain": random.integers(-1, 5, size).astype(np.int32),
        "device": random.integers(0, 2, size).astype(np.uint8),
    }
    return random.normal(size=(size, 4)).astype(np.float32), batch, random.random(size) < 0.7


METRICS = {"accuracy": metrics.accuracy(), "confusion_matrix": metrics.confusion_matrix(), "f1": metrics.f1("macro")}


@pytest.mark.parametrize("name", METRICS)
def test_equals_the_metric_of_each_domain(name):
    metric = METRICS[name]
    scores, batch, mask = _batch(0)
    split = metrics.per_domain(metric, 4)
    statistic = split.measure(scores, batch, mask)
    alone = [metric.measure(scores, batch, mask & (batch["domain"] == d)) for d in range(4)]
    jax.tree.map(lambda whole, *parts: np.testing.assert_array_equal(whole, np.stack(parts)), statistic, *alone)
    np.testing.assert_array_equal(split.finalize(statistic), np.stack([metric.finalize(part) for part in alone]))


def test_domains_of_domains():
    scores, batch, mask = _batch(1)
    split = metrics.per_domain(metrics.per_domain(metrics.num_examples(), 4), 2, domain="device")
    found = split.finalize(split.measure(scores, batch, mask))
    expected = [[(mask & (batch["device"] == i) & (batch["domain"] == d)).sum() for d in range(4)] for i in range(2)]
    np.testing.assert_array_equal(found, expected)


def test_domain_of_nobody_is_nan():
    scores, batch, mask = _batch(2)
    metric = metrics.per_domain(metrics.accuracy(), 9)
    assert np.isnan(metric.finalize(metric.measure(scores, batch, mask))).tolist() == [False] * 5 + [True] * 4


def test_errors():
    scores, batch, mask = _batch(3)
    with pytest.raises(TypeError, match=r"per_domain\(metric, ...\) takes a Metric, got .*call it: fc.metrics"):
        metrics.per_domain(metrics.accuracy, 3)
    with pytest.raises(ValueError, match=r"per_domain\(num_domains=...\) must be an integer of at least 1, got 0"):
        metrics.per_domain(metrics.accuracy(), 0)
    metric = metrics.per_domain(metrics.accuracy(), 3)
    with pytest.raises(TypeError, match=r"per_domain compares with integer labels, got float.* in batch\['domain'\]"):
        metric.measure(scores, {**batch, "domain": np.zeros(60)}, mask)
    with pytest.raises(ValueError, match=r"per_domain takes integers of shape \[B\], got batch\['domain'\]"):
        metric.measure(scores, {**batch, "domain": np.zeros((60, 2), int)}, mask)
