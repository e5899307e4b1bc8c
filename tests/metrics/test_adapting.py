"""Metrics of other libraries: clu where it is installed, and a small class of the same interface."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import metrics
from fedjax_core.testing import METRIC_LAWS, check_metric

LAWS = METRIC_LAWS.keys() - {"nan_of_nobody"}  # its value over nobody is the library's


@flax.struct.dataclass
class Mean:
    """A mean like clu's Average, without its mask."""

    total: jax.Array
    count: jax.Array

    @classmethod
    def empty(cls):
        return cls(jnp.array(0, jnp.float32), jnp.array(0, jnp.int32))

    @classmethod
    def from_model_output(cls, *, logits, labels):
        values = (logits.argmax(-1) == labels).astype(jnp.float32)
        return cls(values.sum(), values.size)

    def merge(self, other):
        return type(self)(self.total + other.total, self.count + other.count)

    def compute(self):
        return self.total / self.count


@flax.struct.dataclass
class Histogram(Mean):
    """A state with an axis."""

    @classmethod
    def empty(cls):
        return cls(jnp.zeros(4, jnp.int32), jnp.array(0, jnp.int32))

    @classmethod
    def from_model_output(cls, *, logits, labels):
        return cls((labels[:, None] == jnp.arange(4)[None, :]).sum(0), labels.size)


def _batch(size=11):
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, size).astype(np.int32)
    return random.normal(size=(size, 4)).astype(np.float32), {"y": labels}, random.random(size) < 0.7


@pytest.mark.parametrize("metric", [Mean, Histogram])
def test_laws(metric):
    scores, batch, mask = _batch()
    check_metric(metrics.from_mergeable(metric), scores, batch, mask, laws=LAWS)


def test_equals_the_metric_of_ones_own():
    scores, batch, mask = _batch()
    adapted, own = metrics.from_mergeable(Mean), metrics.accuracy()
    found = adapted.finalize(adapted.measure(scores, batch, mask))
    np.testing.assert_allclose(found, own.finalize(own.measure(scores, batch, mask)), rtol=1e-6)


def test_arguments_select_what_the_library_takes():
    scores, batch, mask = _batch()

    def arguments(predictions, batch):
        assert predictions["scores"].shape == (1, 4)
        return {"logits": -predictions["scores"], "labels": batch["digit"]}

    adapted = metrics.per_domain(metrics.from_mergeable(Mean, arguments), 1, "zero")
    batch = {"digit": batch["y"], "zero": np.zeros(11, int)}
    found = adapted.finalize(adapted.measure({"scores": scores}, batch, mask))
    np.testing.assert_allclose(found, [(scores.argmin(1) == batch["digit"])[mask].mean()], rtol=1e-6)


def _changed(**methods):
    """`Mean` with other methods."""
    return flax.struct.dataclass(type("Changed", (Mean,), {**methods, "__annotations__": {}}))


def _counts_merges(self, other):
    return type(self)(self.total + other.total, self.count + other.count + 1)


def _averages(self, other):
    count = self.count + other.count
    return type(self)((self.total * self.count + other.total * other.count) / jnp.maximum(count, 1), count)


NOT_ADDITIVE = {
    "last": lambda self, other: other,
    "maximum": lambda self, other: jax.tree.map(jnp.maximum, self, other),
    "mean": _averages,
    "merges": _counts_merges,
    "swapped": lambda self, other: type(self)(self.count + other.count, self.total + other.total),
    "collected": lambda self, other: jax.tree.map(lambda a, b: jnp.stack([a, b]), self, other),
    "structure": lambda self, other: (self.total + other.total, self.count + other.count),
}


@pytest.mark.parametrize("merge", NOT_ADDITIVE.values(), ids=NOT_ADDITIVE)
def test_merging_that_is_not_adding_is_refused(merge):
    with pytest.raises(
        TypeError, match=r"starts from zeros and merges by adding, got .* does not merge .* that way; write"
    ):
        metrics.from_mergeable(_changed(merge=merge))


def test_merging_that_fails_is_refused():
    def fail(self, other):
        raise RuntimeError("on the host alone")

    with pytest.raises(RuntimeError, match=r"(?s)on the host alone.*merging .* fails"):
        metrics.from_mergeable(_changed(merge=fail))


def test_start_that_is_not_zero_is_refused():
    start = classmethod(lambda cls: cls(jnp.array(0.0), jnp.array(1)))
    with pytest.raises(TypeError, match=r"merges by adding, got .*, which starts from .*collection one by one"):
        metrics.from_mergeable(_changed(empty=start))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (metrics.accuracy(), r"takes a metric with the functions from_model_output and empty, got Metric.*without"),
        (None, "takes a metric with the functions .* got None without from_model_output and empty"),
        (type("Half", (Mean,), {"merge": None, "compute": None}), "takes states with .* without merge and compute"),
        (_changed(empty=classmethod(lambda cls: cls({}, {}))), "a state that is a pytree of numbers"),
        (_changed(empty=classmethod(lambda cls: cls(jnp.array(False), jnp.array(0)))), "a pytree of numbers"),
        (_changed(empty=classmethod(lambda cls: cls("none", 0))), "a pytree of numbers"),
    ],
    ids=["a metric", "none", "no merge", "nothing", "boolean", "text"],
)
def test_wrong_kinds_are_refused(wrong, message):
    with pytest.raises(TypeError, match=message):
        metrics.from_mergeable(wrong)


def test_arguments_are_a_function():
    with pytest.raises(
        TypeError, match=r"from_mergeable\(arguments=...\) must be a function of predictions .*, got 'x'"
    ):
        metrics.from_mergeable(Mean, "x")


def test_state_that_is_no_pytree_is_refused():
    class Plain:
        @staticmethod
        def from_model_output(**arguments):
            return Plain()

        empty = from_model_output

        def merge(self, other):
            return self

        def compute(self):
            return 0.0

    with pytest.raises(TypeError, match=r"a state that is a pytree of numbers, got .*make it one with flax.struct"):
        metrics.from_mergeable(Plain)


@pytest.fixture(scope="module")
def clu():
    return pytest.importorskip("clu.metrics")


def test_accuracy_of_clu(clu):
    scores, batch, mask = _batch()
    adapted, own = metrics.from_mergeable(clu.Accuracy), metrics.accuracy()
    check_metric(adapted, scores, batch, mask, laws=LAWS)
    found = adapted.finalize(adapted.measure(scores, batch, mask))
    np.testing.assert_allclose(found, own.finalize(own.measure(scores, batch, mask)), rtol=1e-6)


def test_average_of_clu(clu):
    scores, batch, mask = _batch()
    adapted = metrics.from_mergeable(clu.Average.from_output("score"), lambda p, b: {"score": p[:, 0]})
    found = adapted.finalize(adapted.measure(scores, batch, mask))
    np.testing.assert_allclose(found, scores[mask, 0].mean(), rtol=1e-5)


def test_what_does_not_add_up_in_clu_is_refused(clu):
    collected = clu.CollectingMetric.from_outputs(("logits",))
    for metric in (clu.LastValue, collected, clu.Collection.create(accuracy=clu.Accuracy)):
        with pytest.raises(TypeError, match="from_mergeable takes"):
            metrics.from_mergeable(metric)
