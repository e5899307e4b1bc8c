"""Precision, recall and F1 against their definitions."""

import numpy as np
import pytest

from fedjax_core import metrics

KINDS = {"precision": metrics.precision, "recall": metrics.recall, "f1": metrics.f1}


def _quotient(kind, predicted, actual):
    """The value for one class in float64, from the examples predicted as it and those labelled as it."""
    hits = float((predicted & actual).sum())
    denominator = {
        "precision": predicted.sum(),
        "recall": actual.sum(),
        "f1": (predicted.sum() + actual.sum()) / 2,
    }[kind]
    return hits / denominator if denominator else np.nan


def _reference(kind, average, predicted, actual):
    """The reference values, from bool `[B, C]`."""
    if average == "micro":
        return _quotient(kind, predicted.ravel(), actual.ravel())
    values = np.array([_quotient(kind, p, a) for p, a in zip(predicted.T, actual.T)])
    if average == "per_class":
        return values
    weights = actual.sum(0) if average == "weighted" else np.ones(len(values))
    defined = ~np.isnan(values)
    return np.average(values[defined], weights=weights[defined]) if weights[defined].sum() else np.nan


def _batch(seed, size=30, num_classes=5):
    """Scores with ties, and a class 4 that is never predicted."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, 3, (size, num_classes)).astype(np.float32)
    scores[:, 4] = -1
    return scores, {"y": random.integers(0, num_classes, size).astype(np.int32)}, random.random(size) < 0.7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "per_class"])
def test_of_classes(kind, average):
    metric = KINDS[kind](average)
    for seed in range(4):
        scores, batch, mask = _batch(seed)
        classes = np.arange(5)
        predicted, actual = scores[mask].argmax(1)[:, None] == classes, batch["y"][mask][:, None] == classes
        statistic = metric.measure(scores, batch, mask)
        assert [part.shape for part in statistic] == [(5,)] * 3 and statistic[0].dtype == np.int32
        np.testing.assert_allclose(metric.finalize(statistic), _reference(kind, average, predicted, actual), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("threshold", "dtype"), [(0.5, np.int32), (0.0, bool)])
def test_of_two_classes(kind, threshold, dtype):
    random = np.random.default_rng(7)
    scores = (random.integers(-2, 5, 40) / 4).astype(np.float32)
    labels, mask = random.integers(0, 2, 40).astype(dtype), random.random(40) < 0.7
    metric = KINDS[kind](threshold=threshold)
    statistic = metric.measure(scores, {"y": labels}, mask)
    expected = _quotient(kind, scores[mask] >= threshold, labels[mask] == 1)
    np.testing.assert_allclose(metric.finalize(statistic), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_twelve_labels_of_three_samples_equal_the_flattened_ones(kind):
    random = np.random.default_rng(3)
    scores, labels = random.random((3, 4), np.float32), random.integers(0, 2, (3, 4))
    flat = KINDS[kind]()
    expected = flat.finalize(flat.measure(scores.ravel(), {"y": labels.ravel()}, np.ones(12, bool)))
    np.testing.assert_allclose(expected, _quotient(kind, scores.ravel() >= 0.5, labels.ravel() == 1), rtol=1e-6)
    for average in ("binary", "micro"):
        metric = KINDS[kind](average, multilabel=True)
        np.testing.assert_array_equal(
            metric.finalize(metric.measure(scores, {"y": labels}, np.ones(3, bool))), expected
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "per_class"])
def test_of_several_labels(kind, average):
    """A class that is never predicted, one without labels, and padding."""
    random = np.random.default_rng(5)
    scores, labels, mask = random.normal(size=(30, 5)), random.integers(0, 2, (30, 5)), random.random(30) < 0.7
    scores[:, 4], labels[:, 3] = -1, 0
    metric = KINDS[kind](average, threshold=0.25, multilabel=True)
    statistic = metric.measure(np.float32(scores), {"y": labels.astype(bool)}, mask)
    expected = _reference(kind, average, scores[mask] >= 0.25, labels[mask] == 1)
    np.testing.assert_allclose(metric.finalize(statistic), expected, rtol=1e-6)
    dirty = np.where(mask[:, None], np.float32(scores), np.nan)
    for clean, found in zip(statistic, metric.measure(dirty, {"y": np.where(mask[:, None], labels, 1)}, mask)):
        np.testing.assert_array_equal(clean, found)


@pytest.mark.parametrize("kind", KINDS)
def test_several_labels_are_told_from_one(kind):
    scores, everyone = np.zeros((5, 3), np.float32), np.ones(5, bool)
    for average in ("binary", "macro"):
        one = rf"takes one label for each example.*write {kind}\(\.\.\., multilabel=True\)"
        with pytest.raises(ValueError, match=one):
            KINDS[kind](average).measure(scores, {"y": np.zeros((5, 3), int)}, everyone)
        for labels in (np.zeros(5, int), np.zeros((5, 2), int)):
            with pytest.raises(ValueError, match=r"multilabel=True\) takes one score for each class, \[B, C\]"):
                KINDS[kind](average, multilabel=True).measure(scores, {"y": labels}, everyone)
    with pytest.raises(TypeError, match="integers or booleans, got float32"):
        KINDS[kind](multilabel=True).measure(scores, {"y": scores}, everyone)
    with pytest.raises(TypeError, match=rf"{kind}\(multilabel=\.\.\.\) must be"):
        KINDS[kind](multilabel="yes")


def test_micro_average_of_classes_is_the_accuracy():
    scores, batch, mask = _batch(11)
    accuracy = metrics.accuracy()
    expected = accuracy.finalize(accuracy.measure(scores, batch, mask))
    for kind in KINDS.values():
        metric = kind("micro")
        np.testing.assert_allclose(metric.finalize(metric.measure(scores, batch, mask)), expected, rtol=1e-6)


def test_undefined_is_nan_and_left_out_of_averages():
    """Class 1 is labelled and never predicted, class 2 predicted and never labelled, class 3 neither."""
    scores, everyone = np.eye(4, dtype=np.float32)[[0, 0, 2]], np.ones(3, bool)
    batch = {"y": np.array([0, 1, 1])}
    expected = {"precision": [0.5, np.nan, 0, np.nan], "recall": [1, 0, np.nan, np.nan], "f1": [2 / 3, 0, 0, np.nan]}
    for name, values in expected.items():
        for average, value in (("per_class", values), ("macro", np.nanmean(values))):
            metric = KINDS[name](average)
            np.testing.assert_allclose(metric.finalize(metric.measure(scores, batch, everyone)), value, rtol=1e-6)
    binary = metrics.precision()
    assert np.isnan(binary.finalize(binary.measure(np.zeros(3), {"y": np.ones(3, int)}, everyone)))


def test_nan_scores_and_unknown_labels_are_never_right():
    scores = np.array([[np.nan, 0], [9, 0], [9, 0]], np.float32)
    counted = metrics.f1("macro").measure(scores, {"y": np.array([1, 2, -1])}, np.ones(3, bool))
    assert [part.tolist() for part in counted] == [[0, 0], [2, 0], [0, 1]]
    binary = metrics.f1().measure(np.array([np.nan, 0.9], np.float32), {"y": np.array([1, 2])}, np.ones(2, bool))
    assert [int(part) for part in binary] == [0, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind):
    everyone, labels = np.ones(5, bool), {"y": np.zeros(5, int)}
    with pytest.raises(ValueError, match=rf"{kind}\(average=...\) must be 'binary', .*got 'samples'"):
        KINDS[kind]("samples")
    with pytest.raises(TypeError, match=rf"{kind}\(threshold=...\) must be a finite number, got None; write threshold"):
        KINDS[kind](threshold=None)
    with pytest.raises(ValueError, match=rf"{kind} takes one score per example.*shape \(5, 2\).*softmax"):
        KINDS[kind]().measure(np.zeros((5, 2)), labels, everyone)
    with pytest.raises(TypeError, match=rf"{kind} compares with labels 0 and 1, .*float"):
        KINDS[kind]().measure(np.zeros(5), {"y": np.zeros(5)}, everyone)
    with pytest.raises(ValueError, match=rf"{kind} compares scores of shape \[B, C\]"):
        KINDS[kind]("macro").measure(np.zeros(5), labels, everyone)
