"""What is traced and compiled how often."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from tests import cohorts
from tests import learning_references as reference

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations():
    """Counts the programs that XLA compiles meanwhile."""
    seen = []

    def listen(event, duration, **kwargs):
        if event == COMPILED:
            seen.append(kwargs.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def make_round(traces: list, **config):
    def local(weights, data):
        traces.append("client")

        def step(carry, batch, mask):
            weights, n = carry
            errors = jnp.where(mask, batch["x"] @ weights - batch["y"], 0.0)
            return weights - 0.01 * errors @ batch["x"], n + jnp.sum(mask)

        return data.reduce((weights, 0), step)

    def move(state, mean):
        traces.append("server")
        return {"weights": mean, "round": state["round"] + 1}

    @fc.federated_computation(fc.at_server({"round": "int32", "weights": "float32[2]"}), fc.at_clients(cohorts.DATA))
    def next_(state, data):
        trained = fc.federated_map(local, fc.federated_broadcast(state.weights), data)
        mean = fc.federated_mean(trained[0], trained[1])
        return fc.federated_map(move, state, mean), fc.federated_sum(trained[1])

    return next_.with_config(fc.EngineConfig(**config))


def test_building_an_algorithm_traces_a_model_a_few_times():
    """Its parts share what they ask of the model."""
    model, traces = reference.linear_model(), []

    def predict(weights, batch, **arguments):
        traces.append(batch)
        return model.predict(weights, batch, **arguments)

    fc.algorithms.fed_avg(model._replace(predict=predict), optax.sgd(0.1), key=jax.random.key(0))
    assert len(traces) <= 5
    before = len(traces)
    fc.algorithms.fed_eval(model._replace(predict=predict))
    assert len(traces) - before <= 3


@pytest.mark.parametrize("config", [{"devices": 1}, {"devices": 2}, {"devices": 2, "lanes": 3}])
def test_one_compilation_of_each_program_for_thirty_rounds(config):
    sizes = np.random.default_rng(0).choice([8, 9], 60, p=[0.2, 0.8])
    clients = cohorts.make_population(sizes)
    ids, traces = list(clients), []
    next_ = make_round(traces, **config)
    state = {"round": 0, "weights": np.zeros(2)}  # Python and NumPy at first, JAX arrays later
    with compilations() as first:
        state, _ = next_(state, cohorts.make_cohort(clients, ids[:20]))
        jax.block_until_ready(state)
    assert 2 <= len(first) <= 8
    traced = len(traces)
    with compilations() as later:
        for number in range(30):
            chosen = np.random.default_rng(number).choice(ids, 20, replace=False).tolist()
            state, total = next_(state, cohorts.make_cohort(clients, chosen))
            assert int(total) == sum(len(clients[i]["y"]) for i in chosen)
    assert later == [] and len(traces) == traced
    assert int(state["round"]) == 31


@pytest.mark.parametrize("start", [1.0, 1, np.float64(1), np.float32(1), jnp.asarray(1.0), jnp.float32(1)])
def test_weak_and_strong_types_and_numpy_share_one_trace(start):
    traces = []

    def double(x):
        traces.append(1)
        return 2 * x

    run = fc.federated_computation(lambda s: fc.federated_map(double, s), fc.at_server("float32"))
    value = start
    for _ in range(5):
        value = run(value)
    assert len(traces) == 2 and float(value) == 32.0  # for the types, and for the program


def test_plain_computations_compile_once():
    traces = []

    def double(x):
        traces.append(1)
        return jax.tree.map(lambda a: 2 * a, x)

    run = fc.computation(double, {"a": "float32[2]", "b": "float32"})
    value = {"a": [1.0, 2.0], "b": 1}
    for _ in range(5):
        value = run(value)
    assert len(traces) == 2 and value["a"].tolist() == [32.0, 64.0] and float(value["b"]) == 32.0


def test_untyped_computations_are_traced_once_per_type():
    traces = []

    @fc.federated_computation
    def total(values):
        traces.append(1)
        return fc.federated_sum(values)

    assert [float(total([1.0, 2.0])) for _ in range(3)] == [3.0] * 3 and float(total([1.0])) == 1.0
    assert len(traces) == 1
    assert int(total([1, 2])) == 3 and len(traces) == 2
