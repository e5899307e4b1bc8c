"""What must not change a result: the order of clients, lanes, devices, padding, and other clients' data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings

import fedjax_core as fc
from tests import cohorts, references

OPTIMIZER = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05, momentum=0.9))
HYPERPARAMETERS = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.1}
WEIGHTS = np.array([0.5, 0.25], np.float32)
KEY = jax.random.key(7)


def loss(weights, batch, mask):
    errors = jnp.where(mask, batch["x"] @ weights - batch["y"], 0.0)
    return jnp.sum(errors**2) / 2 / jnp.maximum(jnp.sum(mask), 1)


def local_train(weights, data, key):
    def step(carry, batch, mask):
        weights, state, examples, steps = carry
        updates, state = OPTIMIZER.update(jax.grad(loss)(weights, batch, mask), state, weights)
        return optax.apply_updates(weights, updates), state, examples + jnp.sum(mask, dtype=jnp.int32), steps + 1

    weights, _, examples, steps = data.reduce((weights, OPTIMIZER.init(weights), 0, 0), step)
    return {"weights": weights, "examples": examples, "steps": steps, "draw": jax.random.uniform(key)}


@fc.federated_computation(fc.at_server("float32[2]"), fc.at_server("key<fry>"), fc.at_clients(cohorts.DATA))
def train(weights, key, data):
    trained = fc.federated_map(local_train, fc.federated_broadcast(weights), data, fc.federated_split_key(key))
    weight = fc.federated_map(lambda n: n.astype("float32"), trained.examples)
    return {
        "clients": trained,
        "collected": fc.federated_collect((trained, fc.federated_client_index())),
        "mean": fc.federated_mean(trained.weights, weight),
        "sum": fc.federated_sum(trained),
        "smallest": fc.federated_min(trained.weights),
        "largest": fc.federated_max(trained.weights),
        "norm": fc.federated_aggregate(
            trained.weights, 0.0, lambda a, w: a + jnp.sum(w**2), lambda a, b: a + b, jnp.sqrt
        ),
    }


AGGREGATES = ("mean", "sum", "smallest", "largest", "norm")
ONE_LANE = train.with_config(fc.EngineConfig(lanes=1, devices=1))
LANES = [train.with_config(fc.EngineConfig(lanes=n, devices=1)) for n in (2, 3, 8)]
DEVICES = [train.with_config(fc.EngineConfig(lanes=1, devices=n)) for n in (2, 4)]
WAVES = [
    train.with_config(fc.EngineConfig(lanes=1, devices=devices, memory_budget=budget))
    for devices, budget in [(1, 2000), (2, 2000), (4, 1100)]
]
LANES_AND_DEVICES = [train.with_config(fc.EngineConfig(lanes=3, devices=n)) for n in (1, 2, 4)]


def run(computation, clients: dict, ids=None):
    return jax.tree.map(np.asarray, computation(WEIGHTS, KEY, cohorts.make_cohort(clients, ids)))


def aggregates(result: dict) -> dict:
    return {name: result[name] for name in AGGREGATES}


def assert_same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)


@settings(max_examples=8)
@given(cohorts.ragged_sizes)
@example([])
@example([0, 0])
@example([1])
def test_local_training_is_what_numpy_makes_of_it(sizes):
    clients = cohorts.make_population(sizes)
    result = run(ONE_LANE, clients)
    expected = [references.train(WEIGHTS, c, batch_size=4, **HYPERPARAMETERS) for c in clients.values()]
    weights = np.array([w for w, _ in expected]).reshape(-1, 2)
    np.testing.assert_allclose(result["clients"]["weights"], weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result["clients"]["examples"], sizes)
    np.testing.assert_array_equal(result["clients"]["steps"], [-(-size // 4) for size in sizes])
    assert_same_bits(result["collected"][0], result["clients"])
    np.testing.assert_array_equal(result["collected"][1], np.arange(len(sizes)))
    np.testing.assert_allclose(result["sum"]["weights"], weights.sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result["norm"], np.linalg.norm(weights), rtol=1e-5)
    if sum(sizes):
        mean = references.weighted_mean(weights, sizes)
        np.testing.assert_allclose(result["mean"], mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result["smallest"], weights.min(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result["largest"], weights.max(0), rtol=1e-5, atol=1e-5)
    else:
        assert np.isnan(result["mean"]).all()


@settings(max_examples=3)
@given(cohorts.ragged_sizes)
@example([])
@example([5, 0, 1, 11, 3, 90, 4])
def test_lanes_change_nothing(sizes):
    clients = cohorts.make_population(sizes)
    expected = run(ONE_LANE, clients)
    for computation in LANES:
        assert_close(run(computation, clients), expected)


@settings(max_examples=3)
@given(cohorts.ragged_sizes)
@example([5, 0, 1, 11, 3, 90, 4])
def test_devices_change_no_bit(sizes):
    clients = cohorts.make_population(sizes)
    expected = run(ONE_LANE, clients)
    for computation in DEVICES:
        assert_same_bits(run(computation, clients), expected)


@settings(max_examples=6)
@given(cohorts.ragged_sizes)
@example([])
@example([5] * 24)
def test_waves_change_no_bit(sizes):
    clients = cohorts.make_population(sizes)
    expected = run(ONE_LANE, clients)
    for computation in WAVES:
        assert_same_bits(run(computation, clients), expected)


def test_devices_change_no_bit_with_several_lanes():
    clients = cohorts.make_population([5, 0, 1, 11, 3, 90, 4, 4, 5])
    first, *others = (run(computation, clients) for computation in LANES_AND_DEVICES)
    for other in others:
        assert_same_bits(other, first)


@settings(max_examples=6)
@given(cohorts.ragged_sizes)
def test_the_order_of_clients_changes_no_bit(sizes):
    clients = cohorts.make_population(sizes)
    order = np.random.default_rng(len(sizes)).permutation(len(sizes))
    ids = list(clients)
    for computation in (ONE_LANE, LANES[1]):
        expected, found = run(computation, clients), run(computation, clients, [ids[i] for i in order])
        assert_same_bits(aggregates(found), aggregates(expected))
        assert_same_bits(found["clients"], jax.tree.map(lambda x: x[order], expected["clients"]))
        assert_same_bits(found["collected"], jax.tree.map(lambda x: x[order], expected["collected"]))


@settings(max_examples=6)
@given(cohorts.client_sizes)
def test_empty_clients_and_larger_arrays_change_no_other_client(sizes):
    clients = cohorts.make_population(sizes)
    empty = {f"empty{i}": cohorts.make_client(0, 0) for i in range(9)}
    for computation in (ONE_LANE, LANES[1]):
        expected, found = run(computation, clients), run(computation, clients | empty)
        alone = jax.tree.map(lambda x: x[: len(sizes)], found["clients"])
        assert_close(alone, expected["clients"])
        np.testing.assert_array_equal(found["clients"]["weights"][len(sizes) :], np.tile(WEIGHTS, (9, 1)))
        if sum(sizes):
            assert_close(found["mean"], expected["mean"])


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("sizes", [[4, 5, 3, 11, 1, 0, 4], [4, 4, 4, 4, 4, 4]])
def test_nan_stays_with_its_client(lanes, sizes):
    clients = cohorts.make_population(sizes)
    computation = train.with_config(fc.EngineConfig(lanes=lanes, devices=1))
    expected = run(computation, clients)["clients"]
    clients["client1"]["x"] = np.full_like(clients["client1"]["x"], np.nan)
    found = run(computation, clients)["clients"]
    assert np.isnan(found["weights"][1]).all()
    others = np.arange(len(sizes)) != 1
    assert_same_bits(jax.tree.map(lambda x: x[others], found), jax.tree.map(lambda x: x[others], expected))


def test_keys_depend_on_the_client_and_its_occurrence_only():
    clients = cohorts.make_population([5, 0, 1, 11, 3])
    draws = run(ONE_LANE, clients)["clients"]["draw"]
    assert len(set(draws.tolist())) == 5
    for computation in (LANES[1], DEVICES[0]):
        np.testing.assert_array_equal(run(computation, clients)["clients"]["draw"], draws)
    repeated = run(LANES[1], clients, ["client3", "client1", "client3", "client3"])["clients"]["draw"]
    np.testing.assert_array_equal(repeated[:2], draws[[3, 1]])
    assert len({*repeated.tolist()}) == 4
    fewer = run(ONE_LANE, clients, ["client3", "client3"])["clients"]["draw"]
    np.testing.assert_array_equal(fewer, repeated[[0, 2]])


def test_a_client_that_occurs_twice_counts_twice():
    clients = cohorts.make_population([5, 3])
    ids = ["client0", "client1", "client0"]
    result = run(LANES[1], clients, ids)
    np.testing.assert_array_equal(result["clients"]["examples"], [5, 3, 5])
    expected = [references.train(WEIGHTS, clients[i], batch_size=4, **HYPERPARAMETERS)[0] for i in ids]
    np.testing.assert_allclose(result["mean"], references.weighted_mean(expected, [5, 3, 5]), rtol=1e-5)


def test_the_size_of_batches_changes_nothing_where_it_only_adds_padding():
    clients = cohorts.make_population([3, 1, 4, 0])
    small = ONE_LANE(WEIGHTS, KEY, cohorts.make_cohort(clients, batch_size=4))
    for computation in (ONE_LANE, LANES[1]):
        assert_close(computation(WEIGHTS, KEY, cohorts.make_cohort(clients, batch_size=13)), small)


def test_lists_are_like_cohorts():
    clients = cohorts.make_population([5, 0, 1, 11])
    listed = [[{k: v[i : i + 4] for k, v in c.items()} for i in range(0, len(c["y"]), 4)] for c in clients.values()]
    expected, found = run(ONE_LANE, clients), ONE_LANE(WEIGHTS, KEY, listed)
    for name in ("weights", "examples", "steps"):
        np.testing.assert_array_equal(found["clients"][name], expected["clients"][name])


@pytest.mark.parametrize("devices", [1, 2])
def test_a_leaf_without_entries_goes_wherever_the_others_go(devices):
    @fc.federated_computation(fc.at_clients("<a=float32[2],none=float16[0]>"))
    def total(values):
        return fc.federated_sum(values)

    values = [{"a": np.full(2, k, np.float32), "none": np.zeros(0, np.float16)} for k in range(5)]
    found = total.with_config(fc.EngineConfig(devices=devices))(values)
    assert found["none"].shape == (0,) and found["none"].dtype == np.float16
    np.testing.assert_array_equal(found["a"], [10.0, 10.0])
