"""Derivatives of whole rounds: with respect to the clients' learning rate, and to the initial weights.

The oracle is finite differences of the same rounds in plain NumPy float64. The cohort is ragged, its
batches cross epochs and are padded, and one client has no examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from tests import learning_references as reference
from tests.marks import with_slow

KEY = jax.random.key(13)
CLIENTS = reference.make_clients((5, 3, 0, 4, 7, 1))
HELD_OUT = reference.make_clients((20,), seed=9)
RATE, MOMENTUM, SERVER_RATE, EPS = 0.3, 0.9, 0.1, 1e-3
BATCH_SIZE, EPOCHS = 3, 2
EXACT = {"rtol": 1e-6, "atol": 1e-9}
ROUNDS = {"one round": 1, "two rounds with Adam": 2}

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def _server(rounds):
    return optax.sgd(1.0) if rounds == 1 else optax.adam(SERVER_RATE, eps=EPS)


def _held_out_loss(rate, weights, rounds: int):
    """The mean loss of the held-out examples after some rounds from `weights`."""
    model = reference.linear_model()
    optimizer = optax.sgd(rate, momentum=MOMENTUM)
    process = fc.algorithms.fed_avg(model, optimizer, server_optimizer=_server(rounds), key=KEY)
    cohort = fc.pack_cohort(reference.cohort(CLIENTS, batch_size=BATCH_SIZE, num_epochs=EPOCHS))
    state = process.initialize()._replace(weights=weights)
    for _ in range(rounds):
        state, _ = process.next.as_function()(state, cohort)
    (held_out,) = HELD_OUT.values()
    return model.loss(model.predict(state.weights, held_out), held_out).mean()


def _numpy_loss(rate, weights, rounds: int) -> float:
    first = second = jax.tree.map(np.zeros_like, weights)
    for t in range(1, rounds + 1):
        update, _ = reference.fed_avg_update(weights, CLIENTS, reference.SGD(rate, MOMENTUM), BATCH_SIZE, EPOCHS)
        if rounds == 1:
            weights = jax.tree.map(np.subtract, weights, update)
            continue
        first = jax.tree.map(lambda m, u: 0.9 * m + 0.1 * u, first, update)
        second = jax.tree.map(lambda v, u: 0.999 * v + 0.001 * u**2, second, update)
        weights = jax.tree.map(
            lambda w, m, v, t=t: w - SERVER_RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + EPS),
            weights, first, second,
        )  # fmt: skip
    return float(reference.evaluate(weights, HELD_OUT)["loss"])


def _initial_weights() -> dict:
    return reference.as_float64(reference.linear_model().init(KEY))


@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
def test_the_rounds_are_those_of_the_reference(rounds):
    weights = _initial_weights()
    np.testing.assert_allclose(_held_out_loss(RATE, weights, rounds), _numpy_loss(RATE, weights, rounds), rtol=1e-10)


@pytest.mark.parametrize("rounds", with_slow(ROUNDS.values(), {2}), ids=ROUNDS)
def test_gradient_with_respect_to_the_learning_rate(rounds):
    weights, step = _initial_weights(), 1e-5
    slope = jax.jit(jax.grad(_held_out_loss), static_argnums=2)(RATE, weights, rounds)
    ahead, behind = (_numpy_loss(RATE + s, weights, rounds) for s in (step, -step))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), **EXACT)
    assert abs(slope) > 1e-2


@pytest.mark.parametrize("rounds", with_slow(ROUNDS.values(), {2}), ids=ROUNDS)
def test_gradient_with_respect_to_the_initial_weights(rounds):
    weights, step = _initial_weights(), 1e-5
    slope = jax.jit(jax.grad(_held_out_loss, argnums=1), static_argnums=2)(RATE, weights, rounds)

    def difference(name, place):
        def moved(by):
            changed = {n: w.copy() for n, w in weights.items()}
            changed[name][place] += by
            return _numpy_loss(RATE, changed, rounds)

        return (moved(step) - moved(-step)) / (2 * step)

    expected = {n: np.array([difference(n, p) for p in np.ndindex(w.shape)]) for n, w in weights.items()}
    reference.assert_close({n: g.reshape(-1) for n, g in slope.items()}, expected, **EXACT)
    assert fc.trees.norm(slope) > 1e-2


@pytest.mark.slow
def test_many_learning_rates_at_once():
    weights = _initial_weights()
    slope = jax.grad(lambda rate: _held_out_loss(rate, weights, 1))
    rates = jnp.array([0.0, 0.1, 0.3])
    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(rates), [jax.jit(slope)(rate) for rate in rates], rtol=1e-10)


@pytest.mark.slow
def test_second_derivative():
    weights, step = _initial_weights(), 1e-4
    curvature = jax.jit(jax.grad(jax.grad(lambda rate: _held_out_loss(rate, weights, 1))))(RATE)
    middle, ahead, behind = (_numpy_loss(RATE + s, weights, 1) for s in (0, step, -step))
    np.testing.assert_allclose(curvature, (ahead - 2 * middle + behind) / step**2, rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(lambda rate: optax.adam(rate, eps=1e-3), marks=pytest.mark.slow),
        pytest.param(lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)), marks=pytest.mark.slow),
        # The round is traced whole before it is differentiated.
        lambda rate: optax.inject_hyperparams(optax.sgd)(learning_rate=rate),
    ],
)
def test_other_client_optimizers(optimizer):
    weights, step = _initial_weights(), 1e-5
    cohort = fc.pack_cohort(reference.cohort(CLIENTS))

    @jax.jit
    def moved(rate):
        process = fc.algorithms.fed_avg(reference.linear_model(), optimizer(rate), key=KEY)
        state, _ = process.next.as_function()(process.initialize()._replace(weights=weights), cohort)
        return jnp.sum(state.weights["kernel"] ** 2)

    difference = (moved(RATE + step) - moved(RATE - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(moved))(RATE), difference, rtol=1e-6)
