"""The laws of algorithms: for each of them one that breaks it and keeps the others."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import testing
from fedjax_core.contracts import ClientWork, Metric
from fedjax_core.templates import LearningProcess, LearningProcessOutput, MeasuredProcessOutput
from tests import learning_references as reference
from tests.broken_laws import broken, repeat_clients_in_waves
from tests.marks import with_slow


class State(NamedTuple):
    weights: jax.Array
    round_num: jax.Array
    extra: jax.Array


EXAMPLES = [np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate([3, 1, 5, 2] * 3)]
DATA = fc.data.from_clients({f"client{i}": {"x": x} for i, x in enumerate(EXAMPLES)})


def client(weights, data):
    """The sum of a client's distances and how many there are, nothing of a client with NaN."""

    def step(carry, batch, mask):
        return carry[0] + jnp.sum(jnp.where(mask, batch["x"] - weights, 0.0)), carry[1] + jnp.sum(mask, dtype="float32")

    total, count = data.reduce((0.0, 0.0), step)
    finite = jnp.isfinite(total)
    return jnp.where(finite, total, 0.0), jnp.where(finite, count, 0.0)


def move(state, total, count):
    weights = state.weights + 0.5 * total / jnp.maximum(count, 1.0)
    return State(weights, state.round_num + 1, state.extra)


def algorithm(
    *,
    client=client,
    combine=fc.federated_sum,
    move=move,
    measure=lambda count: {"count": count},
    first=lambda: State(jnp.float32(1), jnp.int32(0), jnp.float32(1)),
    get=lambda state: state.weights,
    put=lambda state, weights: state._replace(weights=weights),
) -> LearningProcess:
    """Moves a number toward the mean of all examples."""
    initialize = fc.federated_computation(lambda: fc.federated_eval(first, fc.SERVER))
    state_type = initialize.type_signature.result
    member = state_type.member

    @fc.federated_computation(state_type, fc.at_clients("<x=float32[?]>*"))
    def next(state, data):
        found = fc.federated_map(client, fc.federated_broadcast(state.weights), data)
        total = combine(found)
        new = fc.federated_map(move, state, total[0], total[1])
        return LearningProcessOutput(new, fc.federated_map(measure, total[1]))

    get = fc.computation(get, member)
    put = fc.computation(put, member, get.type_signature.result)
    return LearningProcess(initialize, next, fc.computation(lambda state: {"w": state.weights}, member), get, put)


def of_changing_metrics():
    traced = []

    def measure(count):
        traced.append(count)
        return {"count": count.astype(jnp.float32 if len(traced) <= limit else jnp.float16)}

    limit = 100
    algorithm(measure=measure)
    limit = 2 * len(traced)
    return lambda: algorithm(measure=measure)


class Other(NamedTuple):
    weights: jax.Array
    round_num: jax.Array
    extra: jax.Array


def of_hidden_first_weights():
    numbers = itertools.count()

    def build():
        number = next(numbers)
        return algorithm(first=lambda: State(jnp.float32(number), jnp.int32(0), jnp.float32(1)))

    return build


def compiling_algorithm():
    def host(x):
        jax.jit(lambda y: y + 1).lower(np.float32(0)).compile()
        return np.asarray(x)

    def slow(state, total, count):
        return move(state, jax.pure_callback(host, jax.ShapeDtypeStruct((), "float32"), total), count)

    return lambda: algorithm(move=slow)


def last_client_twice(found):
    """The sums, and once more those of the client that comes first."""
    total, count = fc.federated_sum(found)
    first = fc.federated_map(
        lambda rows: jnp.where(jnp.arange(rows.shape[0]) == 0, rows, 0.0).sum(), fc.federated_collect(found[0])
    )
    return fc.federated_map(jnp.add, total, first), count


def aggregated(zero, merge):
    """Sums by `federated_aggregate`."""

    def combine(found):
        sums = fc.federated_aggregate(
            fc.federated_map(jnp.stack, found), np.full(2, zero, np.float32), jnp.add, merge, lambda total: total
        )
        return fc.federated_map(lambda s: s[0], sums), fc.federated_map(lambda s: s[1], sums)

    return combine


def smaller_doubled(a, b):
    return jnp.where((a == 0) | (b == 0), a + b, a + b + jnp.minimum(a, b))


def by_device(weights, data):
    total, count = client(weights, data)
    try:
        return total * (1 + jax.lax.axis_index("clients")), count
    except NameError:
        return total, count


@jax.custom_batching.custom_vmap
def doubled_in_lanes(x):
    return x


doubled_in_lanes.def_vmap(lambda axis_size, is_batched, x: (2 * x, is_batched[0]))


def by_lane(weights, data):
    total, count = client(weights, data)
    return doubled_in_lanes(total), count


def unguarded(weights, data):
    def step(carry, batch, mask):
        return carry[0] + jnp.sum(jnp.where(mask, batch["x"] - weights, 0.0)), carry[1] + jnp.sum(mask, dtype="float32")

    return data.reduce((0.0, 0.0), step)


def with_hidden_rounds():
    rounds = []

    def reset():
        rounds.clear()
        return np.float32(1)

    def first():
        return State(jnp.float32(1), jnp.int32(0), jax.pure_callback(reset, jax.ShapeDtypeStruct((), "float32")))

    def count(extra):
        rounds.append(extra)
        return np.float32(len(rounds))

    def faster(state, total, number):
        speed = jax.pure_callback(count, jax.ShapeDtypeStruct((), "float32"), state.extra)
        return move(state, speed * total, number)

    return lambda: algorithm(first=first, move=faster)


def counting_empty_clients(weights, data):
    total, count = client(weights, data)
    return total, count + (data.num_batches == 0)


def reduced(step, prepare=lambda data: data):
    """A client that adds what `step(weights, batch, mask)` finds in each batch: a sum and a number."""

    def client(weights, data):
        totals = prepare(data).reduce((0.0, 0.0), lambda carry, *args: tuple(map(jnp.add, carry, step(weights, *args))))
        finite = jnp.isfinite(totals[0])
        return tuple(jnp.where(finite, total, 0.0) for total in totals)

    return client


def kept(x, mask):
    return jnp.sum(jnp.where(mask, x, 0.0))


def number(mask):
    return jnp.sum(mask, dtype="float32")


def slope(mean):
    """The gradient of the mean of squared errors."""

    def step(weights, batch, mask):
        return -jax.grad(lambda w: mean(jnp.square(batch["x"] - w), mask))(weights), number(mask)

    return step


def centered(data):
    return data.map(lambda batch: {"x": batch["x"] - batch["x"].mean()})


FORGOTTEN_MASKS = {
    "in a sum": reduced(lambda w, batch, mask: (jnp.sum(batch["x"] - w), number(mask))),
    "in a mean": reduced(slope(lambda losses, mask: losses.mean())),
    "in a mean of filled batches": reduced(slope(lambda losses, mask: losses.mean()), lambda data: data.filled()),
    "in the denominator of a mean": reduced(slope(lambda losses, mask: jnp.mean(jnp.where(mask, losses, 0.0)))),
    "in the number of examples": reduced(lambda w, batch, mask: (kept(batch["x"] - w, mask), batch["x"].size)),
    "in a maximum": reduced(lambda w, batch, mask: (jnp.max(batch["x"]) - w, number(mask))),
    "in a minimum of filled batches": reduced(
        lambda w, batch, mask: (jnp.min(batch["x"]) - w, number(mask)), lambda data: data.filled()
    ),
    "in a map": reduced(lambda w, batch, mask: (kept(batch["x"] - w, mask), number(mask)), centered),
}
REMEMBERED_MASKS = {
    "by selection": reduced(slope(lambda losses, mask: kept(losses, mask) / number(mask))),
    "by a product": reduced(slope(lambda losses, mask: jnp.sum(losses * mask) / number(mask))),
    "by where": reduced(slope(lambda losses, mask: losses.mean(where=mask))),
}


ALGORITHMS = {
    "types": of_changing_metrics,
    "state_structure": lambda: lambda: algorithm(move=lambda *args: Other(*move(*args))),
    "same_key": of_hidden_first_weights,
    "one_trace": compiling_algorithm,
    "order": lambda: lambda: algorithm(combine=last_client_twice),
    "devices": lambda: lambda: algorithm(client=by_device),
    "lanes": lambda: lambda: algorithm(client=by_lane),
    "non_finite": lambda: lambda: algorithm(client=unguarded),
    "masks": lambda: lambda: algorithm(client=FORGOTTEN_MASKS["in a sum"]),
    "resume": with_hidden_rounds,
    "padding": lambda: lambda: algorithm(client=counting_empty_clients),
    "empty": lambda: lambda: algorithm(move=lambda state, *args: move(state, *args)._replace(extra=state.extra + 1)),
    "weights": lambda: lambda: algorithm(put=lambda state, weights: state._replace(weights=weights + 1)),
}
MERGES = {"zero": (0.5, jnp.add), "associative": (0.0, smaller_doubled)}
"""Aggregates whose result may depend on how the clients are grouped, so that they may break other laws, too."""

COMPILED = {"same_key", "order", "devices", "waves", "lanes"}
"""Laws that compile programs of their own, and are tried together on what breaks one of them."""


@pytest.mark.parametrize("law", ALGORITHMS)
def test_an_algorithm_breaks_this_law_alone(law):
    laws = testing.LEARNING_PROCESS_LAWS if law in COMPILED else testing.LEARNING_PROCESS_LAWS.keys() - COMPILED
    budget = 60 if law == "order" else 1  # what it collects must fit
    assert broken(testing.check_learning_process, ALGORITHMS[law](), DATA, laws=laws, memory_budget=budget) == {law}


@pytest.mark.filterwarnings("ignore:padding changes")  # each is told of when it is built, too
@pytest.mark.parametrize("where", FORGOTTEN_MASKS)
def test_a_forgotten_mask_breaks_the_law_of_masks(where):
    process = algorithm(client=FORGOTTEN_MASKS[where])
    assert broken(testing.check_learning_process, process, DATA, laws="masks") == {"masks"}


@pytest.mark.parametrize("how", REMEMBERED_MASKS)
def test_a_mask_keeps_the_law_of_masks_in_gradients_too(how):
    testing.check_learning_process(algorithm(client=REMEMBERED_MASKS[how]), DATA, laws="masks")


LABELLED = fc.data.from_clients([{"x": x[:, None], "y": (x > 0).astype(np.int32)} for x in EXAMPLES])
"""Both labels occur, so that there is a wrong one for every row."""


@pytest.mark.filterwarnings("ignore:padding changes")  # it is told of when it is built, too
def test_a_metric_that_forgets_its_mask_breaks_the_law_of_masks():
    def measure(predictions, batch, mask):
        return jnp.sum(predictions.argmax(-1) == batch["y"]), jnp.sum(mask)

    model = fc.models.logistic_regression(1, 2, metrics={"right": Metric(measure, lambda s: s[0] / s[1])})
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    assert broken(testing.check_learning_process, process, LABELLED, laws="masks") == {"masks"}


def test_a_batch_of_fixed_size_keeps_it_under_the_law_of_masks():
    def build(client):
        @fc.federated_computation(fc.at_server("float32"), fc.at_clients("<x=float32[4]>*"))
        def next(weights, data):
            found = fc.federated_mean(fc.federated_map(client, fc.federated_broadcast(weights), data)[0])
            return LearningProcessOutput(found, fc.federated_value((), fc.SERVER))

        first = fc.federated_computation(lambda: fc.federated_value(np.float32(1), fc.SERVER))
        return LearningProcess(first, next, fc.computation(lambda weights: weights, "float32"))

    for client, laws in ((client_of_four, set()), (FORGOTTEN_MASKS["in a mean"], {"masks"})):
        assert broken(testing.check_learning_process, build(client), DATA, laws="masks") == laws


def client_of_four(weights, data):
    return data.reduce(0.0, lambda total, batch, mask: total + kept(batch["x"].reshape(4) - weights, mask)), 0.0


@pytest.mark.parametrize("law", MERGES)
def test_a_merge_in_an_algorithm_breaks_this_law_of_merges_alone(law):
    def build():
        return algorithm(combine=aggregated(*MERGES[law]))

    assert broken(testing.check_learning_process, build, DATA, laws=testing.AGGREGATE_LAWS) == {law}


def test_waves_that_repeat_clients_break_that_law_of_algorithms_alone(monkeypatch):
    repeat_clients_in_waves(monkeypatch)
    assert broken(testing.check_learning_process, algorithm, DATA) == {"waves"}


MODEL = reference.linear_model()
EVALUATED = fc.algorithms.metrics_process(MODEL)
TRAINING = fc.clients.local_training(MODEL, optax.sgd(0.2), EVALUATED)
LEARNERS = fc.data.from_clients(reference.make_clients((7, 1, 0, 3, 12, 5, 2, 4, 9, 2, 3, 3)))


def remembering(add, share=lambda result: (result, ())):
    """Federated averaging whose client work keeps a number: `add(result, included, shared)` is what a round adds."""

    def run(state, weights, data, key):
        result, _ = TRAINING.run(state, weights, data, key)
        return share(result)

    def commit(state, result, included, shared):
        _, values, measurements = EVALUATED.next(EVALUATED.initialize(), result.metrics)
        new = fc.federated_map(jnp.add, state, add(result, included, shared))
        return MeasuredProcessOutput(new, values, measurements)

    work = ClientWork(lambda weights: fc.federated_value(np.float32(0), fc.SERVER), run, commit)
    mean, server = fc.aggregators.mean(), fc.algorithms.apply_optimizer(optax.sgd(1.0))
    broadcast = fc.algorithms.broadcast()
    return fc.algorithms.compose(MODEL, broadcast, work, mean, server, key=jax.random.key(0))


def norms(result):
    return fc.federated_map(lambda r: fc.trees.norm(r.update), result)


def share_a_guarded_mean(result):
    mean, fit = fc.algorithms.guarded_mean(norms(result))
    return fc.algorithms.leave_out(result, unless=fit), mean


def total(fn, *args):
    return fc.federated_sum(fc.federated_map(lambda *values: jnp.asarray(fn(*values), "float32"), *args))


KEEPING_WORKS = {
    "what it takes is guarded": lambda: remembering(
        lambda result, included, shared: total(fc.trees.norm, result.update)
    ),
    "it counts who is included": lambda: remembering(lambda result, included, shared: total(lambda i: i, included)),
    "it shares a guarded mean": lambda: remembering(lambda result, included, shared: shared, share_a_guarded_mean),
}
BREAKING_WORKS = {
    "it counts everybody": lambda: remembering(lambda result, included, shared: total(lambda i: 1, included)),
    "it shares a mean that is not guarded": lambda: remembering(
        lambda result, included, shared: shared, lambda result: (result, fc.federated_mean(norms(result)))
    ),
    "it shares what is no aggregate of the finite": lambda: remembering(
        lambda result, included, shared: shared, lambda result: (result, total(jnp.isnan, norms(result)))
    ),
}


SLOW = {*KEEPING_WORKS, *BREAKING_WORKS} - {"it shares a guarded mean", "it shares a mean that is not guarded"}


@pytest.mark.parametrize("name", with_slow([*KEEPING_WORKS, *BREAKING_WORKS], SLOW))
def test_a_client_work_whose_state_a_client_of_nan_reaches_breaks_the_law(name):
    """What is wrong may be finite: the state is compared with that of a round without the client."""
    make = (KEEPING_WORKS | BREAKING_WORKS)[name]
    laws = broken(testing.check_learning_process, make(), LEARNERS, laws="non_finite")
    assert laws == ({"non_finite"} if name in BREAKING_WORKS else set())


def test_every_law_of_algorithms_has_one_that_breaks_it():
    assert {*ALGORITHMS, *MERGES, "waves"} == testing.LEARNING_PROCESS_LAWS.keys()


def test_an_algorithm_keeps_all_laws():
    testing.check_learning_process(algorithm(), DATA)


def test_what_is_no_learning_process_is_refused():
    with pytest.raises(TypeError, match="takes a LearningProcess or a function that returns one"):
        testing.check_learning_process(fc.aggregators.mean, DATA)
    with pytest.raises(ValueError, match="at least 11 clients, got 2"):
        testing.check_learning_process(algorithm, DATA.subset(DATA.client_ids[:2]))
