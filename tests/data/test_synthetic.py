import functools

import jax
import numpy as np
import pytest

from fedjax_core.data import _hashing, _synthetic

KEY = jax.random.key(7)
VARIANCE = np.arange(1, 61) ** -1.2


@pytest.fixture(scope="module")
def data():
    return _synthetic.synthetic(1.0, 4.0, num_clients=300, key=KEY)


def test_type_and_labels(data):
    assert str(data.element_type) == "<x=float32[?,60],y=int32[?]>"
    assert data.client_ids == tuple(range(300))
    labels = np.concatenate([client["y"] for client in data.values()])
    assert set(labels.tolist()) == set(range(10))


def test_sizes_follow_the_power_law(data):
    assert data.sizes.min() >= 50
    drawn = np.array([_synthetic._num_examples(np.random.default_rng(i)) for i in range(4000)]) - 50
    assert abs(np.median(drawn) - np.exp(4)) < 5
    shares = [np.mean(drawn < np.exp(4 + 2 * z)) for z in (-1, 1, 2)]
    np.testing.assert_allclose(shares, [0.159, 0.841, 0.977], atol=0.03)


def test_features_within_a_client_have_covariance_sigma(data):
    centered = np.concatenate([client["x"] - client["x"].mean(0) for client in data.values()])
    covariance = centered.T @ centered / (len(centered) - len(data))
    np.testing.assert_allclose(np.diag(covariance), VARIANCE, rtol=0.05)
    correlation = covariance / np.sqrt(np.outer(VARIANCE, VARIANCE))
    assert np.abs(correlation - np.eye(60)).max() < 0.05


@pytest.mark.parametrize("beta", [0.0, 0.25, 4.0])
def test_beta_is_the_variance_of_the_means_of_features(beta):
    data = _synthetic.synthetic(0.0, beta, num_clients=300, key=KEY)
    centers = np.stack([client["x"].mean(0) for client in data.values()])
    assert abs(np.var(centers.mean(1)) - beta - 1 / 60) < 0.3 * beta + 0.01
    within = np.var(centers, axis=1, ddof=1).mean()
    assert abs(within - 1 - (VARIANCE.mean() * (1 / data.sizes).mean())) < 0.05


def test_models_have_variance_one_around_their_mean():
    weights, bias = _synthetic._model(np.random.default_rng(0), mean=3.0)
    assert weights.shape == (60, 10) and bias.shape == (10,)
    assert abs(weights.mean() - 3) < 0.15 and abs(weights.var() - 1) < 0.15


def test_alpha_moves_all_scores_alike_and_no_label(data):
    other = _synthetic.synthetic(0.0, 4.0, num_clients=300, key=KEY)
    for client in range(20):
        np.testing.assert_array_equal(data[client]["x"], other[client]["x"])
        assert np.mean(data[client]["y"] == other[client]["y"]) > 0.99


def test_labels_are_those_of_the_clients_own_model(data):
    accuracies = []
    for client in range(20):
        x, y = data[client]["x"], data[client]["y"]
        random = _hashing.generator(KEY, f"synthetic client {client}")
        _synthetic._num_examples(random)
        weights, bias = _synthetic._model(random, mean=random.normal(0, 1))
        assert np.mean(np.argmax(x @ weights + bias, 1) == y) > 0.99
        elsewhere = data[client + 1]
        accuracies.append(np.mean(np.argmax(elsewhere["x"] @ weights + bias, 1) == elsewhere["y"]))
    assert np.mean(accuracies) < 0.5


def test_iid_clients_share_model_and_features():
    data = _synthetic.synthetic_iid(num_clients=100, key=KEY)
    x, y = (np.concatenate([client[field] for client in data.values()]) for field in ("x", "y"))
    weights, bias = _synthetic._model(_hashing.generator(KEY, "synthetic_iid model"), mean=0.0)
    assert np.mean(np.argmax(x @ weights + bias, 1) == y) > 0.999
    assert np.abs(x.mean(0) / np.sqrt(VARIANCE)).max() < 0.05
    np.testing.assert_allclose(x.var(0), VARIANCE, rtol=0.05)


@pytest.mark.parametrize("make", [functools.partial(_synthetic.synthetic, 0.5, 0.5), _synthetic.synthetic_iid])
def test_a_client_depends_on_key_and_number_alone(make):
    few, many = make(3, key=jax.random.key(0)), make(6, key=jax.random.key(0))
    other = make(3, key=jax.random.key(1))
    for client in few:
        np.testing.assert_array_equal(few[client]["x"], many[client]["x"])
        np.testing.assert_array_equal(few[client]["y"], many[client]["y"])
        assert not np.array_equal(few[client]["x"][:50], other[client]["x"][:50])
    assert not np.array_equal(few[0]["x"][:50], few[1]["x"][:50])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": -1.0}, ValueError, r"alpha=.*at least 0 and finite, got -1\.0"),
        ({"beta": float("nan")}, ValueError, "beta=.*got nan"),
        ({"beta": "1"}, TypeError, "beta=.*got '1'"),
        ({"num_clients": 0}, ValueError, "at least 1, got 0"),
        ({"num_clients": 2.5}, TypeError, r"integer of at least 1, got 2\.5"),
        ({"key": 0}, TypeError, r"key=jax\.random\.key\(0\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        _synthetic.synthetic(**({"alpha": 1.0, "beta": 1.0, "num_clients": 2, "key": KEY} | arguments))
