"""Client works with a state and with their own aggregates, which a client with NaN must not affect."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import trees
from fedjax_core.contracts import ClientResult, ClientWork, Model
from fedjax_core.templates import MeasuredProcessOutput, ProcessCompositionError
from tests import learning_references as reference
from tests.stateful_works import scaffold

KEY = jax.random.key(7)


def composed(model, work, **changes):
    slots = {
        "distributor": fc.algorithms.broadcast(),
        "client_work": work,
        "aggregator": fc.aggregators.mean(),
        "finalizer": fc.algorithms.apply_optimizer(optax.sgd(1.0)),
    }
    return fc.algorithms.compose(model, **slots | changes, key=KEY)


QUADRATIC = Model(
    init=lambda key: jnp.float32(0),
    predict=lambda weights, batch, key=None, training=False: weights - batch["b"],
    loss=lambda predictions, batch: batch["a"] / 2 * predictions**2,
    metrics={},
    batch_type=fc.types.to_type({"a": "float32[?]", "b": "float32[?]"}),
)
"""f_i(x) = a_i / 2 (x - b_i)^2 with a = (1, 4) and b = (10, -1), whose sum is least at 1.2."""
A, B, STEPS, RATE = (1.0, 4.0), (10.0, -1.0), 10, 0.05


def quadratics(*, nan=()):
    examples = {
        i: {"a": np.array([a], np.float32), "b": np.array([b], np.float32)} for i, (a, b) in enumerate(zip(A, B))
    }
    for i in nan:
        examples[i]["b"][:] = np.nan
    return fc.data.from_clients(examples)


def cohort(ids, **options):
    return quadratics(**options).cohort(ids, fc.data.Batching(1, num_epochs=STEPS))


def scaffold_reference(rounds):
    """SCAFFOLD with option II in float64: the weights after each round."""
    x, c, rows, found = 0.0, 0.0, [0.0, 0.0], []
    for ids in rounds:
        ends = {}
        for i in ids:
            y = x
            for _ in range(STEPS):
                y -= RATE * (A[i] * (y - B[i]) - rows[i] + c)
            ends[i] = y
        changes = {i: (x - y) / (STEPS * RATE) - c for i, y in ends.items()}
        rows = [row + changes.get(i, 0.0) for i, row in enumerate(rows)]
        c += sum(changes.values()) / len(A)
        x = float(np.mean(list(ends.values())))
        found.append(x)
    return found


@pytest.fixture(scope="module")
def two_clients():
    return composed(QUADRATIC, scaffold(QUADRATIC, RATE, 2))


@pytest.mark.parametrize("rounds", [[(0, 1)] * 6, [(0,), (1,)] * 4], ids=["both", "in turn"])
def test_scaffold_agrees_with_the_oracle(two_clients, rounds):
    state = two_clients.initialize()
    for ids, expected in zip(rounds, scaffold_reference(rounds)):
        state, _ = two_clients.next(state, cohort(list(ids)))
        np.testing.assert_allclose(state.weights, expected, rtol=2e-5)


def test_scaffold_goes_to_the_optimum_with_one_client_in_turn(two_clients):
    state = two_clients.initialize()
    for i in range(120):
        state, _ = two_clients.next(state, cohort([i % 2]))
    np.testing.assert_allclose(state.weights, 1.2, rtol=2e-5)


def test_client_of_nan_changes_nothing_for_the_others(two_clients):
    """Its row stays unchanged, and later rounds are bit for bit those after a round without it."""
    start, _ = two_clients.next(two_clients.initialize(), cohort([0, 1]))
    spoilt, metrics = two_clients.next(start, cohort([0, 1], nan=[1]))
    spared, _ = two_clients.next(start, cohort([0]))
    assert fc.algorithms.left_out_clients(metrics, [0, 1]) == {1: "update"}
    for _ in range(2):
        reference.assert_same_bits(spoilt, spared)
        (spoilt, after), (spared, expected) = (two_clients.next(s, cohort([0, 1])) for s in (spoilt, spared))
        reference.assert_same_bits(after, expected)
    assert after["client_work"]["train"]["num_non_finite_clients"]["update"] == 0


@pytest.mark.parametrize("nan", [(), (0, 1)], ids=["nobody", "nobody finite"])
def test_refused_round_leaves_the_state_of_the_client_work(two_clients, nan):
    start, _ = two_clients.next(two_clients.initialize(), cohort([0, 1]))
    new, _ = two_clients.next(start, cohort([0, 1] if nan else [], nan=nan))
    reference.assert_same_bits(new, start._replace(round_num=start.round_num + 1))


MODEL = reference.linear_model()
CLIENTS = reference.make_clients((5, 3, 0, 4, 6))
EVALUATE = fc.clients.local_evaluation(MODEL)


def in_two_passes(*, guarded=True, hand_on=True):
    """First the mean of the clients' mean inputs; then each client returns the distance of its mean label from it."""
    metrics = fc.algorithms.metrics_process(MODEL)

    def first(data):
        number = data.num_examples.astype("float32")
        return data.sum()["x"].mean() / jnp.maximum(number, 1), number

    def second(weights, data, key, mean):
        number = data.num_examples.astype("float32")
        far = data.sum()["y"] / jnp.maximum(number, 1) - mean
        update = jax.tree.map(lambda w: jnp.full_like(w, far), weights)
        return ClientResult(update, number, {"loss": (far, jnp.int32(1)), **NO_METRICS}, extra={"key": key})

    def run(state, weights, data, key):
        inputs, number = fc.federated_map(first, data)
        mean, fit = (
            fc.algorithms.guarded_mean(inputs, number)
            if guarded
            else (fc.federated_mean(inputs, number), fc.federated_map(lambda _: True, inputs))
        )
        # Labels alone: the second pass of a client whose inputs are NaN is finite.
        result = fc.federated_map(second, weights, data, key, fc.federated_broadcast(mean))
        return (fc.algorithms.leave_out(result, unless=fit) if hand_on else result), mean

    def commit(state, result, included, shared):
        seen = fc.federated_sum(fc.federated_map(lambda i: i.astype("int32"), included))
        new = fc.federated_map(lambda s, m, n: {"mean": m, "seen": s["seen"] + n}, state, shared, seen)
        _, values, measurements = metrics.next(metrics.initialize(), result.metrics)
        return MeasuredProcessOutput(new, values, measurements)

    def init(weights):
        return fc.federated_value({"mean": np.float32(0), "seen": 0}, fc.SERVER)

    return ClientWork(init, run, commit)


NO_METRICS = {"accuracy": (jnp.int32(0), jnp.int32(0)), "num_examples": jnp.int32(0)}


def with_nan(*ids):
    return {
        name: {**client, "x": np.full_like(client["x"], np.nan)} if name in ids else client
        for name, client in CLIENTS.items()
    }


def test_client_that_the_first_pass_leaves_out_is_left_out_of_the_round():
    process = composed(MODEL, in_two_passes())
    state = process.initialize()
    spoilt, metrics = process.next(state, reference.cohort(with_nan("b")))
    healthy = {name: client for name, client in CLIENTS.items() if name in "ade"}
    mean = np.concatenate([client["x"] for client in healthy.values()]).mean(dtype=np.float64) * 4
    np.testing.assert_allclose(spoilt.client_work["mean"], mean / 4, rtol=1e-5, atol=1e-6)
    assert spoilt.client_work["seen"] == 3
    labels = np.concatenate([client["y"] for client in healthy.values()]).mean(dtype=np.float64)
    step = state.weights["bias"] - spoilt.weights["bias"]
    np.testing.assert_allclose(step, np.full(3, labels - mean / 4), rtol=1e-5, atol=1e-5)
    assert fc.algorithms.left_out_clients(metrics, list(CLIENTS)) == {"b": "update"}
    assert metrics["aggregator"]["mean_weight"]["total"] == 15.0


def test_client_left_out_of_a_guarded_mean_alone_is_refused():
    """Its labels are finite, so it would count in the update but not in the mean that is sent to all clients."""
    with pytest.raises(ProcessCompositionError, match=r"does not leave out .* `return leave_out\(result, unless=fit\)"):
        composed(MODEL, in_two_passes(hand_on=False))


def test_aggregate_of_the_work_that_is_not_finite_refuses_the_round():
    """Without a guard the aggregate is NaN: no state may accept it, even if an update is finite."""
    process = composed(MODEL, in_two_passes(guarded=False, hand_on=False))
    state = process.initialize()
    new, _ = process.next(state, reference.cohort(with_nan("b")))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (lambda: scaffold(MODEL, 0.1, 5), r"takes from them, `ClientResult\.extra`: no"),
        (in_two_passes, r"`ClientResult\.extra` and what its `run` shares: no privacy guarantee covers"),
    ],
    ids=["extra", "extra and shared"],
)
def test_what_a_work_takes_from_its_clients_besides_a_noised_update_is_told_of(work, named):
    private = fc.aggregators.private_mean(1.0, 1.0, 5, key=KEY)
    with pytest.warns(UserWarning, match=named):
        composed(MODEL, work(), aggregator=private)


def test_guarded_mean_of_nobody_is_zero_and_without_weights_uniform():
    @fc.federated_computation(fc.at_clients("float32[2]"))
    def mean(values):
        return fc.algorithms.guarded_mean(values)

    found, fit = mean([[1.0, 2.0], [np.inf, 0.0], [3.0, 6.0]])
    np.testing.assert_allclose(found, [2.0, 4.0])
    assert fit.tolist() == [True, False, True]
    found, _ = mean([[np.nan, 2.0]])
    np.testing.assert_array_equal(found, [0.0, 0.0])


def test_leave_out_makes_an_update_of_integers_unfit_by_its_weight():
    @fc.federated_computation(fc.at_clients({"fit": "bool", "n": "int32"}))
    def results(clients):
        def answer(client):
            return ClientResult(client["n"], jnp.float32(1), {})

        return fc.algorithms.leave_out(fc.federated_map(answer, clients), unless=clients["fit"])

    found = results([{"fit": True, "n": 3}, {"fit": False, "n": 4}])
    np.testing.assert_array_equal(found.weight, [1.0, np.nan])
    assert found.update.tolist() == [3, 4]


def test_work_that_takes_the_round_number_is_given_it():
    training = fc.clients.local_training(MODEL, optax.sgd(0.3), fc.algorithms.metrics_process(MODEL))

    def run(state, weights, data, key, round_num):
        result, shared = training.run(state, weights, data, key)
        times = fc.federated_broadcast(fc.federated_map(lambda n: n.astype("float32"), round_num))
        scaled = fc.federated_map(lambda r, n: r._replace(update=trees.scale(r.update, n)), result, times)
        return scaled, shared

    process, plain = (composed(MODEL, work) for work in (training._replace(run=run), training))
    state = process.initialize()
    first, _ = process.next(state, reference.cohort(CLIENTS))
    reference.assert_same_bits(first.weights, state.weights)
    second, _ = process.next(first, reference.cohort(CLIENTS))
    expected, _ = plain.next(state, reference.cohort(CLIENTS))
    reference.assert_close(second.weights, expected.weights, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def fed_avg():
    return fc.algorithms.fed_avg(MODEL, optax.sgd(0.3), key=KEY)


def many(number, *, healthy=2):
    """Clients with NaN, preceded by some healthy ones."""
    x = {True: np.full((1, 4), np.nan, np.float32), False: np.ones((1, 4), np.float32)}
    return {f"{i:03d}": {"x": x[i >= healthy], "y": np.zeros(1, np.int32)} for i in range(number + healthy)}


@pytest.mark.slow
def test_twenty_clients_are_listed_and_all_are_counted(fed_avg):
    """The first ones in the population are listed, for any order of the cohort, lanes and devices."""
    clients = many(25)
    turned = list(reversed(clients))
    expected = {f"{i:03d}": "update" for i in range(2, 22)}
    for config in ({"devices": 1}, {"devices": 2, "lanes": 3}, {"devices": 1, "lanes": 1, "memory_budget": 300}):
        next = fed_avg.next.with_config(fc.EngineConfig(**config))
        _, metrics = next(fed_avg.initialize(), reference.cohort(clients, turned))
        assert fc.algorithms.left_out_clients(metrics, list(clients)) == expected
        assert metrics["client_work"]["train"]["num_non_finite_clients"] == {"metrics": 0, "update": 25, "weight": 0}


def test_client_drawn_twice_is_counted_twice_and_named_once(fed_avg):
    clients = many(2)
    _, metrics = fed_avg.next(fed_avg.initialize(), reference.cohort(clients, ["003", "000", "003"]))
    assert metrics["client_work"]["train"]["num_non_finite_clients"]["update"] == 2
    listed = metrics["client_work"]["train"]["non_finite_clients"]
    assert listed["client"].tolist() == [3, 3] + 18 * [-1] and listed["reason"].tolist() == [0, 0] + 18 * [-1]
    assert fc.algorithms.left_out_clients(metrics, list(clients)) == {"003": "update"}


def test_list_of_the_left_out_is_the_same_when_traced(fed_avg):
    clients = many(3)
    state, cohort = fed_avg.initialize(), reference.cohort(clients)
    _, expected = fed_avg.next(state, cohort)
    _, found = jax.jit(fed_avg.next.as_function())(state, fc.pack_cohort(cohort))
    named = [metrics["client_work"]["train"]["non_finite_clients"] for metrics in (found, expected)]
    reference.assert_same_bits(*named)


@pytest.mark.parametrize("wrong", [{}, {"client_work": ()}, None])
def test_left_out_clients_takes_metrics_of_a_round(wrong):
    with pytest.raises(TypeError, match=r"takes the metrics of a round of training.*process\.next\(state, cohort\)"):
        fc.algorithms.left_out_clients(wrong, [])
