"""Every aggregator, metric and algorithm of the catalogue keeps the laws, except those that it breaks by design."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import fedjax_core as fc
from fedjax_core import aggregators, metrics, testing
from tests import learning_references
from tests.marks import with_slow
from tests.stateful_works import clustered, scaffold

KEY = jax.random.key(5)


def without(laws: dict, *names: str) -> dict:
    return {"laws": laws.keys() - set(names)}


AGGREGATOR_CASES = {
    "mean": lambda: (aggregators.mean(), {"neutral": aggregators.mean()}),
    "sum": lambda: (aggregators.sum(), {}),
    "each": lambda: (
        aggregators.each(b=aggregators.mean(), w=aggregators.clip_by_norm(1.0)),
        {"neutral": aggregators.each(b=aggregators.mean(), w=aggregators.mean())},
    ),
    "clip_by_norm": lambda: (
        aggregators.clip_by_norm(1.0),
        {"neutral": aggregators.clip_by_norm(math.inf), "finite": True},
    ),
    "clip_by_norm largest": lambda: (
        aggregators.clip_by_norm(1.0, order=math.inf),
        {"neutral": aggregators.clip_by_norm(math.inf, order=1), "finite": True},
    ),
    "clip_by_norm adaptive": lambda: (aggregators.clip_by_norm(estimate()), {"finite": True}),
    "zero_large": lambda: (aggregators.zero_large(4.0), {"neutral": aggregators.zero_large(math.inf), "finite": True}),
    "robust": lambda: (
        aggregators.robust(),
        {"neutral": aggregators.robust(zeroing=False, clipping=False), "finite": True},
    ),
    "measure": lambda: (aggregators.measure(), {"neutral": aggregators.measure()}),
    "secure_mean": lambda: (aggregators.secure_mean(), {"neutral": aggregators.secure_mean(50.0), "finite": True}),
    "private_mean": lambda: (
        aggregators.private_mean(1.0, 0.5, 18, key=KEY),
        {"neutral": aggregators.private_mean(math.inf, 0.0, 18, key=KEY), "weighted": False, "finite": True},
    ),
    "private_mean adaptive": lambda: (
        aggregators.private_mean(aggregators.AdaptiveNorm(noise_stddev=2.0), 0.5, 18, key=KEY),
        {"neutral": aggregators.private_mean(math.inf, 0.0, 18, key=KEY), "weighted": False, "finite": True},
    ),
    "compress": lambda: (
        aggregators.compress(send_half, key=KEY),
        {"neutral": aggregators.compress(lambda value, key: (value, 0), key=KEY)},
    ),
    "quantize": lambda: (
        aggregators.quantize(3, key=KEY),
        {"neutral": aggregators.compress(lambda value, key: (value, 0), key=KEY)},
    ),
    "median": lambda: (
        aggregators.median(),
        {"neutral": aggregators.trimmed_mean(0.0), "weighted": False, "finite": True},
    ),
    "trimmed_mean": lambda: (
        aggregators.trimmed_mean(0.2),
        {"neutral": aggregators.trimmed_mean(0.0), "weighted": False, "finite": True},
    ),
    # All clients are sampled, those that hold NaN or that the round left out too; the samples are no mean.
    "reservoir_sample": lambda: (
        aggregators.reservoir_sample(7, key=KEY),
        without(testing.AGGREGATOR_LAWS, "result_type", "padding", "non_finite"),
    ),
}
# Of integers.
NOT_AGGREGATORS = {"AdaptiveNorm", "as_process", "quantile_estimate", "secure_modular_sum"}


def estimate():
    return aggregators.quantile_estimate(1.0, 0.8, 0.5, noise_stddev=1.0, cohort_size=18, key=KEY)


def send_half(value, key):
    """Every other entry, doubled."""
    keys = fc.trees.split_key(key, value)
    kept = jax.tree.map(lambda v, k: jax.random.bernoulli(k, 0.5, v.shape), value, keys)
    return jax.tree.map(lambda v, k: jnp.where(k, 2 * v, 0), value, kept), 32 * sum(map(jnp.sum, jax.tree.leaves(kept)))


# What another case runs the greater part of.
SLOW_AGGREGATORS = {
    "clip_by_norm adaptive",
    "clip_by_norm largest",
    "compress",
    "quantize",
    "reservoir_sample",
}
SLOW_ALGORITHMS = {"fed_avg private", "fed_avg rates", "fed_prox", "fed_sgd", "compose scaffold", "compose clustered"}


@pytest.mark.parametrize("case", with_slow(AGGREGATOR_CASES, SLOW_AGGREGATORS))
def test_aggregators_keep_the_laws(case):
    aggregator, options = AGGREGATOR_CASES[case]()
    testing.check_aggregator(aggregator, **options)


SIZE, CLASSES, LENGTH = 14, 5, 6
RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=(SIZE, CLASSES)).astype(np.float32)
TOKEN_SCORES = RANDOM.normal(size=(SIZE, LENGTH, CLASSES)).astype(np.float32)
NUMBERS = RANDOM.normal(size=(SIZE, 3)).astype(np.float32)
PROBABILITIES = RANDOM.random(SIZE).astype(np.float32)
CLASS_LABELS = {"y": RANDOM.integers(0, CLASSES, SIZE), "domain": RANDOM.integers(0, 3, SIZE)}
BINARY_LABELS = {"y": RANDOM.integers(0, 2, SIZE), "domain": CLASS_LABELS["domain"]}
MULTILABELS = {"y": RANDOM.integers(0, 2, (SIZE, CLASSES))}
TOKENS = {"y": RANDOM.integers(0, CLASSES, (SIZE, LENGTH))}
TARGETS = {"y": RANDOM.normal(size=(SIZE, 3)).astype(np.float32)}


def squared_error(predictions, batch):
    return jnp.sum((predictions - batch["y"]) ** 2, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Total:
    """A metric as other libraries have them."""

    total: jax.Array

    empty = classmethod(lambda cls: cls(jnp.float32(0)))
    from_model_output = classmethod(lambda cls, logits, labels: cls(logits.sum()))

    def merge(self, other):
        return Total(self.total + other.total)

    def compute(self):
        return self.total


METRIC_CASES = {
    "loss": (metrics.loss(squared_error), NUMBERS, TARGETS),
    "accuracy": (metrics.accuracy(), SCORES, CLASS_LABELS),
    "top_k_accuracy": (metrics.top_k_accuracy(2), SCORES, CLASS_LABELS),
    "confusion_matrix": (metrics.confusion_matrix(), SCORES, CLASS_LABELS),
    "precision binary": (metrics.precision(), PROBABILITIES, BINARY_LABELS),
    "precision micro": (metrics.precision("micro"), SCORES, CLASS_LABELS),
    "precision macro": (metrics.precision("macro"), SCORES, CLASS_LABELS),
    "precision multilabel": (metrics.precision("macro", multilabel=True), SCORES, MULTILABELS),
    "recall binary": (metrics.recall(), PROBABILITIES, BINARY_LABELS),
    "recall": (metrics.recall("weighted"), SCORES, CLASS_LABELS),
    "f1 binary": (metrics.f1(), PROBABILITIES, BINARY_LABELS),
    "f1": (metrics.f1("per_class"), SCORES, CLASS_LABELS),
    "roc_auc": (metrics.roc_auc(20), PROBABILITIES, BINARY_LABELS),
    "mean_absolute_error": (metrics.mean_absolute_error(), NUMBERS, TARGETS),
    "mean_squared_error": (metrics.mean_squared_error(), NUMBERS, TARGETS),
    "r_squared": (metrics.r_squared(), NUMBERS, TARGETS),
    "token_accuracy": (metrics.token_accuracy((0, 1)), TOKEN_SCORES, TOKENS),
    "token_accuracy per_position": (metrics.token_accuracy((0,), k=2, per_position=True), TOKEN_SCORES, TOKENS),
    "perplexity": (metrics.perplexity((0,)), TOKEN_SCORES, TOKENS),
    "out_of_vocabulary_rate": (metrics.out_of_vocabulary_rate((2, 3)), None, TOKENS),
    "truncation_rate": (metrics.truncation_rate(4), None, TOKENS),
    "sequence_length": (metrics.sequence_length(), None, TOKENS),
    "num_tokens": (metrics.num_tokens(), None, TOKENS),
    "num_sequences": (metrics.num_sequences(), None, TOKENS),
    "num_examples": (metrics.num_examples(), None, BINARY_LABELS),
    "num_batches": (metrics.num_batches(), None, BINARY_LABELS),
    "per_domain": (metrics.per_domain(metrics.accuracy(), 3), SCORES, CLASS_LABELS),
    "per_domain roc_auc": (metrics.per_domain(metrics.roc_auc(20), 3), PROBABILITIES, BINARY_LABELS),
    "from_mergeable": (metrics.from_mergeable(Total), SCORES, CLASS_LABELS),
}
# Two batches are more than one; and what the other library makes of nobody is its own.
METRIC_OPTIONS = {
    "num_batches": without(testing.METRIC_LAWS, "additive"),
    "from_mergeable": without(testing.METRIC_LAWS, "nan_of_nobody"),
}


@pytest.mark.parametrize("case", METRIC_CASES)
def test_metrics_keep_the_laws(case):
    testing.check_metric(*METRIC_CASES[case], **METRIC_OPTIONS.get(case, {}))


STATISTICS = fc.types.to_type({"accuracy": ("float32", "int32"), "num_examples": "int32"})
FINALIZERS = {"accuracy": lambda s: s[0] / s[1], "num_examples": lambda n: n}

# The aggregation, its metrics, and the laws.
AGGREGATION_CASES = {
    "sum_then_finalize": lambda: (metrics.sum_then_finalize(), FINALIZERS, {}),
    "secure_sum_then_finalize": lambda: (metrics.secure_sum_then_finalize(), FINALIZERS, {}),
    # Whoever has no examples has no accuracy; the number of examples of everybody would be in the distribution.
    "client_distribution": lambda: (metrics.client_distribution({"accuracy": (-9.0, 9.0)}), ["accuracy"], {}),
    # A client of zeros is in the sample as well.
    "finalize_then_sample": lambda: (
        metrics.finalize_then_sample(7, key=KEY),
        FINALIZERS,
        without(testing.AGGREGATION_PROCESS_LAWS, "padding", "non_finite"),
    ),
}
NOT_METRICS = {"MetricFinalizersMismatchError", "finalize_sum"}


@pytest.mark.parametrize("case", AGGREGATION_CASES)
def test_aggregations_of_metrics_keep_the_laws(case):
    aggregation, names, options = AGGREGATION_CASES[case]()
    finalizers = {name: FINALIZERS[name] for name in names}
    statistics = fc.types.to_type({name: STATISTICS[name] for name in names})
    testing.check_aggregation_process(lambda: aggregation.create(finalizers, statistics), **options)


CLIENTS = fc.data.from_clients(learning_references.make_clients((7, 1, 0, 3, 12, 5, 2, 4, 9, 2, 3, 3)))
MODEL = learning_references.linear_model()
CLIENT, SERVER = optax.sgd(0.2, momentum=0.9), optax.adam(0.1)
BATCHING = fc.data.Batching(batch_size=3, num_epochs=2)

INJECTED = optax.inject_hyperparams(optax.sgd)(learning_rate=0.2, momentum=0.9)
PLATEAU = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=0, rtol=0.5))


def by_the_round(round_num):
    return optax.sgd(0.2 * 0.5**round_num, momentum=0.9)


ALGORITHM_CASES = {
    "fed_avg": lambda: (fc.algorithms.fed_avg(MODEL, CLIENT, server_optimizer=SERVER, key=KEY), {}),
    # Noise is released for nobody, too.
    "fed_avg private": lambda: (
        fc.algorithms.fed_avg(MODEL, CLIENT, aggregator=protected(), key=KEY),
        without(testing.LEARNING_PROCESS_LAWS, "empty"),
    ),
    "fed_avg rates": lambda: (fc.algorithms.fed_avg(MODEL, INJECTED, server_optimizer=PLATEAU, key=KEY), {}),
    "fed_prox": lambda: (fc.algorithms.fed_prox(MODEL, by_the_round, strength=0.5, key=KEY), {}),
    "fed_sgd": lambda: (fc.algorithms.fed_sgd(MODEL, server_optimizer=SERVER, key=KEY), {}),
    "fed_eval": lambda: (fc.algorithms.fed_eval(MODEL), {}),
    # A client work with a state; what it collects must fit the budget.
    "compose scaffold": lambda: (composed(scaffold(MODEL, 0.2, len(CLIENTS))), {"memory_budget": 1152}),
    "compose clustered": lambda: (
        composed(clustered(MODEL, CLIENT, 3), MODEL._replace(init=three_models), optax.sgd(1.0)),
        {},
    ),
}
SLOTS = {"apply_optimizer", "broadcast", "compose", "guarded_mean", "leave_out", "metrics_process", "on_part"}
NOT_ALGORITHMS = {"EvaluationState", "LearningState", "federated_evaluation", "left_out_clients", *SLOTS}


def composed(work, model=MODEL, server=SERVER):
    parts = fc.algorithms.broadcast(), work, aggregators.mean(), fc.algorithms.apply_optimizer(server)
    return fc.algorithms.compose(model, *parts, key=KEY)


def three_models(key):
    return jax.vmap(MODEL.init)(jax.random.split(key, 3))


def protected():
    private = aggregators.private_mean(1.0, 0.1, 10, key=KEY)
    return aggregators.robust(aggregators.quantize(8, private, key=KEY))


@pytest.mark.parametrize("case", with_slow(ALGORITHM_CASES, SLOW_ALGORITHMS))
def test_algorithms_keep_the_laws(case):
    make = ALGORITHM_CASES[case]
    testing.check_learning_process(lambda: make()[0], CLIENTS, BATCHING, **make()[1])


def aggregation(case):
    made, names_, _ = AGGREGATION_CASES[case]()
    statistics = fc.types.to_type({name: STATISTICS[name] for name in names_})
    return made.create({name: FINALIZERS[name] for name in names_}, statistics)


ROUNDS = {
    "federated_evaluation": lambda: fc.algorithms.federated_evaluation(MODEL),
    **{case: lambda make=make: make()[0].next for case, make in ALGORITHM_CASES.items()},
    **{
        case: lambda make=make: aggregators.as_process(make()[0], "float32[2]").next
        for case, make in AGGREGATOR_CASES.items()
        # One is of other aggregators, for a struct of two; secure sums check their ranges.
        if case != "each" and not case.startswith("secure")
    },
    **{case: lambda case=case: aggregation(case).next for case in AGGREGATION_CASES if not case.startswith("secure")},
}


@pytest.mark.parametrize("case", with_slow(ROUNDS, SLOW_AGGREGATORS | SLOW_ALGORITHMS))
def test_no_round_waits_for_a_check(case):
    """A call waits for the devices if its plan has checks, such as those of secure sums and of sums of integers."""
    assert not ROUNDS[case]()._body._executable.plan.checks


def names(cases: dict) -> set[str]:
    return {case.split()[0] for case in cases}


def test_every_aggregator_is_among_the_cases():
    assert names(AGGREGATOR_CASES) | NOT_AGGREGATORS == set(aggregators.__all__)


def test_every_algorithm_is_among_the_cases():
    assert names(ALGORITHM_CASES) | NOT_ALGORITHMS == set(fc.algorithms.__all__)


def test_every_metric_is_among_the_cases():
    assert names(METRIC_CASES) | names(AGGREGATION_CASES) | NOT_METRICS == set(metrics.__all__)
