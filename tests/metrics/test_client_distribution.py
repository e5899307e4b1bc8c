"""Mean, deviation and quantiles of the clients' metrics against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.metrics import client_distribution

STATISTICS = fc.types.to_type({"accuracy": ("float32", "float32"), "num_examples": "int32", "per_class": "float32[3]"})
FINALIZERS = {"accuracy": lambda s: s[0] / s[1], "num_examples": lambda n: n, "per_class": lambda s: s}
RANGES = {"accuracy": (0.0, 1.0), "per_class": (-2.0, 2.0)}
QUANTILES = (0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0)
BINS = 64


def _client(random):
    return {
        # NaN or infinite a third of the time
        "accuracy": tuple(np.float32([random.integers(0, 9), random.integers(0, 3) * 8])),
        "num_examples": np.int32(random.integers(0, 100)),
        "per_class": np.where(random.random(3) < 0.8, random.normal(size=3), np.nan).astype(np.float32),
    }


def _values(clients):
    """The metrics of every client in float64, as arrays `[C, ...]`."""
    with np.errstate(all="ignore"):
        return {
            "accuracy": np.array([np.float64(c["accuracy"][0]) / np.float64(c["accuracy"][1]) for c in clients]),
            "num_examples": np.array([c["num_examples"] for c in clients], np.float64),
            "per_class": np.array([c["per_class"] for c in clients], np.float64),
        }


def _column(values, statistic, nobody=np.nan, least=1):
    """A statistic of the finite entries of every column."""
    columns = values.reshape(len(values), int(np.prod(values.shape[1:]))).T
    finite = [column[np.isfinite(column)] for column in columns]
    return np.array([statistic(c) if len(c) >= least else nobody for c in finite]).reshape(values.shape[1:])


@pytest.fixture(scope="module")
def process():
    return client_distribution(RANGES, QUANTILES, BINS).create(FINALIZERS, STATISTICS)


def test_is_an_aggregation_process_whose_type_tells_what_is_in_it(process):
    assert isinstance(process, fc.templates.AggregationProcess) and not process.is_weighted
    result = (
        "<accuracy=<mean=float32,num_clients=int32,quantiles=float32[8],stddev=float32>,"
        "num_examples=<mean=float32,num_clients=int32,stddev=float32>,"
        "per_class=<mean=float32[3],num_clients=int32[3],quantiles=float32[8,3],stddev=float32[3]>>@SERVER"
    )
    measured = (
        "<num_non_finite=<accuracy=int32,num_examples=int32,per_class=int32>,"
        "num_outside=<accuracy=int32,per_class=int32>>@SERVER"
    )
    assert str(process.next.type_signature.result["result"]) == result
    assert str(process.next.type_signature.result["measurements"]) == measured


@pytest.mark.parametrize("number", [40, 3, 1, 0])
def test_equals_the_reference(process, number):
    random = np.random.default_rng(number)
    clients = [_client(random) for _ in range(number)]
    _, result, measured = process.next(process.initialize(), clients)
    for name, values in _values(clients).items():
        if not number:
            values = values.reshape(0, *((3,) if name == "per_class" else ()))
        found = result[name]
        np.testing.assert_array_equal(found["num_clients"], _column(values, len, 0))
        np.testing.assert_allclose(found["mean"], _column(values, np.mean), rtol=1e-5, atol=1e-6)
        stddev = _column(values, lambda c: c.std(ddof=1), least=2)
        np.testing.assert_allclose(found["stddev"], stddev, rtol=1e-5, atol=1e-6)
        rows = values.reshape(number, int(np.prod(values.shape[1:])))
        assert measured["num_non_finite"][name] == (~np.isfinite(rows)).any(1).sum()
        if name in RANGES:
            lower, upper = RANGES[name]
            outside = np.isfinite(rows) & ((rows < lower) | (rows > upper))
            assert measured["num_outside"][name] == outside.any(1).sum()


@pytest.mark.parametrize("number", [40, 3, 1])
def test_quantiles_are_within_a_bin(process, number):
    random = np.random.default_rng(number)
    clients = [_client(random) for _ in range(number)]
    _, result, _ = process.next(process.initialize(), clients)
    for name, ends in RANGES.items():
        values, found = _values(clients)[name], np.asarray(result[name]["quantiles"])
        values = np.where(np.isfinite(values), values.clip(*ends), np.nan)
        for q, quantile in zip(QUANTILES, found):
            expected = _column(values, lambda c, q=q: np.quantile(c, q, method="inverted_cdf"))
            np.testing.assert_allclose(quantile, expected, rtol=0, atol=(ends[1] - ends[0]) / BINS + 1e-6)


def test_nobody_is_nan(process):
    _, result, measured = process.next(process.initialize(), [])
    for name, described in result.items():
        for key in described.keys() - {"num_clients"}:
            assert np.isnan(described[key]).all(), (name, key)
    assert not any(map(np.any, jax.tree.leaves(measured)))


def test_deviation_of_nearly_equal_values_does_not_cancel():
    """Sums of squares in float32 would give 0 here, or the root of a negative number."""
    process = client_distribution().create({"size": lambda s: s}, fc.types.to_type({"size": "float32"}))
    values = (4000.0 + np.random.default_rng(0).normal(size=500) / 10).astype(np.float32)
    _, result, _ = process.next(process.initialize(), [{"size": v} for v in values])
    np.testing.assert_allclose(result["size"]["stddev"], values.astype(np.float64).std(ddof=1), rtol=1e-3)
    np.testing.assert_allclose(result["size"]["mean"], values.astype(np.float64).mean(), rtol=1e-7)


def test_reports_from_an_evaluation():
    model = fc.models.logistic_regression(2, 2, metrics={"accuracy": fc.metrics.accuracy()})
    process = fc.algorithms.fed_eval(model, client_distribution({"accuracy": (0, 1)}, (0.5,), 10))
    state = process.set_model_weights(process.initialize(), {"bias": np.zeros(2), "kernel": np.eye(2)})
    clients = [{"x": np.eye(2)[y], "y": np.array(labels, np.int32)} for y, labels in (([0, 1], [0, 0]), ([0], [0]))]
    _, metrics = process.next(state, [*clients, {"x": np.zeros((0, 2)), "y": np.zeros(0, np.int32)}])
    found = metrics["client_work"]["eval"]
    assert found["current_round_metrics"]["accuracy"]["mean"] == 0.75
    assert found["current_round_metrics"]["accuracy"]["num_clients"] == 2
    assert found["current_round_metrics"]["num_examples"]["mean"] == 1.0
    assert found["num_non_finite"]["accuracy"] == 1 and found["num_non_finite"]["num_examples"] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ranges": (0, 1)}, TypeError, r"ranges=...\) must be a dict from metric name to range, got \(0, 1\)"),
        ({"ranges": {"loss": (1, 0)}}, ValueError, r"ranges=\{'loss': ...\}\) must be two finite numbers"),
        ({"ranges": {"loss": 1}}, TypeError, "must be two finite numbers"),
        ({"quantiles": ()}, TypeError, r"quantiles=...\) must be numbers from 0 to 1, .*got \(\)"),
        ({"quantiles": "median"}, TypeError, "must be numbers from 0 to 1"),
        ({"quantiles": (0.5, 50)}, ValueError, "must be numbers from 0 to 1"),
        ({"quantiles": (float("nan"),)}, ValueError, "must be numbers from 0 to 1"),
        ({"num_bins": 0}, ValueError, r"num_bins=...\) must be an integer of at least 1, got 0"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        client_distribution(**arguments)


def test_errors_of_what_is_aggregated():
    with pytest.raises(ValueError, match=r"must name metrics, got \['acc'\]; the metrics are \['accuracy', 'num_ex"):
        client_distribution({"acc": (0, 1)}).create(FINALIZERS, STATISTICS)
    with pytest.raises(ValueError, match="do not have the names of the metrics"):
        client_distribution().create({"loss": lambda s: s}, STATISTICS)
    with pytest.raises(TypeError, match="takes real metrics, got complex64"):
        client_distribution().create({"loss": lambda s: s * 1j}, fc.types.to_type({"loss": "float32"}))
    with pytest.raises(TypeError, match="takes metrics by name, got a finalizer of all"):
        client_distribution().create(lambda s: s["loss"], fc.types.to_type({"loss": "float32"}))


def test_single_quantile_may_be_a_number():
    process = client_distribution({"loss": (0, 8)}, 0.5, 8).create(lambda s: s, fc.types.to_type({"loss": "float32"}))
    _, result, _ = process.next(process.initialize(), [{"loss": jnp.float32(v)} for v in (1, 2, 7)])
    np.testing.assert_allclose(result["loss"]["quantiles"], [2.5])
