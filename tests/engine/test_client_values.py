"""Values that come with a cohort, besides its clients' data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.data import Batching, FederatedData
from tests import cohorts
from tests.test_traces import compilations

SIZES = [5, 0, 1, 11, 3, 9, 4, *([6] * 20)]
CLIENTS = cohorts.make_population(SIZES)
DATA = FederatedData.from_clients(CLIENTS)


def make_cohort(ids, **extra):
    return DATA.cohort(ids, Batching(4), extra=extra)


@fc.federated_computation(fc.at_server("float32"), fc.at_clients(cohorts.DATA))
def late_examples(scale, data):
    def late(scale, data, delay, bias):
        return scale * delay * data.num_examples + bias.sum()

    delay, bias = fc.federated_client_value("delay", "int32"), fc.federated_client_value("bias", "float32[2]")
    values = fc.federated_map(late, fc.federated_broadcast(scale), data, delay, bias)
    return values, fc.federated_sum(values), fc.federated_max(delay)


def expected(ids, delay, bias):
    return 2.0 * delay * np.array([len(CLIENTS[i]["y"]) for i in ids]) + bias.sum(1)


def drawn(number=20, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.choice(list(CLIENTS), number).tolist()  # some clients more than once, with another delay each time
    return ids, rng.integers(0, 9, number, dtype=np.int32), rng.integers(0, 9, (number, 2)).astype(np.float32)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("budget", [None, 2000])
def test_every_client_has_its_own_row(lanes, devices, budget):
    ids, delay, bias = drawn(60)
    run = late_examples.with_config(fc.EngineConfig(lanes=lanes, devices=devices, memory_budget=budget))
    cohort = make_cohort(ids, delay=delay, bias=bias)
    values, total, latest = run(2.0, cohort)
    (packing,) = cohort.packed.values()
    assert (packing.schedule.num_waves > 1) == (budget is not None)
    np.testing.assert_array_equal(values, expected(ids, delay, bias))
    assert float(total) == expected(ids, delay, bias).sum() and int(latest) == delay.max()


def test_what_a_program_does_not_read_compiles_nothing_anew():
    ids, delay, bias = drawn()
    run = late_examples.with_config(fc.EngineConfig(devices=2))
    jax.block_until_ready(run(2.0, make_cohort(ids, delay=delay, bias=bias)))
    with compilations() as later:
        run(2.0, make_cohort(ids, delay=delay, bias=bias, group=delay > 3))
    assert later == []


def test_a_prefetched_cohort_brings_them_too():
    ids, delay, bias = drawn()
    cohort = make_cohort(ids, delay=delay, bias=bias)
    late_examples.prefetch(cohort)
    np.testing.assert_array_equal(late_examples(2.0, cohort)[0], expected(ids, delay, bias))


def test_lanes_are_measured_with_them():
    @fc.federated_computation(fc.at_clients("<x=float32[?,2],y=float32[?]>*"))
    def total(data):
        return fc.federated_sum(fc.federated_client_value("delay", "int32"))

    ids, delay, _ = drawn()
    auto = total.with_config(fc.EngineConfig(devices=1, lanes="auto"))
    assert int(auto(make_cohort(ids, delay=delay))) == delay.sum()


def test_several_passes_read_them():
    @fc.federated_computation(fc.at_clients(cohorts.DATA))
    def above_mean(data):
        speed = fc.federated_client_value("speed", "float32")
        mean = fc.federated_broadcast(fc.federated_mean(speed))
        return fc.federated_sum(fc.federated_map(lambda s, m: (s > m).astype("int32"), speed, mean))

    assert int(above_mean(make_cohort(["client0", "client3", "client2"], speed=[1.0, 2.0, 6.0]))) == 1


def test_inlined_computations_read_those_of_the_outer_cohort():
    @fc.federated_computation(fc.at_clients(cohorts.DATA))
    def outer(data):
        return late_examples(fc.federated_value(2.0, fc.SERVER), data), fc.federated_sum(
            fc.federated_client_value("delay", "int32")
        )

    ids, delay, bias = drawn()
    (values, _, _), total = outer(make_cohort(ids, delay=delay, bias=bias))
    np.testing.assert_array_equal(values, expected(ids, delay, bias))
    assert int(total) == delay.sum()


@fc.federated_computation(fc.at_clients(cohorts.DATA), fc.at_clients(cohorts.DATA), fc.at_clients("int32"))
def of_two_cohorts(first, second, plain):
    delay, speed = fc.federated_client_value("delay", "int32"), fc.federated_client_value("speed", "float32")
    steps = fc.federated_map(lambda a, b: a.num_batches + b.num_batches, first, second)
    return fc.federated_map(lambda n, d, s, p: n + d * s + p, steps, delay, speed, plain)


def test_several_cohorts_bring_their_values_together():
    ids = ["client3", "client1"]
    first, second = make_cohort(ids, delay=[1, 2]), make_cohort(ids, speed=[10.0, 20.0], delay=[1, 2])
    assert of_two_cohorts(first, second, [100, 200]).tolist() == [116.0, 240.0]
    packed = (fc.pack_cohort(first), fc.pack_cohort(second), jnp.array([100, 200]))
    assert jax.jit(of_two_cohorts.as_function())(*packed).tolist() == [116.0, 240.0]
    other = make_cohort(ids, speed=[10.0, 20.0], delay=[1, 3])
    with pytest.raises(ValueError, match=r"'delay'.* different values of this name; give it with one of them"):
        of_two_cohorts(first, other, [100, 200])
    with pytest.raises(ValueError, match=r"'delay'.* different values of this name; give it with one of them"):
        of_two_cohorts.as_function()(fc.pack_cohort(first), fc.pack_cohort(other), [100, 200])


def test_packed_cohorts_carry_them_through_jit_and_scan():
    rounds = [drawn(6, seed) for seed in range(3)]
    packed = fc.stack_cohorts(make_cohort(ids, delay=delay, bias=bias) for ids, delay, bias in rounds)
    function = late_examples.as_function()
    _, found = jax.lax.scan(lambda carry, cohort: (carry, function(2.0, cohort)[0]), None, packed)
    np.testing.assert_array_equal(found, [expected(*round_) for round_ in rounds])
    alone = jax.jit(function)(2.0, fc.pack_cohort(make_cohort(rounds[0][0], delay=rounds[0][1], bias=rounds[0][2])))
    np.testing.assert_array_equal(alone[0], found[0])


def test_gradients_by_a_value():
    cohort = fc.pack_cohort(make_cohort(["client0", "client2"], delay=[1, 2], bias=np.ones((2, 2), np.float32)))

    def total(bias):
        return late_examples.as_function()(2.0, dataclasses.replace(cohort, extra=cohort.extra | {"bias": bias}))[1]

    assert jax.grad(total)(cohort.extra["bias"]).tolist() == [[1, 1], [1, 1]]


def test_stacked_cohorts_bring_the_same_values():
    ids = ["client0", "client1"]
    with pytest.raises(TypeError, match=r"the same values beside their data, got <delay=int32> and <delay=float32>"):
        fc.stack_cohorts([make_cohort(ids, delay=[1, 2]), make_cohort(ids, delay=[1.0, 2.0])])
    with pytest.raises(TypeError, match=r"the same values beside their data, got <delay=int32> and <>"):
        fc.stack_cohorts([make_cohort(ids, delay=[1, 2]), make_cohort(ids)])


def called(cohort):
    return late_examples(2.0, cohort)


def traced(cohort):
    return late_examples.as_function()(2.0, fc.pack_cohort(cohort))


@pytest.mark.parametrize("run", [called, traced])
def test_what_is_missing_or_of_another_type(run):
    ids, delay, bias = drawn(3)
    missing = (
        r"'delay', 'int32'\) at .*test_client_values.py:\d+: .* 'bias', but with no value of this name; write .*'delay'"
    )
    with pytest.raises(TypeError, match=missing):
        run(make_cohort(ids, bias=bias))
    with pytest.raises(TypeError, match=r"'delay'.*come with nothing beside their data"):
        run(make_cohort(ids))
    with pytest.raises(TypeError, match=r"'delay', 'int32'.* has float32 for each client; declare it as 'float32', or"):
        run(make_cohort(ids, delay=[1.0, 2.0, 3.0], bias=bias))
    with pytest.raises(TypeError, match=r"'bias', 'float32\[2\]'.* has float32\[3\] for each client"):
        run(make_cohort(ids, delay=delay, bias=np.ones((3, 3), np.float32)))


def test_a_prefetch_checks_as_the_call_does():
    with pytest.raises(TypeError, match=r"'delay'.*come with nothing beside"):
        late_examples.prefetch(make_cohort(["client0"]))


@pytest.mark.parametrize("clients", [[CLIENTS["client0"]], {"client0": CLIENTS["client0"]}])
def test_lists_and_dicts_of_clients_have_none(clients):
    for run in (late_examples, late_examples.as_function()):
        with pytest.raises(TypeError, match=r"'delay'.* as clients of a list or a dict always do; write data.cohort"):
            run(2.0, clients)


def test_descriptions_show_what_the_clients_bring():
    lines = late_examples.describe().splitlines()
    start = lines.index("pass 1 over the clients (16 virtual shards)")
    assert lines[start + 1 : start + 3] == ["  brings 4 B: int32 (delay)", "  brings 8 B: float32[2] (bias)"]
    assert "  sends 4 B: federated_max of int32 (delay)" in lines
    assert lines[-1] == "per client: receives 4 B, sends 8 B"


def discount_stale(inner):
    """An aggregator that gives an update less weight the more rounds it is late."""

    def next(state, value, weight):
        delay = fc.federated_client_value("delay", "int32")
        return inner.next(state, value, fc.federated_map(lambda w, d: w / 4.0**d, weight, delay))

    return inner._replace(next=next)


def test_a_round_weighs_updates_by_what_comes_in_with_the_cohort():
    sizes, delay = np.array([3, 5]), [2, 0]
    rng = np.random.default_rng(0)
    clients = [{"x": rng.normal(size=(n, 2)), "y": rng.integers(0, 2, n)} for n in sizes]
    data = FederatedData.from_clients(clients)
    model, optimizer, key = fc.models.logistic_regression(2, 2), optax.sgd(0.5), jax.random.key(0)
    plain = fc.algorithms.fed_avg(model, optimizer, key=key)
    late = fc.algorithms.fed_avg(model, optimizer, aggregator=discount_stale(fc.aggregators.mean()), key=key)

    def trained(process, ids, **options):
        cohort = data.cohort(ids, Batching(2), **options)
        return process.get_model_weights(process.next(process.initialize(), cohort).state)["kernel"]

    alone = [np.asarray(trained(plain, [i])) for i in range(2)]
    expected = np.average(alone, axis=0, weights=sizes / 4.0 ** np.array(delay))
    np.testing.assert_allclose(trained(late, [0, 1], extra={"delay": delay}), expected, rtol=1e-5)
    assert np.abs(expected - trained(plain, [0, 1])).max() > 1e-2
    with pytest.raises(TypeError, match=r"federated_client_value\('delay', 'int32'\) at .*test_client_values.py"):
        trained(late, [0, 1])
