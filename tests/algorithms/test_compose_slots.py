"""Custom slots in a real round, and the error that names the slot that does not fit."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.contracts import Aggregator, ClientResult, ClientWork, Distributor, Finalizer, ModelWeights, Running
from fedjax_core.templates import MeasuredProcessOutput, ProcessCompositionError
from tests import learning_references as reference

KEY = jax.random.key(7)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((5, 3, 4))


def clip_by_norm(max_norm, inner):
    def next(state, value, weight):
        clipped = fc.federated_map(functools.partial(fc.trees.clip_by_norm, max_norm), value)
        return inner.next(state, clipped, weight)

    return inner._replace(next=next)


def proximal(model, rate, strength):
    """Custom client work: SGD steps that are pulled towards the server's weights (FedProx)."""

    def work(weights, data, key):
        def loss(trained, batch, mask):
            losses = model.loss(model.predict(trained, batch, key, training=True), batch)
            far = fc.trees.squared_norm(fc.trees.subtract(trained, weights))
            return jnp.sum(jnp.where(mask, losses, 0)) / jnp.maximum(mask.sum(), 1) + strength / 2 * far

        def step(carry, batch, mask):
            trained, number = carry
            slope = jax.grad(loss)(trained, batch, mask)
            return fc.trees.subtract(trained, fc.trees.scale(slope, rate)), number + mask.sum(dtype="float32")

        trained, number = data.reduce((weights, jnp.float32(0)), step)
        return ClientResult(fc.trees.subtract(weights, trained), number, {"steps": data.num_batches})

    @fc.federated_computation(fc.at_clients({"steps": "int32"}))
    def total(metrics):
        return fc.federated_sum(metrics)

    return fc.clients.client_work(work, aggregation(total))


def aggregation(computation):
    @fc.federated_computation()
    def initialize():
        return fc.federated_value((), fc.SERVER)

    @fc.federated_computation(fc.at_server(()), *(t for _, t in computation.parameters))
    def next(state, value):
        return MeasuredProcessOutput(state, computation(value), fc.federated_value((), fc.SERVER))

    return fc.templates.AggregationProcess(initialize, next)


def half_precision():
    """A custom distributor: it sends the clients weights rounded to 16 bits, and counts the rounds."""

    def next(state, weights):
        def rounded(w):
            return fc.trees.cast(fc.trees.cast(w, "bfloat16"), "float32")

        sent = fc.federated_broadcast(fc.federated_map(rounded, weights))
        state = fc.federated_map(lambda n: n + 1, state)
        return MeasuredProcessOutput(state, sent, fc.federated_zip({"rounds": state}))

    return Distributor(lambda weights: fc.federated_value(0, fc.SERVER), next)


def averaged(decay):
    """A custom finalizer: the weights are a running average of the updated weights."""

    def init(weights):
        return fc.federated_map(lambda w: w, weights)

    def step(fast, weights, update):
        fast = fc.trees.subtract(fast, update)
        return fast, jax.tree.map(lambda w, f: decay * w + (1 - decay) * f, weights, fast)

    def next(fast, weights, update):
        fast, new = fc.federated_map(step, fast, weights, update)
        return MeasuredProcessOutput(fast, new, fc.federated_map(lambda u: {"norm": fc.trees.norm(u)}, update))

    return Finalizer(init, next)


@pytest.fixture(scope="module")
def parts():
    return {
        "model": MODEL,
        "distributor": fc.algorithms.broadcast(),
        "client_work": fc.clients.local_training(MODEL, optax.sgd(0.3), fc.algorithms.metrics_process(MODEL)),
        "aggregator": fc.aggregators.mean(),
        "finalizer": fc.algorithms.apply_optimizer(optax.sgd(1.0)),
        "key": KEY,
    }


def _rounds(process, number=1):
    state = process.initialize()
    for _ in range(number):
        state, metrics = process.next(state, reference.cohort(CLIENTS))
    return state, metrics


def test_ones_own_parts_are_short():
    for part in (clip_by_norm, proximal, aggregation, half_precision, averaged):
        assert len(inspect.getsource(part).splitlines()) < 30


@pytest.mark.slow
def test_composed_of_the_usual_parts_it_is_fed_avg(parts):
    composed, _ = _rounds(fc.algorithms.compose(**parts), 2)
    fed_avg, _ = _rounds(fc.algorithms.fed_avg(MODEL, optax.sgd(0.3), key=KEY), 2)
    reference.assert_same_bits(composed, fed_avg)


def test_clipping_aggregator_clips_every_client(parts):
    process = fc.algorithms.compose(**{**parts, "aggregator": clip_by_norm(0.05, fc.aggregators.mean())})
    state, metrics = _rounds(process)
    initial = reference.as_float64(process.initialize().weights)
    clipped = []
    for client in CLIENTS.values():
        update, _ = reference.fed_avg_update(initial, {"a": client}, reference.SGD(0.3), 3, 1)
        norm = np.sqrt(sum((u**2).sum() for u in jax.tree.leaves(update)))
        assert norm > 0.05
        factor = 0.05 / norm * len(client["y"]) / 12
        clipped.append(fc.trees.scale(update, factor))
    mean = jax.tree.map(lambda *u: sum(u), *clipped)
    reference.assert_close(state.weights, jax.tree.map(np.subtract, initial, mean))
    assert metrics["aggregator"]["mean_value"]["norm"] <= 0.05 + 1e-6


@pytest.mark.slow
def test_proximal_client_work(parts):
    """Without a pull it is FedAvg; with a strong one the clients stay nearer to the server's weights."""
    free, metrics = _rounds(fc.algorithms.compose(**{**parts, "client_work": proximal(MODEL, 0.3, 0.0)}))
    fed_avg, _ = _rounds(fc.algorithms.compose(**parts))
    reference.assert_close(free.weights, fed_avg.weights, rtol=1e-6, atol=1e-6)
    assert metrics["client_work"]["train"]["steps"] == 5
    _, held_metrics = _rounds(fc.algorithms.compose(**{**parts, "client_work": proximal(MODEL, 0.3, 2.0)}))
    assert held_metrics["aggregator"]["mean_value"]["norm"] < 0.9 * metrics["aggregator"]["mean_value"]["norm"]


def test_distributor_of_ones_own(parts):
    process = fc.algorithms.compose(**{**parts, "distributor": half_precision()})
    state, metrics = _rounds(process)
    initial = process.initialize().weights
    sent = reference.as_float64(jax.tree.map(lambda w: w.astype(jnp.bfloat16), initial))
    update, _ = reference.fed_avg_update(sent, CLIENTS, reference.SGD(0.3), 3, 1)
    reference.assert_close(state.weights, jax.tree.map(np.subtract, reference.as_float64(initial), update))
    assert metrics["distributor"] == {"rounds": 1} and state.distributor == 1
    empty, _ = process.next(state, reference.cohort(CLIENTS, []))
    reference.assert_same_bits(empty, state._replace(round_num=state.round_num + 1))


def test_finalizer_of_ones_own(parts):
    process = fc.algorithms.compose(**{**parts, "finalizer": averaged(0.75)})
    state, metrics = _rounds(process)
    initial = reference.as_float64(process.initialize().weights)
    update, _ = reference.fed_avg_update(initial, CLIENTS, reference.SGD(0.3), 3, 1)
    reference.assert_close(state.weights, jax.tree.map(lambda w, u: w - 0.25 * u, initial, update))
    assert set(metrics["finalizer"]) == {"norm"}


def test_non_trainable_weights_are_broadcast_and_stay():
    def init(key):
        return ModelWeights(MODEL.init(key), {"shift": jnp.full(4, 0.5), "table": jnp.arange(3), "key": key})

    def predict(weights, batch, key=None, training=False):
        return MODEL.predict(weights.trainable, {"x": batch["x"] + weights.non_trainable["shift"][None]})

    process = fc.algorithms.fed_avg(MODEL._replace(init=init, predict=predict), optax.sgd(0.3), key=KEY)
    state, _ = _rounds(process, 2)
    first = process.initialize().weights
    reference.assert_same_bits(state.weights.non_trainable, first.non_trainable)
    shifted = {name: {**client, "x": client["x"] + np.float32(0.5)} for name, client in CLIENTS.items()}
    weights = reference.as_float64(first.trainable)
    for _ in range(2):
        update, _ = reference.fed_avg_update(weights, shifted, reference.SGD(0.3), 3, 1)
        weights = jax.tree.map(np.subtract, weights, update)
    reference.assert_close(state.weights.trainable, weights)
    got = process.get_model_weights(state)
    assert isinstance(got, ModelWeights)
    reference.assert_same_bits(process.set_model_weights(process.initialize(), got).weights, state.weights)
    flat = np.concatenate([w.ravel() for w in jax.tree.leaves(weights)])
    np.testing.assert_allclose(process.report(state)["weights_norm"], np.linalg.norm(flat), rtol=1e-5)


def test_weights_may_be_one_array():
    model = fc.Model(
        init=lambda key: jnp.ones(4),
        predict=lambda weights, batch, key=None, training=False: batch["x"] @ weights,
        loss=lambda predictions, batch: (predictions - batch["y"].astype("float32")) ** 2,
        metrics={},
        batch_type=MODEL.batch_type,
    )
    process = fc.algorithms.fed_avg(model, optax.sgd(0.01), key=KEY)
    state, _ = _rounds(process)
    assert process.get_model_weights(state).shape == (4,)


def _output(change):
    """An aggregator that changes the output of the mean."""

    def next(state, value, weight):
        return change(fc.aggregators.mean().next(state, value, weight))

    return fc.aggregators.mean()._replace(next=next)


def _at_wrong_place(result):
    return fc.federated_broadcast(result)


def _half(result):
    return fc.federated_map(lambda r: fc.trees.cast(r, "bfloat16"), result)


def _in_a_tuple(value):
    return fc.federated_map(lambda w: (w["bias"], w["kernel"]), value)


def _distributor(change):
    return Distributor(
        lambda weights: fc.federated_value((), fc.SERVER),
        lambda state, weights: MeasuredProcessOutput(state, change(weights), fc.federated_value((), fc.SERVER)),
    )


def _work(change):
    def run(state, weights, data, key):
        def work(w, d):
            return change(ClientResult(w, jnp.float32(1), {"n": d.num_batches}))

        return fc.federated_map(work, weights, data), ()

    return ClientWork(lambda weights: fc.federated_value((), fc.SERVER), run, _summed)


def _summed(state, result, included, shared):
    return MeasuredProcessOutput(state, fc.federated_sum(result.metrics), ())


def _running(run):
    return _work(lambda r: r)._replace(run=run)


def _ran(*args):
    return _work(lambda r: r).run(*args)


def _finalizer(change, init=lambda weights: fc.federated_value(0, fc.SERVER)):
    return Finalizer(init, lambda state, weights, update: change(MeasuredProcessOutput(state, weights, ())))


_MISFITS = {
    "distributor stays at the server": ("distributor", _distributor(lambda w: w), "result"),
    "client_work gives a dict": ("client_work", _work(lambda r: r._asdict()), "ClientResult"),
    "client_work gives no weight": ("client_work", _work(lambda r: r._replace(weight=jnp.int32(1))), "weight"),
    "client_work gives an empty weight": ("client_work", _work(lambda r: r._replace(weight=())), "weight"),
    "client_work gives the result alone": ("client_work", _running(lambda *args: _ran(*args)[0]), "must return a pair"),
    "client_work shares at the clients": ("client_work", _running(lambda *args: (_ran(*args)[0], args[1])), "shared"),
    "client_work has running state for all weights": (
        "client_work",
        _work(lambda r: r._replace(running=Running(r.update, r.weight))),
        "running state must be ()",
    ),
    "client_work commits at the clients": (
        "client_work",
        _work(lambda r: r)._replace(commit=lambda s, result, *_: MeasuredProcessOutput(s, result.metrics, ())),
        "SERVER",
    ),
    "client_work commits another state": (
        "client_work",
        _work(lambda r: r)._replace(commit=lambda s, result, *_: _summed(fc.federated_value(0, fc.SERVER), result, *_)),
        "state",
    ),
    "aggregator gives a tuple": ("aggregator", _output(tuple), "MeasuredProcessOutput"),
    "aggregator sends": ("aggregator", _output(lambda o: o._replace(result=_at_wrong_place(o.result))), "result"),
    "aggregator gives a constant": ("aggregator", _output(lambda o: o._replace(result=1.0)), "result"),
    "aggregator changes its state": (
        "aggregator",
        _output(lambda o: o._replace(state=fc.federated_value(1.0, fc.SERVER))),
        "state",
    ),
    "aggregator starts at the clients": (
        "aggregator",
        Aggregator(lambda t: fc.federated_value(0, fc.CLIENTS), fc.aggregators.mean().next),
        "first state",
    ),
    "finalizer gives nothing": ("finalizer", _finalizer(lambda o: None), "MeasuredProcessOutput"),
    "finalizer changes its state": ("finalizer", _finalizer(lambda o: o._replace(state=o.result)), "state"),
    "finalizer sends": ("finalizer", _finalizer(lambda o: o._replace(result=_at_wrong_place(o.result))), "result"),
    "finalizer adds at the server": ("finalizer", _finalizer(lambda o: o.result + 1), "federated_map"),
    "finalizer takes other weights": (
        "finalizer",
        _finalizer(lambda o: o, init=lambda weights: fc.federated_map(lambda w: w["missing"], weights)),
        "missing",
    ),
}


@pytest.mark.parametrize("name", _MISFITS)
def test_slot_that_does_not_fit_is_named(parts, name):
    slot, part, what = _MISFITS[name]
    with pytest.raises(ProcessCompositionError, match=rf"(?s)the {slot} .*{what}"):
        fc.algorithms.compose(**{**parts, slot: part})


@pytest.mark.parametrize("change", [lambda r: _half(r), lambda r: _in_a_tuple(r)], ids=["rounded", "unnamed"])
def test_update_that_the_optimizer_would_broadcast_is_refused(parts, change):
    aggregator = _output(lambda o: o._replace(result=change(o.result)))
    with pytest.raises(
        ProcessCompositionError, match=r"(?s)the finalizer .*apply_optimizer takes an update of the type"
    ):
        fc.algorithms.compose(**{**parts, "aggregator": aggregator})


def test_first_of_two_slots_that_do_not_fit_is_named(parts):
    wrong = {"distributor": _distributor(lambda w: w), "aggregator": _output(tuple)}
    with pytest.raises(ProcessCompositionError, match="the distributor"):
        fc.algorithms.compose(**{**parts, **wrong})


def test_metrics_process_of_another_model_names_the_client_work(parts):
    other = MODEL._replace(metrics={"examples": fc.metrics.num_examples()})
    work = fc.clients.local_training(MODEL, optax.sgd(0.3), fc.algorithms.metrics_process(other))
    with pytest.raises(ProcessCompositionError, match="the client_work"):
        fc.algorithms.compose(**{**parts, "client_work": work})


@pytest.mark.parametrize("slot", ["model", "distributor", "client_work", "aggregator", "finalizer"])
def test_slot_of_a_wrong_kind_is_named(parts, slot):
    kinds = {"model": "Model", "distributor": "Distributor", "client_work": "ClientWork"}
    kind = kinds.get(slot, slot.capitalize())
    other = parts["model" if slot == "finalizer" else "finalizer"]
    for wrong in (other, None, parts[slot].init):
        with pytest.raises(TypeError, match=rf"compose\({slot}=\.\.\.\) must be a fc\.contracts\.{kind}, got"):
            fc.algorithms.compose(**{**parts, slot: wrong})


def test_uncalled_slot_shows_the_call(parts):
    with pytest.raises(TypeError, match=r"call it to get one: mean\(\.\.\.\)"):
        fc.algorithms.compose(**{**parts, "aggregator": fc.aggregators.mean})
