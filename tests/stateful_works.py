"""Client works that users of the contract `ClientWork` would write, shared by several tests."""

import jax
import jax.numpy as jnp
import optax

import fedjax_core as fc
from fedjax_core import trees
from fedjax_core.contracts import ClientResult, ClientWork
from fedjax_core.templates import MeasuredProcessOutput


def scaffold(model, rate, population, from_optimizer=False):
    """SCAFFOLD with option II (Karimireddy et al. 2020).

    A table at the server holds a control variate for each client. A client's new control variate is computed from its
    update, or is the one that a participant's optimizer collects.
    """
    train = fc.clients.local_trainer(model, fc.clients.scaffold_optimizer(optax.sgd(rate)))
    metrics = fc.algorithms.metrics_process(model)

    def init(weights):
        def zeros(w):
            return {"c": trees.zeros_like(w), "rows": jax.tree.map(lambda x: jnp.zeros((population, *x.shape)), w)}

        return fc.federated_map(zeros, weights)

    def answer(weights, data, key, c, row):
        trained = train(weights, data, key, {"scaffold": {"correction": trees.subtract(c, row)}})
        if from_optimizer:
            change = trees.subtract(trained.aux_var["scaffold"]["control"], row)
        else:
            steps = jnp.maximum(data.num_batches, 1) * rate
            change = trees.subtract(trees.divide(trained.update, steps), c)
        extra = {"row": trees.add(row, change), "change": change}
        return ClientResult(trained.update, jnp.sign(trained.num_examples), trained.statistics, extra)

    def run(state, weights, data, key):
        row = fc.federated_select(fc.federated_client_index(), state["rows"])
        return fc.federated_map(answer, weights, data, key, fc.federated_broadcast(state["c"]), row), ()

    def commit(state, result, included, shared):
        index = fc.federated_client_index()
        keys = fc.federated_map(lambda i, counts: jnp.where(counts, i, population), index, included)
        changes = fc.federated_map(lambda d, i: trees.scale(d, i.astype("float32")), result.extra["change"], included)
        c = fc.federated_map(
            lambda c, d: trees.add(c, trees.divide(d, population)), state["c"], fc.federated_sum(changes)
        )
        state = {"c": c, "rows": fc.federated_scatter(state["rows"], keys, result.extra["row"])}
        _, values, measurements = metrics.next(metrics.initialize(), result.metrics)
        return MeasuredProcessOutput(fc.federated_zip(state), values, measurements)

    return ClientWork(init, run, commit)


def clustered(model, optimizer, num_clusters):
    """Each client trains the model, out of several, with the lowest loss on its data (IFCA, Ghosh et al. 2020)."""
    evaluate, metrics = fc.clients.local_evaluation(model), fc.algorithms.metrics_process(model)
    training = fc.clients.local_training(model, optimizer, metrics)

    def choose(weights, data):
        statistics = jax.lax.map(lambda w: evaluate(w, data), weights)
        nearest = jnp.argmin(statistics["loss"][0])
        return nearest, jax.tree.map(lambda w: w[nearest], weights)

    def place(nearest, result):
        own = jax.nn.one_hot(nearest, num_clusters)
        update = jax.tree.map(lambda u: jnp.tensordot(own, u, 0), result.update)
        return result._replace(update=update, weight=own * result.weight)

    def run(state, weights, data, key):
        nearest, own = fc.federated_map(choose, weights, data)
        result, shared = training.run(state, own, data, key)
        return fc.federated_map(place, nearest, result), shared

    return training._replace(run=run)
