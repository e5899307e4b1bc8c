"""Types flow from slot to slot: messages, updates and weights need not look like the model's weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import trees
from fedjax_core.contracts import Aggregator, ClientResult, Distributor
from fedjax_core.templates import MeasuredProcessOutput, ProcessCompositionError
from tests import learning_references as reference
from tests.stateful_works import clustered

KEY = jax.random.key(7)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((5, 3, 0, 4))
METRICS = fc.algorithms.metrics_process(MODEL)
RATE = 0.3


def is_kernel(path):
    return path == "kernel"


def training_the_kernel(answer):
    """SGD steps on the kernel alone; `answer(update of the kernel)` is what a client sends."""
    gradient_of = jax.grad(fc.clients.training_loss(MODEL), has_aux=True)

    def work(weights, data, key):
        bias = weights.get("bias", jnp.zeros(3))

        def step(carry, batch, mask):
            kernel, number = carry
            whole = {"bias": bias, "kernel": kernel}
            slope, _ = gradient_of(whole, whole, batch, mask, key)
            return kernel - RATE * slope["kernel"], number + mask.sum(dtype="float32")

        kernel, number = data.filled().reduce((weights["kernel"], jnp.float32(0)), step)
        statistics = fc.clients.local_evaluation(MODEL)({"bias": bias, "kernel": kernel}, data)
        return ClientResult(answer(weights["kernel"] - kernel), number, statistics)

    return fc.clients.client_work(work, METRICS)


def composed(work, *, distributor=None, aggregator=None, finalizer=None, model=MODEL):
    return fc.algorithms.compose(
        model,
        distributor or fc.algorithms.broadcast(),
        work,
        aggregator or fc.aggregators.mean(),
        finalizer or fc.algorithms.apply_optimizer(optax.sgd(1.0)),
        key=KEY,
    )


def kernel_updates(weights, bias):
    """The kernel updates of the clients with examples, and their numbers of examples."""
    found = {}
    for name, client in CLIENTS.items():
        kernel = weights["kernel"]
        for batch in reference.batches(client, 3, 1):
            kernel = kernel - RATE * reference.gradient({"bias": bias, "kernel": kernel}, batch)["kernel"]
        found[name] = weights["kernel"] - kernel, len(client["y"])
    return {name: pair for name, pair in found.items() if pair[1]}


def mean_of(updates):
    return sum(number * update for update, number in updates) / sum(number for _, number in updates)


def test_distributor_that_sends_a_part_of_the_model():
    """The bias stays at the server: the clients train the kernel beside a bias of zeros, and send the kernel alone."""

    def next(state, weights):
        kernel = fc.federated_map(lambda w: {"kernel": w["kernel"]}, weights)
        return MeasuredProcessOutput(state, fc.federated_broadcast(kernel), ())

    distributor = Distributor(lambda weights: fc.federated_value((), fc.SERVER), next)
    finalizer = fc.algorithms.on_part(is_kernel, fc.algorithms.apply_optimizer(optax.sgd(1.0)))
    work = training_the_kernel(lambda update: {"kernel": update})
    process = composed(work, distributor=distributor, finalizer=finalizer)
    assert "receives 48 B" in process.next.describe()
    state = process.initialize()
    new, _ = process.next(state, reference.cohort(CLIENTS))
    weights = reference.as_float64(state.weights)
    update = mean_of(kernel_updates(weights, np.zeros(3)).values())
    np.testing.assert_allclose(new.weights["kernel"], weights["kernel"] - update, rtol=1e-5, atol=1e-6)
    reference.assert_same_bits(new.weights["bias"], state.weights["bias"])


@pytest.mark.slow
def test_update_of_a_part_moves_this_part_with_the_optimizers_state():
    finalizer = fc.algorithms.on_part(is_kernel, fc.algorithms.apply_optimizer(optax.sgd(1.0, momentum=0.9)))
    process = composed(training_the_kernel(lambda update: {"kernel": update}), finalizer=finalizer)
    state = process.initialize()
    assert [leaf.shape for leaf in jax.tree.leaves(state.finalizer)] == [(4, 3)]
    weights, bias, trace = reference.as_float64(state.weights), np.asarray(state.weights["bias"], np.float64), 0
    for _ in range(3):
        state, _ = process.next(state, reference.cohort(CLIENTS))
        trace = 0.9 * trace + mean_of(kernel_updates(weights, bias).values())
        weights = {**weights, "kernel": weights["kernel"] - trace}
    np.testing.assert_allclose(state.weights["kernel"], weights["kernel"], rtol=1e-5, atol=1e-6)
    reference.assert_same_bits(state.weights["bias"], process.initialize().weights["bias"])


def expanded(expand, like, inner):
    """An aggregator that expands the messages to updates of the type `like`, and passes them to `inner`."""

    def next(state, message, weight):
        return inner.next(state, fc.federated_map(expand, message), weight)

    return Aggregator(lambda message_type: inner.init(fc.types.to_type(like)), next)


LIKE = {"bias": "float32[3]", "kernel": "float32[4,3]"}


@pytest.mark.slow
def test_low_rank_update_that_the_aggregator_expands():
    def low_rank(update):
        left, size, right = jnp.linalg.svd(update, full_matrices=False)
        return {"left": left[:, 0] * size[0], "right": right[0]}

    def expand(message):
        return {"bias": jnp.zeros(3), "kernel": jnp.outer(message["left"], message["right"])}

    aggregator = expanded(expand, LIKE, fc.aggregators.clip_by_norm(0.2))
    process = composed(training_the_kernel(low_rank), aggregator=aggregator)
    state = process.initialize()
    new, metrics = process.next(state, reference.cohort(CLIENTS))

    def clipped(update):
        left, size, right = np.linalg.svd(update)
        nearest = size[0] * np.outer(left[:, 0], right[0])
        return nearest * min(1.0, 0.2 / np.linalg.norm(nearest))

    weights = reference.as_float64(state.weights)
    updates = kernel_updates(weights, weights["bias"])
    mean = mean_of([(clipped(update), number) for update, number in updates.values()])
    np.testing.assert_allclose(new.weights["kernel"], weights["kernel"] - mean, rtol=1e-4, atol=1e-5)
    assert metrics["aggregator"]["num_clipped"] > 0


def test_sparse_update_that_the_aggregator_expands():
    """The three largest entries with their places: integers are in the update, too."""

    def sparse(update):
        flat = update.reshape(-1)
        places = jax.lax.top_k(jnp.abs(flat), 3)[1]
        return {"places": places, "entries": flat[places]}

    def expand(message):
        flat = jnp.zeros(12).at[message["places"]].add(message["entries"])
        return {"bias": jnp.zeros(3), "kernel": flat.reshape(4, 3)}

    process = composed(training_the_kernel(sparse), aggregator=expanded(expand, LIKE, fc.aggregators.mean()))
    state = process.initialize()
    new, _ = process.next(state, reference.cohort(CLIENTS))

    def kept(update):
        least = np.sort(np.abs(update).ravel())[-3]
        return np.where(np.abs(update) >= least, update, 0)

    weights = reference.as_float64(state.weights)
    updates = kernel_updates(weights, weights["bias"])
    mean = mean_of([(kept(update), number) for update, number in updates.values()])
    np.testing.assert_allclose(new.weights["kernel"], weights["kernel"] - mean, rtol=1e-5, atol=1e-6)


def three_models(optimizer=None):
    """A process with three models: each client trains one of them, and the server has an optimizer state for each."""
    server = optimizer or optax.adam(0.1)
    by_row = optax.GradientTransformation(jax.vmap(server.init), jax.vmap(server.update))
    model = MODEL._replace(init=lambda key: jax.vmap(MODEL.init)(jax.random.split(key, 3)))
    finalizer = fc.algorithms.apply_optimizer(by_row)
    return composed(clustered(MODEL, optax.sgd(RATE), 3), model=model, finalizer=finalizer)


def row(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def nearest(weights, client):
    if not len(client["y"]):
        return 0
    return int(np.argmin([reference.evaluate(row(weights, i), {"c": client})["loss"] for i in range(3)]))


def test_weight_for_each_of_three_clusters():
    """Each model moves by the mean of the clients that it fits best; a model without clients keeps every bit.

    In one of the rounds there are as many clients as models.
    """
    process = three_models()
    state = process.initialize()
    optimizer = optax.adam(0.1)
    for ids in ("abcd", "dba", "abcd"):
        new, metrics = process.next(state, reference.cohort(CLIENTS, list(ids)))
        weights = reference.as_float64(state.weights)
        chosen = {name: nearest(weights, CLIENTS[name]) for name in ids}
        totals = [sum(len(CLIENTS[name]["y"]) for name in ids if chosen[name] == i) for i in range(3)]
        np.testing.assert_array_equal(metrics["aggregator"]["mean_weight"]["total"], totals)
        assert metrics["aggregator"]["mean_weight"]["num_zero"] == totals.count(0)
        assert 0 in totals and sum(total > 0 for total in totals) >= 1
        for i, total in enumerate(totals):
            before, after = row((state.weights, state.finalizer), i), row((new.weights, new.finalizer), i)
            if total == 0:
                reference.assert_same_bits(after, before)
                continue
            own = {name: CLIENTS[name] for name in ids if chosen[name] == i}
            update, _ = reference.fed_avg_update(row(weights, i), own, reference.SGD(RATE), 3, 1)
            step, _ = optimizer.update(jax.tree.map(np.float32, update), before[1], before[0])
            reference.assert_close(after[0], optax.apply_updates(before[0], step), rtol=1e-4, atol=1e-4)
            assert after[1][0].count == before[1][0].count + 1
        state = new
    assert state.round_num == 3


def test_round_of_clusters_without_anybody_changes_the_round_number_only():
    process = three_models()
    state, _ = process.next(process.initialize(), reference.cohort(CLIENTS))
    for ids in ([], ["c"]):
        new, metrics = process.next(state, reference.cohort(CLIENTS, ids))
        reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))
        assert metrics["aggregator"]["mean_weight"]["num_zero"] == 3


@pytest.mark.slow
def test_gradient_through_a_round_of_clusters_is_finite():
    process = three_models(optax.sgd(1.0, momentum=0.9))
    state, next = process.initialize(), process.next.as_function()
    cohort = fc.pack_cohort(reference.cohort(CLIENTS))
    slope = jax.jit(jax.grad(lambda w: trees.squared_norm(next(state._replace(weights=w), cohort)[0].weights)))
    found = slope(state.weights)
    assert trees.is_finite(found)
    chosen = {nearest(reference.as_float64(state.weights), client) for client in CLIENTS.values() if len(client["y"])}
    for i in {0, 1, 2} - chosen:
        reference.assert_close(row(found, i), jax.tree.map(lambda w: 2 * w, row(state.weights, i)))
    assert chosen < {0, 1, 2}


def test_update_that_does_not_fit_names_the_finalizer():
    with pytest.raises(ProcessCompositionError, match=r"(?s)the finalizer .*apply_optimizer takes an update.*on_part"):
        composed(training_the_kernel(lambda update: {"kernel": update}))


def test_weight_that_does_not_fit_the_update_names_the_aggregator():
    work = fc.clients.client_work(
        lambda weights, data, key: ClientResult(weights, jnp.ones(5), {"n": data.num_batches}), counting()
    )
    message = r"(?s)the aggregator .*mean takes one weight for each client.*float32\[5\].*aggregators\.each"
    with pytest.raises(ProcessCompositionError, match=message):
        composed(work)


def counting():
    @fc.federated_computation()
    def initialize():
        return fc.federated_value((), fc.SERVER)

    @fc.federated_computation(fc.at_server(()), fc.at_clients({"n": "int32"}))
    def next(state, value):
        return MeasuredProcessOutput(state, fc.federated_sum(value), fc.federated_value((), fc.SERVER))

    return fc.templates.AggregationProcess(initialize, next)
