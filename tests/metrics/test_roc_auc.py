"""The area under the ROC curve: its histogram against the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core import metrics


def _exact(scores, labels):
    """The fraction of pairs in order, ties half, over all pairs in float64."""
    positive, negative = scores[labels == 1][:, None], scores[labels != 1][None, :]
    return np.mean((positive > negative) + 0.5 * (positive == negative))


def _bound(statistic):
    """Half the fraction of pairs in one bin."""
    positive, negative = (np.asarray(part, np.float64) for part in statistic)
    return (positive * negative).sum() / (2 * positive.sum() * negative.sum())


def _examples(seed, size, concentration=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, size).astype(np.int32)
    scores = random.beta(concentration + labels, concentration + 1 - labels).astype(np.float32)
    return scores, labels, random.random(size) < 0.8


COMPILED = {bins: jax.jit(metrics.roc_auc(bins).measure) for bins in (1, 10, 200)}


@given(st.integers(0, 2**31), st.sampled_from(sorted(COMPILED)), st.sampled_from([0.3, 1.0, 50.0]))
def test_is_within_its_bound_of_the_exact_area(seed, bins, concentration):
    scores, labels, mask = _examples(seed, 120, concentration)
    statistic = COMPILED[bins](scores, {"y": labels}, mask)
    found = metrics.roc_auc(bins).finalize(statistic)
    assert abs(found - _exact(scores[mask], labels[mask])) <= _bound(statistic) + 1e-6


def test_error_is_about_half_a_bin_for_scores_that_spread():
    scores, labels, mask = _examples(0, 20_000)
    metric = metrics.roc_auc()
    statistic = metric.measure(scores, {"y": labels}, mask)
    assert _bound(statistic) < 1 / 400
    assert abs(metric.finalize(statistic) - _exact(scores[mask], labels[mask])) < 1e-4


def test_scores_that_are_in_bins_of_their_own_are_exact():
    random = np.random.default_rng(1)
    scores, labels = random.integers(0, 20, 200), random.integers(0, 2, 200)
    metric = metrics.roc_auc(20, range=(0, 20))
    statistic = metric.measure(scores, {"y": labels}, np.ones(200, bool))
    np.testing.assert_allclose(metric.finalize(statistic), _exact(scores, labels), rtol=1e-6)


def test_logits_beyond_the_range_are_in_the_outer_bins():
    scores = np.array([-99, -np.inf, 99, np.inf, 5, -5], np.float32)
    labels = np.array([0, 1, 0, 1, 1, 0])
    positive, negative = metrics.roc_auc(2, range=(-5, 5)).measure(scores, {"y": labels}, np.ones(6, bool))
    assert positive.tolist() == [1, 2] and negative.tolist() == [2, 1]


def test_nan_ranks_where_it_is_most_wrong():
    metric = metrics.roc_auc(10)
    scores, labels = np.array([np.nan, 0.5, 0.1, np.nan], np.float32), np.array([1, 1, 0, 0])
    statistic = metric.measure(scores, {"y": labels}, np.ones(4, bool))
    np.testing.assert_allclose(metric.finalize(statistic), 0.25)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0]])
def test_one_class_alone_has_no_area(labels):
    metric = metrics.roc_auc()
    assert np.isnan(metric.finalize(metric.measure(np.array([0.1, 0.2]), {"y": np.array(labels)}, np.ones(2, bool))))


def test_billions_of_pairs_do_not_overflow():
    statistic = (jnp.array([0, 2**30]), jnp.array([2**30, 2**30 - 1]))
    np.testing.assert_allclose(metrics.roc_auc(2).finalize(statistic), 0.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_bins": 0}, ValueError, r"num_bins=...\) must be an integer of at least 1, got 0"),
        ({"num_bins": 1.5}, TypeError, r"num_bins=...\) must be an integer of at least 1, got 1.5"),
        ({"range": (1, 0)}, ValueError, r"range=...\) must be two finite numbers, the lower first"),
        ({"range": (0, np.inf)}, ValueError, "must be two finite numbers"),
        ({"range": 1.0}, TypeError, "must be two finite numbers"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        metrics.roc_auc(**arguments)


def test_refuses_scores_of_two_classes():
    with pytest.raises(ValueError, match="roc_auc takes one score per example"):
        metrics.roc_auc().measure(np.zeros((5, 2)), {"y": np.zeros(5, int)}, np.ones(5, bool))
