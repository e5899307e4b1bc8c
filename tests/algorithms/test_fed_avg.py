"""Federated averaging against the NumPy oracle, and its arguments."""

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from tests import learning_references as reference

KEY = jax.random.key(3)
SIZES = (7, 4, 1, 0, 11)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients(SIZES)


def _train_metrics(metrics):
    train = metrics["client_work"]["train"]
    return {name: train[name] for name in ("loss", "accuracy", "num_examples")}


def _run(process, rounds, **batching):
    state, history = process.initialize(), []
    for _ in range(rounds):
        state, metrics = process.next(state, reference.cohort(CLIENTS, **batching))
        history.append(metrics)
    return state, history


def _accuracy_weight(metrics):
    return 0.25 + metrics["accuracy"]


@pytest.mark.parametrize("weighting", ["examples", "uniform", _accuracy_weight])
@pytest.mark.parametrize(
    ("optimizer", "oracle"),
    [
        (optax.sgd(0.3), reference.SGD(0.3)),
        (
            optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.2, momentum=0.9)),
            reference.SGD(0.2, momentum=0.9, decay=0.1),
        ),
    ],
    ids=["sgd", "momentum_and_decay"],
)
def test_two_rounds_agree_with_the_oracle(optimizer, oracle, weighting):
    process = fc.algorithms.fed_avg(MODEL, optimizer, weighting=weighting, key=KEY)
    state, history = _run(process, 2, batch_size=3, num_epochs=3)
    weights = reference.as_float64(process.initialize().weights)
    for metrics in history:
        update, expected = reference.fed_avg_update(weights, CLIENTS, oracle, 3, 3, weighting)
        weights = jax.tree.map(np.subtract, weights, update)
        reference.assert_close(_train_metrics(metrics), expected)
    reference.assert_close(state.weights, weights)
    assert int(state.round_num) == 2


def test_batches_cross_epochs():
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.3), key=KEY)
    _, metrics = process.next(process.initialize(), reference.cohort({"a": CLIENTS["b"]}, batch_size=3, num_epochs=3))
    assert metrics["aggregator"]["mean_weight"]["total"] == 12.0
    assert metrics["aggregator"]["mean_weight"]["total"].dtype == np.float32
    assert metrics["client_work"]["train"]["num_examples"] == 12


@pytest.mark.parametrize(
    "server_optimizer",
    [
        optax.sgd(1.0, momentum=0.9),
        optax.adam(0.05, eps=1e-3),
        optax.chain(optax.scale_by_yogi(eps=1e-3, initial_accumulator_value=0.0), optax.scale_by_learning_rate(0.05)),
        optax.adagrad(0.1, eps=1e-3),
        optax.adamw(optax.linear_schedule(0.1, 0.01, 5), weight_decay=0.01),
    ],
    ids=["fed_avg_m", "fed_adam", "fed_yogi", "fed_adagrad", "schedule"],
)
def test_server_optimizer_takes_the_update_as_a_gradient(server_optimizer):
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.3), server_optimizer=server_optimizer, key=KEY)
    _, history = _run(process, 6, batch_size=3)
    weights = process.initialize().weights
    optimizer_state = server_optimizer.init(weights)
    for _ in range(2):
        update, _ = reference.fed_avg_update(reference.as_float64(weights), CLIENTS, reference.SGD(0.3), 3, 1)
        gradient = jax.tree.map(lambda u: u.astype(np.float32), update)
        step, optimizer_state = server_optimizer.update(gradient, optimizer_state, weights)
        weights = optax.apply_updates(weights, step)
    state_after_two, _ = _run(process, 2, batch_size=3)
    reference.assert_close(state_after_two.weights, weights, rtol=1e-4, atol=1e-5)
    assert _train_metrics(history[-1])["loss"] < _train_metrics(history[0])["loss"]


def test_fed_sgd_agrees_with_the_oracle():
    process = fc.algorithms.fed_sgd(MODEL, server_optimizer=optax.sgd(0.5), key=KEY)
    state, history = _run(process, 2, batch_size=3)
    weights = reference.as_float64(process.initialize().weights)
    everyone = {name: np.concatenate([c[name] for c in CLIENTS.values()]) for name in ("x", "y")}
    for metrics in history:
        reference.assert_close(_train_metrics(metrics), reference.evaluate(weights, CLIENTS))
        slope = reference.gradient(weights, everyone)
        weights = jax.tree.map(lambda w, g: w - 0.5 * g, weights, slope)
    reference.assert_close(state.weights, weights)


def test_fed_sgd_weighs_clients_uniformly():
    process = fc.algorithms.fed_sgd(MODEL, server_optimizer=optax.sgd(1.0), weighting="uniform", key=KEY)
    state, (metrics,) = _run(process, 1, batch_size=3)
    weights = reference.as_float64(process.initialize().weights)
    slopes = [reference.gradient(weights, client) for client in CLIENTS.values() if len(client["y"])]
    mean = jax.tree.map(lambda *g: sum(g) / len(g), *slopes)
    reference.assert_close(state.weights, jax.tree.map(np.subtract, weights, mean))
    assert metrics["aggregator"]["mean_weight"]["total"] == 4.0


def test_wrong_client_optimizers_show_the_repaired_call():
    for wrong in (0.1, optax.sgd, "sgd", None):
        with pytest.raises(TypeError, match=r"client_optimizer must be an optax.*write optax\.sgd"):
            fc.algorithms.fed_avg(MODEL, wrong, key=KEY)


def test_wrong_server_optimizers_show_the_repaired_call():
    with pytest.raises(TypeError, match=r"server_optimizer must be an optax.*write optax\.sgd"):
        fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), server_optimizer=optax.adam, key=KEY)
    with pytest.raises(TypeError, match="server_optimizer must be an optax"):
        fc.algorithms.fed_sgd(MODEL, server_optimizer=1.0, key=KEY)


@pytest.mark.parametrize(("weighting", "error"), [("example", ValueError), (1.0, TypeError), (None, TypeError)])
def test_wrong_weightings_list_the_right_ones(weighting, error):
    with pytest.raises(error, match='weighting must be "examples", "uniform" or a function'):
        fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), weighting=weighting, key=KEY)
    with pytest.raises(error, match='weighting must be "examples", "uniform" or a function'):
        fc.algorithms.fed_sgd(MODEL, server_optimizer=optax.sgd(0.1), weighting=weighting, key=KEY)


def test_weighting_that_gives_no_scalar_is_refused():
    with pytest.raises(TypeError, match=r"weighting must return a scalar, got the shape \(2,\)"):
        fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), weighting=lambda m: np.ones(2, np.float32), key=KEY)


@pytest.mark.parametrize("key", [0, None, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0))])
@pytest.mark.parametrize("name", ["fed_avg", "fed_sgd", "compose"])
def test_wrong_keys_show_the_repaired_call(name, key):
    calls = {
        "fed_avg": lambda: fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), key=key),
        "fed_sgd": lambda: fc.algorithms.fed_sgd(MODEL, server_optimizer=optax.sgd(0.1), key=key),
        "compose": lambda: fc.algorithms.compose(MODEL, None, None, None, None, key=key),
    }
    with pytest.raises(TypeError, match=rf"{name}\(key=\.\.\.\).*write key=jax\.random\.key\(0\)"):
        calls[name]()


def test_what_is_no_model_is_refused():
    for wrong in (fc.models.mlp, {"w": 1.0}, None):
        with pytest.raises(TypeError, match=r"a model must be a fc\.Model"):
            fc.algorithms.fed_avg(wrong, optax.sgd(0.1), key=KEY)


@pytest.mark.parametrize("metrics", [None, ["accuracy"], {"accuracy": fc.metrics.accuracy}, {1: fc.metrics.accuracy()}])
def test_metrics_of_a_wrong_kind_are_refused(metrics):
    with pytest.raises(TypeError, match="metrics of a model must be a dict from name to Metric"):
        fc.algorithms.fed_avg(MODEL._replace(metrics=metrics), optax.sgd(0.1), key=KEY)


def test_loss_that_is_averaged_is_refused_with_the_rule():
    model = MODEL._replace(loss=lambda predictions, batch: MODEL.loss(predictions, batch).mean())
    with pytest.raises(TypeError, match="one value for each example"):
        fc.algorithms.fed_avg(model, optax.sgd(0.1), key=KEY)


def test_integer_weights_are_refused_with_the_place_for_them():
    model = MODEL._replace(init=lambda key: {**MODEL.init(key), "steps": np.int32(0)})
    with pytest.raises(TypeError, match=r"'steps' is int32; keep it in ModelWeights"):
        fc.algorithms.fed_avg(model, optax.sgd(0.1), key=KEY)


def test_metric_whose_statistic_grows_with_the_batch_is_refused():
    growing = fc.contracts.Metric(lambda predictions, batch, mask: predictions, lambda statistic: statistic)
    with pytest.raises(TypeError, match=r"must have one shape for batches of any size, but.*growing"):
        fc.algorithms.fed_avg(MODEL._replace(metrics={"growing": growing}), optax.sgd(0.1), key=KEY)


_RIGHT = {"x": np.zeros((2, 4), np.float32), "y": np.zeros(2, np.int32)}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({**_RIGHT, "x": np.zeros((2, 5), np.float32)}, "x"),
        ({**_RIGHT, "x": np.zeros((2, 4), np.int32)}, "x"),
        ({**_RIGHT, "y": np.zeros((2, 1), np.int32)}, "y"),
        ({"x": _RIGHT["x"]}, "y"),
        ({**_RIGHT, "y": np.zeros(3, np.int32)}, "y"),
        ({**_RIGHT, "y": ["one", "two"]}, "y"),
    ],
    ids=["shape", "dtype", "rank", "missing", "length", "strings"],
)
def test_wrong_client_data_is_refused_by_client_and_field(trained, wrong, field):
    process, evaluation = trained
    state = process.initialize()
    calls = (lambda c: process.next(state, c), lambda c: evaluation(state.weights, c))
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=rf"client 1.*{field}"):
            call([_RIGHT, wrong])


def test_wrong_cohorts_are_refused_by_field(trained):
    process, _ = trained
    data = fc.data.from_clients([{**_RIGHT, "y": np.zeros(2, np.float32)}])
    with pytest.raises(TypeError, match="y=float32"):
        process.next(process.initialize(), data.cohort([0], fc.data.Batching(2)))


@pytest.fixture(scope="module")
def trained():
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), key=KEY)
    return process, fc.algorithms.federated_evaluation(MODEL)


def test_fed_yogi_moves_no_weight_whose_gradient_is_zero():
    """The recipe of the docstring against the paper's update (Reddi et al. 2021) with bias correction, in float64."""
    optimizer = optax.chain(
        optax.scale_by_yogi(eps=1e-3, initial_accumulator_value=0.0), optax.scale_by_learning_rate(0.01)
    )
    gradients = np.array([[0.0, 1.0], [0.0, -0.5], [0.0, 2.0]])
    state, m, v = optimizer.init(jax.numpy.zeros(2)), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(gradients, 1):
        update, state = optimizer.update(jax.numpy.asarray(gradient, jax.numpy.float32), state)
        m = 0.9 * m + 0.1 * gradient
        v = v - 0.001 * np.sign(v - gradient**2) * gradient**2
        expected = -0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-3)
        np.testing.assert_allclose(update, expected, rtol=1e-4)
        assert update[0] == 0
