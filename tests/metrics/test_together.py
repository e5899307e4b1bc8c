"""All metrics of the room in one evaluation."""

import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core import metrics
from fedjax_core.contracts import Metric, Model
from fedjax_core.model_calls import model_metrics

NUM_CLASSES, LENGTH, VOCABULARY = 4, 3, 7

CLASSES = {
    "accuracy": metrics.accuracy(),
    "top_k_accuracy": metrics.top_k_accuracy(2),
    "confusion_matrix": metrics.confusion_matrix(),
    "precision": metrics.precision("macro"),
    "recall": metrics.recall("weighted"),
    "f1": metrics.f1("per_class"),
    "per_domain": metrics.per_domain(metrics.accuracy(), 3),
    "num_examples": metrics.num_examples(),
    "num_batches": metrics.num_batches(),
}
BINARY = {
    "precision": metrics.precision(label="positive"),
    "recall": metrics.recall(label="positive"),
    "f1": metrics.f1(label="positive"),
    "roc_auc": metrics.roc_auc(20, label="positive"),
    "per_domain": metrics.per_domain(metrics.roc_auc(20, label="positive"), 3),
}
NUMBERS = {
    "loss": metrics.loss(lambda predictions, batch: jnp.abs(predictions - batch["target"])),
    "mean_absolute_error": metrics.mean_absolute_error("target"),
    "mean_squared_error": metrics.mean_squared_error("target"),
    "r_squared": metrics.r_squared(label="target"),
}
TOKENS = {
    "token_accuracy": metrics.token_accuracy((0, 1), "tokens"),
    "perplexity": metrics.perplexity((0,), "tokens"),
    "out_of_vocabulary_rate": metrics.out_of_vocabulary_rate((5, 6), label="tokens"),
}
KINDS = {"classes": CLASSES, "binary": BINARY, "numbers": NUMBERS, "tokens": TOKENS}
NAMES = [(kind, name) for kind, table in KINDS.items() for name in table]


def make_examples(size, seed=0):
    """Predictions by kind, and a batch with the labels of all of them."""
    random = np.random.default_rng(seed)
    predictions = {
        "classes": random.normal(size=(size, NUM_CLASSES)).astype(np.float32),
        "binary": random.random(size).astype(np.float32),
        "numbers": random.normal(size=size).astype(np.float32),
        "tokens": random.normal(size=(size, LENGTH, VOCABULARY)).astype(np.float32),
    }
    batch = {
        "y": random.integers(0, NUM_CLASSES, size).astype(np.int32),
        "positive": random.integers(0, 2, size).astype(np.int32),
        "target": random.normal(size=size).astype(np.float32),
        "tokens": random.integers(0, VOCABULARY, (size, LENGTH)).astype(np.int32),
        "domain": random.integers(0, 3, size).astype(np.int32),
    }
    return predictions, batch


def _on(kind, metric):
    """The metric of one of several predictions."""
    return Metric(lambda predictions, batch, mask: metric.measure(predictions[kind], batch, mask), metric.finalize)


def _predict(weights, batch, key=None, training=False):
    """The predictions in the batch, and token scores that grow with the label."""
    tokens = batch["tokens"][..., None] * jnp.arange(VOCABULARY)[None, None, :]
    return {**{name: batch[name] for name in ("classes", "binary", "numbers")}, "tokens": tokens.astype(jnp.float32)}


MODEL = Model(
    init=lambda key: jnp.zeros(()),
    predict=_predict,
    loss=lambda predictions, batch: jnp.abs(predictions["numbers"] - batch["target"]),
    metrics={f"{kind}_{name}": _on(kind, KINDS[kind][name]) for kind, name in NAMES},
    batch_type=fc.types.to_type(
        {
            **dict.fromkeys(("binary", "numbers", "target"), "float32[?]"),
            **dict.fromkeys(("y", "positive", "domain"), "int32[?]"),
            "classes": f"float32[?,{NUM_CLASSES}]",
            "tokens": f"int32[?,{LENGTH}]",
        }
    ),
)


@pytest.mark.slow
def test_all_of_them_in_one_evaluation():
    predictions, batch = make_examples(13, seed=3)
    examples = {**{name: predictions[name] for name in ("classes", "binary", "numbers")}, **batch}
    sizes = {"a": slice(0, 5), "b": slice(5, 6), "c": slice(6, 6), "d": slice(6, 13)}
    clients = {name: {field: rows[size] for field, rows in examples.items()} for name, size in sizes.items()}
    cohort = fc.data.from_clients(clients).cohort(list(clients), fc.data.Batching(2))
    found = fc.algorithms.federated_evaluation(MODEL)(jnp.zeros(()), cohort)["eval"]

    everyone, whole = np.ones(13, bool), _predict(None, examples)
    expected = {name: m.finalize(m.measure(whole, examples, everyone)) for name, m in model_metrics(MODEL).items()}
    expected |= {"classes_num_batches": 3 + 1 + 4, "num_non_finite": 0}
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
