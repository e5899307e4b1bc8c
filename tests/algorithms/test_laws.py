"""Laws of a round: what must not change its result, and how many times it is traced."""

import jax
import jax.monitoring
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_core as fc
from tests import learning_references as reference
from tests.marks import with_slow

KEY = jax.random.key(11)
MODEL = reference.linear_model()
OPTIMIZERS = {
    "momentum": optax.sgd(0.2, momentum=0.9),
    "weight_decay": optax.adamw(0.05, weight_decay=0.1),
}
MAX_CLIENTS, MAX_SIZE = 6, 7
CLIENTS = reference.make_clients((7, 1, 0, 3, 12, 5, 2, 4, 9))


@pytest.fixture(scope="module", params=["momentum", pytest.param("weight_decay", marks=pytest.mark.slow)])
def process(request):
    server = optax.adam(0.1)
    return fc.algorithms.fed_avg(MODEL, OPTIMIZERS[request.param], server_optimizer=server, key=KEY)


@pytest.fixture(scope="module")
def momentum_and_adam():
    return fc.algorithms.fed_avg(MODEL, OPTIMIZERS["momentum"], server_optimizer=optax.adam(0.1), key=KEY)


def _two_rounds(process, cohort, **config):
    next = process.next.with_config(fc.EngineConfig(**config))
    state = process.initialize()
    for _ in range(2):
        state, metrics = next(state, cohort)
    return state, metrics


@pytest.mark.slow
def test_lanes_change_nothing(process):
    cohort = reference.cohort(CLIENTS, num_epochs=2)
    expected = _two_rounds(process, cohort, lanes=1, devices=2)
    for lanes in (2, 3, 8):
        reference.assert_close(*_keyless(_two_rounds(process, cohort, lanes=lanes, devices=2), expected))


def _keyless(*results):
    return [(state._replace(key=0), metrics) for state, metrics in results]


@pytest.mark.slow
def test_devices_change_no_bit(process):
    cohort = reference.cohort(CLIENTS, num_epochs=2)
    expected = _two_rounds(process, cohort, lanes=2, devices=1)
    for devices in (2, 4, 8):
        reference.assert_same_bits(_two_rounds(process, cohort, lanes=2, devices=devices), expected)


@pytest.mark.parametrize(
    "lanes, devices, budget", with_slow([(1, 1, 300), (1, 2, 3000), (2, 8, 300)], [(1, 1, 300), (1, 2, 3000)])
)
def test_waves_change_no_bit(momentum_and_adam, lanes, devices, budget):
    clients = reference.make_clients((7, 1, 0, 3, 12, 5, 2, 4, 9) * 4)
    whole = reference.cohort(clients, num_epochs=2)
    waves = reference.cohort(clients, list(reversed(clients)), num_epochs=2)
    expected = _two_rounds(momentum_and_adam, whole, lanes=lanes, devices=1)
    reference.assert_same_bits(
        _two_rounds(momentum_and_adam, waves, lanes=lanes, devices=devices, memory_budget=budget), expected
    )
    (packing,) = waves.packed.values()
    assert packing.schedule.num_waves > 1


@pytest.mark.slow
def test_devices_change_no_bit_of_single_lanes(momentum):
    state, next = momentum
    cohort = reference.cohort(CLIENTS, num_epochs=2)
    spread = next.with_config(fc.EngineConfig(lanes=1, devices=4))
    reference.assert_same_bits(spread(state, cohort), next(state, cohort))


@pytest.fixture(scope="module")
def momentum():
    process = fc.algorithms.fed_avg(MODEL, OPTIMIZERS["momentum"], key=KEY)
    return process.initialize(), process.next.with_config(fc.EngineConfig(devices=1))


@pytest.fixture(scope="module", params=[{"devices": 1}, {"devices": 8, "lanes": 2}])
def two_rounds(request, momentum_and_adam):
    next = momentum_and_adam.next.with_config(fc.EngineConfig(**request.param))
    return lambda cohort: next(next(momentum_and_adam.initialize(), cohort).state, cohort)


@given(st.permutations(list(CLIENTS)))
@settings(max_examples=8)
def test_order_of_clients_changes_no_bit(two_rounds, order):
    found, expected = (two_rounds(reference.cohort(CLIENTS, ids, batch_size=2)) for ids in (order, None))
    reference.assert_same_bits(found, expected)


@given(
    sizes=st.lists(st.integers(0, MAX_SIZE), max_size=MAX_CLIENTS),
    num_epochs=st.integers(1, 3),
    seed=st.integers(0, 3),
)
@settings(max_examples=8)
def test_any_cohort_agrees_with_the_oracle(momentum, sizes, num_epochs, seed):
    state, next = momentum
    clients = reference.make_clients([*sizes, 2], seed)
    new, metrics = next(state, reference.cohort(clients, batch_size=3, num_epochs=num_epochs))
    weights = reference.as_float64(state.weights)
    oracle = reference.SGD(0.2, momentum=0.9)
    update, expected = reference.fed_avg_update(weights, clients, oracle, 3, num_epochs)
    reference.assert_close(new.weights, jax.tree.map(np.subtract, weights, update))
    np.testing.assert_allclose(metrics["client_work"]["train"]["loss"], expected["loss"], rtol=1e-5)


def test_same_key_gives_the_same_process_and_another_another():
    make = lambda key: fc.algorithms.fed_avg(MODEL, optax.sgd(0.3), key=key)  # noqa: E731
    first, again, other = (make(jax.random.key(seed)).initialize() for seed in (0, 0, 1))
    reference.assert_same_bits(first, again)
    assert (np.asarray(first.weights["kernel"]) != np.asarray(other.weights["kernel"])).all()
    assert (jax.random.key_data(first.key) != jax.random.key_data(other.key)).any()


def test_what_was_passed_in_is_not_changed(momentum):
    state, next = momentum
    before = jax.tree.map(lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), state)
    next(state, reference.cohort(CLIENTS))
    reference.assert_same_bits(jax.tree.map(lambda a, b: b, before, state), before)


@pytest.fixture(scope="module")
def compilations():
    """The names of everything that JAX has compiled in this module so far."""
    events = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def _sizes(number, rounds=30):
    """Cohorts of the same number of clients, whose sizes differ from round to round within one size class."""
    random = np.random.default_rng(number)
    return [tuple(random.permutation([9, 8, 8, 7, 6, 5, 3, 1]).tolist()) for _ in range(rounds)]


def test_thirty_rounds_are_traced_and_compiled_once(compilations):
    traced = []

    def predict(weights, batch, key=None, training=False):
        traced.append(training)
        return MODEL.predict(weights, batch)

    model = MODEL._replace(predict=predict)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1, momentum=0.9), server_optimizer=optax.adam(0.1), key=KEY)
    evaluation = fc.algorithms.federated_evaluation(model)
    counts = []
    state = process.initialize()
    for number, sizes in enumerate(_sizes(0)):
        cohort = reference.cohort(reference.make_clients(sizes, number))
        state, _ = process.next(state, cohort)
        weights = process.get_model_weights(state)
        state = process.set_model_weights(state, weights)
        process.report(state)
        process.initialize()
        evaluation(weights, cohort)
        counts.append((len(traced), len(compilations)))
    assert min(counts[0]) > 0
    assert counts[-1] == counts[0], f"traces of the model and compilations after each round: {counts}"
    assert int(state.round_num) == 30


def test_fed_eval_is_traced_and_compiled_once(compilations):
    process = fc.algorithms.fed_eval(MODEL)
    state = process.initialize()
    counts = []
    for number, sizes in enumerate(_sizes(1)):
        state, _ = process.next(state, reference.cohort(reference.make_clients(sizes, number)))
        counts.append(len(compilations))
    assert counts[-1] == counts[0], f"compilations after each round: {counts}"
