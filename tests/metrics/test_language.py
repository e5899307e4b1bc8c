import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import metrics

METRICS = {"token_accuracy": metrics.token_accuracy(), "perplexity": metrics.perplexity()}


def _batch(seed, size=9, length=7, vocabulary=5):
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(size, length, vocabulary)) * 3).astype(np.float32)
    tokens = random.integers(0, vocabulary, (size, length)).astype(np.int32)
    return logits, {"y": tokens}, random.random(size) < 0.7


def _token_losses(logits, tokens):
    logits = logits.astype(np.float64)
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, tokens[..., None], -1)[..., 0]


def _kept(batch, mask, ignored):
    return mask[:, None] & ~np.isin(batch["y"], ignored)


@pytest.mark.parametrize("ignored", [(), (0,), (0, 3)])
def test_token_accuracy_equals_the_reference(ignored):
    logits, batch, mask = _batch(0)
    metric = metrics.token_accuracy(ignored)
    statistic = metric.measure(logits, batch, mask)
    kept = _kept(batch, mask, ignored)
    correct = (logits.argmax(-1) == batch["y"])[kept]
    assert [float(part) for part in statistic] == [correct.sum(), kept.sum()]
    np.testing.assert_allclose(metric.finalize(statistic), correct.mean(), rtol=1e-6)


@pytest.mark.parametrize("ignored", [(), (0,), (0, 3)])
def test_perplexity_equals_the_reference(ignored):
    logits, batch, mask = _batch(1)
    metric = metrics.perplexity(iter(ignored))
    kept = _kept(batch, mask, ignored)
    expected = np.exp(_token_losses(logits, batch["y"])[kept].mean())
    for _ in range(2):
        statistic = metric.measure(logits, batch, mask)
        np.testing.assert_allclose(metric.finalize(statistic), expected, rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_laws(name):
    metric = METRICS[name]
    logits, batch, mask = _batch(2)
    whole = metric.measure(logits, batch, mask)
    dirty = np.where(mask[:, None, None], logits, np.nan)
    unknown = {"y": np.where(mask[:, None], batch["y"], -5)}
    jax.tree.map(np.testing.assert_array_equal, whole, metric.measure(dirty, unknown, mask))
    halves = [metric.measure(logits[part], {"y": batch["y"][part]}, mask[part]) for part in (slice(0, 4), slice(4, 9))]
    added = jax.tree.map(jnp.add, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, added)
    assert jnp.isnan(metric.finalize(metric.measure(logits, batch, np.zeros(9, bool))))
    padding = {"y": np.zeros_like(batch["y"])}
    assert jnp.isnan(metric.finalize(metric.measure(logits, padding, mask)))


@pytest.mark.parametrize("name", METRICS)
def test_nan_at_ignored_positions_does_not_leak(name):
    metric = METRICS[name]
    logits, batch, mask = _batch(3)
    dirty = np.where((batch["y"] == 0)[..., None], np.nan, logits)
    jax.tree.map(
        np.testing.assert_array_equal,
        metric.measure(logits, batch, mask),
        metric.measure(dirty, batch, mask),
    )


def test_unknown_tokens_are_wrong_and_have_no_perplexity():
    logits, batch, _ = _batch(4)
    batch = {"y": np.full_like(batch["y"], -1)}
    everyone = np.ones(9, bool)
    accuracy, perplexity = metrics.token_accuracy(), metrics.perplexity()
    assert accuracy.finalize(accuracy.measure(logits, batch, everyone)) == 0
    assert jnp.isnan(perplexity.finalize(perplexity.measure(logits, batch, everyone)))
    ignoring = metrics.perplexity(ignored=(-1,)).measure(logits, batch, everyone)
    assert [float(part) for part in ignoring] == [0, 0]


@pytest.mark.parametrize("name", METRICS)
def test_traces_with_symbolic_sizes(name):
    size, length = jax.export.symbolic_shape("b, t")
    logits = jax.ShapeDtypeStruct((size, length, 6), jnp.float32)
    tokens = jax.ShapeDtypeStruct((size, length), jnp.int32)
    mask = jax.ShapeDtypeStruct((size,), jnp.bool_)
    statistic = jax.eval_shape(METRICS[name].measure, logits, {"y": tokens}, mask)
    assert [(part.shape, part.dtype) for part in statistic] == [((), jnp.float32)] * 2


@pytest.mark.parametrize("name", METRICS)
def test_refuses_labels_that_are_no_sequences(name):
    with pytest.raises(ValueError, match=rf"{name} compares scores of shape \[B, T, C\]"):
        METRICS[name].measure(np.zeros((5, 3)), {"y": np.zeros(5, int)}, np.ones(5, bool))


@pytest.mark.parametrize("symbols", [(), (4,), (1, 3, 4), range(100)])
@pytest.mark.parametrize("ignored", [(), (0,), (0, 3)])
def test_out_of_vocabulary_rate_equals_the_reference(symbols, ignored):
    _, batch, mask = _batch(5)
    metric = metrics.out_of_vocabulary_rate(symbols, ignored)
    statistic = metric.measure(None, batch, mask)
    kept = _kept(batch, mask, ignored)
    found = np.isin(batch["y"], list(symbols))[kept]
    assert [float(part) for part in statistic] == [found.sum(), kept.sum()]
    np.testing.assert_allclose(metric.finalize(statistic), found.mean(), rtol=1e-6)


def test_out_of_vocabulary_rate_of_tokens_that_are_all_padding_is_nan():
    metric = metrics.out_of_vocabulary_rate((1,))
    assert jnp.isnan(metric.finalize(metric.measure(None, {"y": np.zeros((2, 3), int)}, np.ones(2, bool))))


@pytest.mark.parametrize("tokens", [0, "a", (0.0,), (True,), None])
def test_ignored_tokens_are_integers(tokens):
    for metric in (metrics.token_accuracy, metrics.perplexity):
        with pytest.raises(
            TypeError, match=rf"{metric.__name__}\(ignored=...\) must be a tuple of integers such as \(0,\)"
        ):
            metric(tokens)
    with pytest.raises(TypeError, match=r"out_of_vocabulary_rate\(symbols=...\) must be a tuple of integers"):
        metrics.out_of_vocabulary_rate(tokens)


def test_out_of_vocabulary_rate_is_of_sequences_of_integers():
    metric = metrics.out_of_vocabulary_rate((1,))
    with pytest.raises(ValueError, match=r"out_of_vocabulary_rate takes integers of shape \[B, T\], got batch\['y'\]"):
        metric.measure(None, {"y": np.zeros(5, int)}, np.ones(5, bool))
    with pytest.raises(TypeError, match="out_of_vocabulary_rate compares with integer labels, got float"):
        metric.measure(None, {"y": np.zeros((5, 2))}, np.ones(5, bool))


FEDJAX_TOKENS = np.array([[1, 2, 2, 1, 3, 0]])
FEDJAX_SCORES = np.eye(4, dtype=np.float32)[[[1, 0, 2, 1, 3, 0]]] + np.float32([0, 0, 0, -np.inf])
"""The tokens and scores of FedJAX's documentation, where the logits of token 3 are masked."""


def test_accuracy_at_each_position():
    whole, each = metrics.token_accuracy(), metrics.token_accuracy(per_position=True)
    value = [m.finalize(m.measure(FEDJAX_SCORES, {"y": FEDJAX_TOKENS}, np.ones(1, bool))) for m in (whole, each)]
    np.testing.assert_allclose(value[0], 3 / 5, rtol=1e-6)
    np.testing.assert_array_equal(value[1], [1, 0, 1, 1, 0, np.nan])


def test_tokens_among_the_highest_scores():
    scores = np.float32(
        [[0, 1, 0.5, 0], [1, 0.5, 0, 0], [0.8, 0, 0.7, 0], [0.5, 1, 0, 0], [0, 0.5, 0, 1], [0.5, 0, 0.9, 0]]
    )
    masked = (scores + np.float32([0, 0, 0, -np.inf]))[None]
    for k, expected in [(1, 2 / 5), (2, 3 / 5), (3, 4 / 5)]:
        metric = metrics.token_accuracy(k=k)
        value = metric.finalize(metric.measure(masked, {"y": FEDJAX_TOKENS}, np.ones(1, bool)))
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [metrics.token_accuracy, metrics.perplexity, lambda **options: metrics.out_of_vocabulary_rate((2, 3), **options)],
    ids=["token_accuracy", "perplexity", "out_of_vocabulary_rate"],
)
def test_each_position_is_the_metric_of_this_position(make):
    logits, batch, mask = _batch(6)
    each, one = make(per_position=True), make()
    statistic = each.measure(logits, batch, mask)
    assert [part.shape for part in statistic] == [(7,), (7,)]
    expected = [
        one.finalize(one.measure(logits[:, t : t + 1], {"y": batch["y"][:, t : t + 1]}, mask)) for t in range(7)
    ]
    np.testing.assert_allclose(each.finalize(statistic), expected, rtol=1e-6)
    with pytest.raises(TypeError, match=r"\(per_position=\.\.\.\) must be .* write per_position=True"):
        make(per_position="T")


def test_number_of_highest_scores_must_be_positive():
    with pytest.raises(ValueError, match=r"token_accuracy\(k=\.\.\.\)"):
        metrics.token_accuracy(k=0)
