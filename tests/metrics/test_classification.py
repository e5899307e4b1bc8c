import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core import metrics


def _batch(seed, size=40, num_classes=6):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (size, num_classes)).astype(np.float32)
    labels = random.integers(0, num_classes, size).astype(np.int32)
    return scores, {"y": labels}, random.random(size) < 0.7


def _correct(scores, labels, k):
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    return (order == labels[:, None]).any(-1)


@given(st.integers(0, 2**31), st.integers(1, 7))
def test_top_k_counts_as_a_stable_sort_does(seed, k):
    scores, batch, mask = _batch(seed)
    metric = metrics.top_k_accuracy(k)
    statistic = metric.measure(scores, batch, mask)
    expected = _correct(scores, batch["y"], k)
    assert [int(part) for part in statistic] == [(expected & mask).sum(), mask.sum()]
    np.testing.assert_allclose(metric.finalize(statistic), expected[mask].mean(), rtol=1e-6)


@given(st.integers(0, 2**31))
def test_accuracy_is_argmax_and_top_1(seed):
    scores, batch, mask = _batch(seed)
    correct, count = metrics.accuracy().measure(scores, batch, mask)
    assert correct == ((scores.argmax(1) == batch["y"]) & mask).sum()
    assert (correct, count) == metrics.top_k_accuracy(1).measure(scores, batch, mask)


def test_top_k_agrees_with_lax_on_ties():
    scores, batch, mask = _batch(5, size=200)
    _, top = jax.lax.top_k(scores, 3)
    expected = (top == batch["y"][:, None]).any(-1) & mask
    assert metrics.top_k_accuracy(3).measure(scores, batch, mask)[0] == expected.sum()


@pytest.mark.parametrize("metric", [metrics.accuracy(), metrics.top_k_accuracy(3), metrics.top_k_accuracy(99)])
def test_nan_scores_and_unknown_labels_are_wrong(metric):
    scores = np.array([[1, 0, 0], [np.nan, 0, 9], [9, 0, np.nan], [1, 0, 0], [1, 0, 0]], np.float32)
    batch = {"y": np.array([0, 0, 0, -1, 3])}
    assert [int(part) for part in metric.measure(scores, batch, np.ones(5, bool))] == [1, 5]


@pytest.mark.parametrize("metric", [metrics.accuracy(), metrics.top_k_accuracy(2)])
def test_laws(metric):
    scores, batch, mask = _batch(7)
    whole = metric.measure(scores, batch, mask)
    dirty = np.where(mask[:, None], scores, np.nan)
    assert whole == metric.measure(dirty, {"y": np.where(mask, batch["y"], -5)}, mask)
    kept = metric.measure(scores[mask], {"y": batch["y"][mask]}, np.ones(mask.sum(), bool))
    assert whole == kept
    halves = [
        metric.measure(scores[part], {"y": batch["y"][part]}, mask[part]) for part in (slice(0, 13), slice(13, 40))
    ]
    assert whole == jax.tree.map(jnp.add, *halves)
    assert jnp.isnan(metric.finalize(metric.measure(scores, batch, np.zeros(40, bool))))


@pytest.mark.parametrize("metric", [metrics.accuracy(), metrics.top_k_accuracy(3)])
def test_traces_with_a_symbolic_batch(metric):
    (size,) = jax.export.symbolic_shape("b")
    scores = jax.ShapeDtypeStruct((size, 6), jnp.float32)
    labels = jax.ShapeDtypeStruct((size,), jnp.int32)
    mask = jax.ShapeDtypeStruct((size,), jnp.bool_)
    statistic = jax.eval_shape(metric.measure, scores, {"y": labels}, mask)
    assert [(part.shape, part.dtype) for part in statistic] == [((), jnp.int32)] * 2


def test_another_field_of_labels():
    statistic = metrics.accuracy(label="digit").measure(np.eye(3), {"digit": np.arange(3)}, np.ones(3, bool))
    assert [int(part) for part in statistic] == [3, 3]


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_refuses_a_k_that_is_no_positive_integer(k, error):
    with pytest.raises(error, match=r"top_k_accuracy\(k=\.\.\.\) must be an integer of at least 1, got"):
        metrics.top_k_accuracy(k)


@pytest.mark.parametrize(
    ("scores", "labels", "error"),
    [
        ((5,), np.zeros(5, int), ValueError),
        ((5, 3), np.zeros((5, 1), int), ValueError),
        ((4, 3), np.zeros(5, int), ValueError),
        ((5, 2, 3), np.zeros((5, 2), int), ValueError),
        ((5, 3), np.zeros(5, np.float32), TypeError),
    ],
)
def test_refuses_what_does_not_belong_together(scores, labels, error):
    with pytest.raises(error, match="accuracy compares"):
        metrics.accuracy().measure(np.zeros(scores), {"y": labels}, np.ones(5, bool))


@given(st.integers(0, 2**31))
def test_confusion_matrix_equals_the_reference(seed):
    scores, batch, mask = _batch(seed)
    metric = metrics.confusion_matrix()
    found = metric.finalize(metric.measure(scores, batch, mask))
    expected = np.zeros((6, 6), np.int32)
    np.add.at(expected, (batch["y"][mask], scores[mask].argmax(1)), 1)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_confusion_matrix_leaves_out_what_has_no_place():
    scores = np.array([[1, 0], [np.nan, 0], [1, 0], [1, 0]], np.float32)
    found = metrics.confusion_matrix().measure(scores, {"y": np.array([1, 0, -1, 2])}, np.ones(4, bool))
    assert found.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(ValueError, match="confusion_matrix compares scores"):
        metrics.confusion_matrix().measure(np.zeros((4, 2)), {"y": np.zeros((4, 1), int)}, np.ones(4, bool))
