"""Computations: signatures, calls, wrong inputs, threads."""

import concurrent.futures
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.data import Batching, FederatedData
from tests import cohorts

FLOATS = fc.at_clients("float32")


@fc.federated_computation(FLOATS)
def mean(values):
    return fc.federated_mean(values)


@fc.federated_computation(fc.at_server("float32"), fc.at_clients(cohorts.DATA))
def count(scale, data):
    total = fc.federated_sum(fc.federated_map(lambda d: d.num_examples, data))
    return fc.federated_map(lambda s, n: s * n, scale, total)


class Output(NamedTuple):
    state: dict
    metrics: float


def test_signatures():
    assert str(mean.type_signature) == "({float32}@CLIENTS -> float32@SERVER)"
    assert str(count.type_signature) == (
        "(<scale=float32@SERVER,data={<x=float32[?,2],y=float32[?]>*}@CLIENTS> -> float32@SERVER)"
    )
    assert repr(mean) == "<mean: ({float32}@CLIENTS -> float32@SERVER)>" and mean.__name__ == "mean"
    assert [name for name, _ in count.parameters] == ["scale", "data"]


def test_a_constant_without_arguments():
    ten = fc.federated_computation(lambda: 10)
    assert str(ten.type_signature) == "( -> int32)" and int(ten()) == 10

    @fc.federated_computation
    def nothing():
        return ()

    assert str(nothing.type_signature) == "( -> <>)" and nothing() == ()

    @fc.federated_computation()
    def start():
        return {"a": fc.federated_value(1.0, fc.SERVER), "b": np.ones(2, np.float32)}

    assert str(start.type_signature) == "( -> <a=float32@SERVER,b=float32[2]>)" and start()["b"].tolist() == [1, 1]
    with pytest.raises(TypeError, match=r"returns placed values or constants: .*'text'"):
        fc.federated_computation(lambda: "text")


def test_results_keep_their_containers():
    @fc.federated_computation(fc.at_server({"w": "float32"}), FLOATS)
    def run(state, values):
        return Output(state, fc.federated_sum(values))

    result = run({"w": 1}, [2.0])
    assert type(result) is Output and result.state == {"w": 1.0} and float(result.metrics) == 2.0
    assert str(run.type_signature.result) == "<state=<w=float32>@SERVER,metrics=float32@SERVER>"


def test_arguments_come_in_the_declared_containers():
    seen = []

    @fc.federated_computation(fc.at_server(Output({"w": "float32"}, "int32")))
    def run(state):
        return fc.federated_map(lambda s: (seen.append(type(s)), s)[1], state)

    for value in (Output({"w": 1.0}, 2), ({"w": jnp.float32(1)}, 2), {"state": {"w": np.float64(1)}, "metrics": 2}):
        try:
            result = run(value)
        except TypeError:
            assert isinstance(value, dict)  # a dict's fields come sorted: metrics before state
            continue
        assert type(result) is Output and result == Output({"w": 1.0}, 2)
    assert set(seen) == {Output}


def test_structs_of_federated_arguments():
    run = fc.federated_computation(
        lambda p: (fc.federated_sum(p["v"]), p["s"]), {"s": fc.at_server("int32"), "v": FLOATS}
    )
    assert str(run.type_signature.parameter) == "<s=int32@SERVER,v={float32}@CLIENTS>"
    total, server = run({"s": 3, "v": [1.0, 2.0]})
    assert float(total) == 3.0 and int(server) == 3


def test_all_equal_arguments_at_the_clients():
    run = fc.federated_computation(
        lambda a, v: fc.federated_map(jnp.multiply, a, v), fc.at_clients("float32", all_equal=True), FLOATS
    )
    assert run(2.0, [1.0, 3.0]).tolist() == [2.0, 6.0]


def test_keywords_and_defaults():
    assert float(count(data=cohorts.make_cohort(cohorts.make_population([3, 4])), scale=2)) == 14.0

    @fc.federated_computation(FLOATS)
    def optional(values, weights=None):
        return fc.federated_mean(values, weights)

    assert float(optional([1.0, 3.0])) == 2.0
    total = fc.federated_computation(functools.partial(lambda a, v: fc.federated_sum(v), 1), FLOATS)
    assert float(total([1.0])) == 1.0


@pytest.mark.parametrize(
    ("args", "kwargs", "found"),
    [
        ((), {}, "missing: scale, data"),
        ((1.0,), {}, "missing: data"),
        ((1.0, [], 2.0), {}, "too many"),
        ((1.0, []), {"x": 1}, "unknown or given twice: x"),
        ((1.0, []), {"scale": 1.0}, "unknown or given twice: scale"),
    ],
)
def test_wrong_numbers_of_arguments(args, kwargs, found):
    with pytest.raises(TypeError, match=rf"count takes 2 arguments \(scale, data\), {found}"):
        count(*args, **kwargs)


def test_wrong_numbers_of_types():
    with pytest.raises(TypeError, match=r"f takes 2 arguments \(a, b\) and 1 types were given; write @fc"):

        @fc.federated_computation(FLOATS)
        def f(a, b):
            return a

    with pytest.raises(TypeError, match=r"takes 0 arguments"):
        fc.federated_computation(lambda: 1, FLOATS)


def test_programs_that_nobody_can_run():
    with pytest.raises(TypeError, match=r"has no argument at CLIENTS.*add one"):
        fc.federated_computation(lambda: fc.federated_sum(fc.federated_value(1, fc.CLIENTS)))


BATCH = {"x": np.ones((3, 2), np.float32), "y": np.ones(3, np.float32)}
WRONG = {
    "dtype": ([BATCH, BATCH | {"y": np.ones(3, np.int32)}], ["client 1", "'y'", "int32[3]"]),
    "shape": ([BATCH, BATCH | {"x": np.ones((3, 3), np.float32)}], ["client 1", "'x'", "float32[3,3]"]),
    "rank": ([[BATCH | {"y": np.ones((3, 1), np.float32)}]], ["client 0", "'y'", "float32[3,1]"]),
    "missing": ([BATCH, {"x": BATCH["x"]}], ["client 1", "missing ['y']"]),
    "surplus": ([BATCH | {"z": BATCH["y"]}], ["client 0", "not expected ['z']"]),
    "lengths": ([BATCH, [BATCH, BATCH | {"y": np.ones(2, np.float32)}]], ["client 1, batch 1", "'x' has 3, 'y' has 2"]),
    "text": ([BATCH | {"y": np.array(["a", "b", "c"])}], ["client 0", "'y'", "<U1"]),
    "none": ([BATCH, None], ["client 1"]),
    "number": ([1.0], ["client 0"]),
    "array": (np.ones((3, 2)), ["give a cohort"]),
    "dict": (BATCH, ["{id: client}", "fields ['x', 'y'] of a single client", "give [client]"]),
    "keys": ([{1: BATCH["x"], "y": BATCH["y"]}], ["keys of a dict must be either all strings"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_client_data_names_the_client_and_the_field(name):
    value, words = WRONG[name]
    with pytest.raises((TypeError, ValueError)) as error:
        count(1.0, value)
    assert all(word in str(error.value) for word in words), str(error.value)
    innermost = error.traceback[-1].path
    assert "fedjax_core" in str(innermost), innermost


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ({"ada": {"x": np.ones((3, 3), np.float32), "y": np.ones(3, np.float32)}}, ["'ada'", "x", "float32[?,3]"]),
        ({"ada": {"x": np.ones((3, 2), np.float32)}}, ["'ada'", "missing ['y']"]),
        ({"ada": {"x": np.ones((3, 2), np.float32), "y": np.ones(3, np.int32)}}, ["'ada'", "y", "int32[?]"]),
    ],
)
def test_wrong_cohorts_name_the_first_client_and_the_field(clients, words):
    cohort = FederatedData.from_clients(clients).cohort(["ada"], Batching(2))
    with pytest.raises(TypeError, match=r"argument 'data'") as error:
        count(1.0, cohort)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("value", ["text", None, object(), [1.0], np.ones(2), 1j, jnp.int32(1), {"a": 1.0}])
def test_wrong_server_values(value):
    with pytest.raises(TypeError, match=r"argument 'scale'|'?scale'?: expected float32, got"):
        count(value, [BATCH])


def test_clients_must_be_the_same_in_all_arguments():
    run = fc.federated_computation(lambda a, b: fc.federated_mean(a, b), FLOATS, FLOATS)
    with pytest.raises(ValueError, match=r"have the same clients, got: 'a' has 1, 'b' has 2"):
        run([1.0], [1.0, 2.0])
    both = fc.federated_computation(
        lambda a, b: fc.federated_sum(fc.federated_map(lambda x, y: x.num_batches + y.num_batches, a, b)),
        fc.at_clients(cohorts.DATA),
        fc.at_clients(cohorts.DATA),
    )
    clients = cohorts.make_population([5, 9])
    first, second = cohorts.make_cohort(clients), cohorts.make_cohort(clients, ["client1", "client0"])
    assert int(both(first, cohorts.make_cohort(clients, batch_size=2))) == 2 + 3 + 3 + 5
    with pytest.raises(ValueError, match=r"the same clients in the same order"):
        both(first, second)


def test_a_cohort_and_a_list():
    @fc.federated_computation(fc.at_clients(cohorts.DATA), FLOATS)
    def run(data, factors):
        scaled = fc.federated_map(lambda d, f: d.num_examples * f, data, factors)
        return scaled, fc.federated_collect(fc.federated_client_index())

    clients = cohorts.make_population([5, 9, 1])
    scaled, index = run(cohorts.make_cohort(clients, ["client2", "client0"]), [10.0, 100.0])
    assert scaled.tolist() == [10.0, 500.0] and index.tolist() == [2, 0]


def test_untyped_computations():
    @fc.federated_computation
    def total(values, scale):
        return fc.federated_map(jnp.multiply, fc.federated_sum(values), scale)

    assert float(total([1.0, 2.0], 3.0)) == 9.0 and float(total(scale=2.0, values=[1.0])) == 2.0
    assert total([jnp.ones(2)] * 3, jnp.float32(2)).tolist() == [6.0, 6.0]
    assert float(total.typed(FLOATS, fc.at_server("float32")).as_function()(jnp.ones(2), 3.0)) == 6.0
    with pytest.raises(AttributeError, match=r"total has no 'as_function' before .*; write total.typed"):
        _ = total.as_function
    with pytest.raises(TypeError, match=r"total\(values, scale\): missing a required argument: 'scale'"):
        total([1.0])
    sizes = fc.federated_computation(lambda d: fc.federated_sum(fc.federated_map(lambda d: d.num_examples, d)))
    assert int(sizes(cohorts.make_cohort(cohorts.make_population([5, 9])))) == 14
    assert int(sizes([[np.ones(3)], [np.ones(2), np.ones(1)]])) == 6


@pytest.mark.parametrize("name", ["as_function", "config", "describe", "estimate", "name", "parameters", "prefetch"])
def test_what_untyped_computations_do_not_have_yet(name):
    total = fc.federated_computation(lambda values: fc.federated_sum(values))
    with pytest.raises(AttributeError, match=rf"has no '{name}' before its types are known; write .*\.{name}, or"):
        getattr(total, name)
    with pytest.raises(AttributeError, match=r"^nothing$"):
        total.nothing  # noqa: B018


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["scale"])
@dataclasses.dataclass
class Scaled:
    value: Any
    scale: float


def test_other_static_fields_are_refused():
    """They used to become those of the type, silently."""

    @fc.federated_computation(fc.at_server(Scaled("float32", 2.0)), FLOATS)
    def run(scaled, values):
        return fc.federated_map(lambda s: s.value * s.scale, scaled)

    assert float(run(Scaled(3.0, 2.0), [])) == 6.0
    refused = r"a Scaled with the static fields scale=2.0, got scale=3.0"
    for call in (run, run.as_function()):
        with pytest.raises(TypeError, match=refused):
            call(Scaled(jnp.float32(3), 3.0), [1.0])
    with pytest.raises(TypeError, match=rf"argument 'scaled' of run at .*py:\d+: .*{refused}"):
        fc.federated_computation(lambda s, v: run(s, v), fc.at_server(Scaled("float32", 3.0)), FLOATS)


def test_plain_computations():
    half = fc.computation(lambda x: jax.tree.map(lambda a: a / 2, x), {"a": "float32[?]", "b": "float32"})
    assert str(half.type_signature) == "(<a=float32[?],b=float32> -> <a=float32[?],b=float32>)"
    result = half({"a": [1, 2], "b": 3})
    assert result["a"].tolist() == [0.5, 1.0] and float(result["b"]) == 1.5
    assert float(jax.grad(lambda b: half({"a": jnp.ones(2), "b": b})["b"])(2.0)) == 0.5
    assert jax.vmap(lambda a: half({"a": a, "b": 1.0})["a"])(jnp.ones((3, 2))).shape == (3, 2)
    with pytest.raises(TypeError, match=r"argument 'x', field 'a': expected float32\[\?\], got float32\[1,2\]"):
        half({"a": jnp.ones((1, 2)), "b": 3})
    with pytest.raises(TypeError, match=r"a computation has no placements, write @fc.federated_computation"):
        fc.computation(lambda x: x, FLOATS)
    with pytest.raises(TypeError, match=r"computation\(<lambda>\) at .*test_computation.py:\d+ cannot be applied"):
        fc.computation(lambda x: x @ x, "float32")


def test_with_config():
    assert float(mean.with_config(fc.EngineConfig(lanes=2, devices=2))([1.0, 2.0, 6.0])) == 3.0
    with pytest.raises(TypeError, match=r"takes an EngineConfig, got 8; write with_config\(fc.EngineConfig"):
        mean.with_config(8)


@pytest.mark.parametrize("devices", [1, 2])
def test_prefetch_reads_what_the_call_then_finds(devices):
    run = count.with_config(fc.EngineConfig(devices=devices))
    population = cohorts.make_population([3, 0, 4])
    cohort = cohorts.make_cohort(population)
    assert run.prefetch(cohort) is None
    (packing,) = cohort.packed.values()
    assert packing.resident is not None
    assert float(run(2.0, cohort)) == float(run(2.0, cohorts.make_cohort(population))) == 14.0
    assert list(cohort.packed.values()) == [packing]


def test_prefetch_of_nobody():
    cohort = cohorts.make_cohort({})
    count.prefetch(cohort)
    assert float(count(2.0, cohort)) == 0.0


def test_prefetch_keeps_no_examples_of_a_cohort_in_waves():
    run = count.with_config(fc.EngineConfig(devices=1, memory_budget=400))
    cohort = cohorts.make_cohort(cohorts.make_population([8] * 40))
    run.prefetch(cohort)
    (packing,) = cohort.packed.values()
    assert packing.schedule.num_waves > 1 and packing.resident is None
    assert float(run(1.0, cohort)) == 320.0


def test_prefetch_waits_for_the_number_of_lanes():
    cohort = cohorts.make_cohort(cohorts.make_population([3]))
    count.with_config(fc.EngineConfig(lanes="auto")).prefetch(cohort)
    assert not cohort.packed


def test_prefetch_takes_a_cohort_of_the_declared_clients():
    other = FederatedData.from_clients({"a": {"z": np.ones((2, 2), np.float32)}}).cohort(["a"], Batching(1))
    with pytest.raises(TypeError, match=r"argument 'data': the cohort's clients .* do not have the declared type"):
        count.prefetch(other)
    with pytest.raises(
        TypeError, match=r"count.prefetch takes the cohort .* got list; leave it out, since a call reads its own"
    ):
        count.prefetch([1.0])
    both = fc.federated_computation(lambda a, b: (fc.federated_sum(a), fc.federated_sum(b)), FLOATS, FLOATS)
    with pytest.raises(TypeError, match="with one argument at CLIENTS, not 2"):
        both.prefetch(other)
    with pytest.raises(TypeError, match="_half has no placements"):
        fc.computation(_half, "float32").prefetch(other)


def _half(x):
    return x / 2


def test_threads_get_what_they_would_get_alone():
    def work(number):
        factor = float(number + 1)

        @fc.federated_computation
        def start():
            return fc.federated_value(factor, fc.SERVER)

        @fc.federated_computation(FLOATS)
        def run(values):
            scaled = fc.federated_map(lambda v, f: v * f, values, fc.federated_broadcast(start()))
            return fc.federated_sum(scaled), mean(scaled), start()

        plain = start()  # outside any trace of this thread: it runs
        outputs = [run([1.0, 2.0 + k]) for k in range(3)]
        return float(plain), [tuple(map(float, o)) for o in outputs], str(run.type_signature)

    expected = [work(number) for number in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, range(6)))
    assert found == expected
    assert expected[1][1][0] == (6.0, 3.0, 2.0)


def test_threads_share_one_computation():
    cohort = cohorts.make_cohort(cohorts.make_population([3, 4, 0]))
    fresh = count.with_config(fc.EngineConfig(devices=1))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda scale: float(fresh(float(scale), cohort)), range(24)))
    assert found == [7.0 * scale for scale in range(24)]


def test_arguments_survive_a_call():
    state = {"w": jnp.ones(3)}
    run = fc.federated_computation(
        lambda s: fc.federated_map(lambda s: {"w": s["w"] + 1}, s), fc.at_server({"w": "float32[3]"})
    )
    first, second = run(state), run(state)
    assert state["w"].tolist() == [1, 1, 1] and first["w"].tolist() == second["w"].tolist() == [2, 2, 2]


def _forgets(*values):
    """A function whose author forgot `return`."""


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: fc.computation(_forgets, "float32"), r"computation\(_forgets\)"),
        (lambda: fc.computation(_forgets)(1.0), r"computation\(_forgets\)"),
        (lambda: fc.federated_computation(_forgets, fc.at_clients("int32")), r"federated_computation\(_forgets\)"),
        (lambda: fc.federated_computation(_forgets)([1]), r"federated_computation\(_forgets\)"),
        (
            lambda: fc.federated_computation(lambda: fc.federated_eval(_forgets, fc.SERVER)),
            r"federated_eval\(_forgets\)",
        ),
        (
            lambda: fc.federated_computation(lambda x: fc.federated_map(_forgets, x), fc.at_clients("int32")),
            r"federated_map\(_forgets\)",
        ),
        (
            lambda: fc.federated_computation(
                lambda data: fc.federated_map(lambda d: d.map(_forgets).sum(), data), fc.at_clients("int32[?]*")
            ),
            "the function of ClientBatches.map",
        ),
    ],
)
def test_a_function_without_return_is_refused(build, named):
    with pytest.raises(TypeError, match=f"{named}.* must return a value, got None; add `return`"):
        build()


def test_an_empty_struct_may_be_returned():
    assert fc.computation(lambda: ())() == ()


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_values_of_any_byte_order(dtype):
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], dtype)
    total = fc.federated_computation(lambda x: fc.federated_sum(x), fc.at_clients("float32[2]"))
    for clients in (rows, list(rows), {"ada": rows[0], "bob": rows[1]}):
        np.testing.assert_array_equal(total(clients), [4.0, 6.0])


def test_a_batch_without_examples_may_be_an_empty_list():
    sums = fc.federated_computation(
        lambda x: fc.federated_sum(fc.federated_map(lambda data: data.sum(), x)), fc.at_clients("<x=float32[?,2]>*")
    )
    np.testing.assert_array_equal(sums([[{"x": [[1.0, 2.0]]}], [{"x": []}]])["x"], [1.0, 2.0])


@pytest.mark.parametrize(
    "build", [lambda deep: mean(deep), lambda deep: mean([deep]), lambda deep: fc.computation(lambda x: x)(deep)]
)
def test_an_argument_of_thousands_of_levels_is_refused(build):
    deep = 1.0
    for _ in range(5000):
        deep = (deep,)
    with pytest.raises(ValueError, match="must have at most some hundred levels"):
        build(deep)
    with pytest.raises(ValueError, match="must have at most some hundred levels"):
        fc.federated_computation(lambda: fc.federated_value(deep, fc.SERVER))


def test_an_integer_beyond_all_floats_is_refused():
    with pytest.raises(ValueError, match=r"argument 'values', client 0: 1000.* does not fit float32"):
        mean([10**400])


@pytest.mark.parametrize("mixed", [{"a": 1.0, 1: 2.0}, {"a": {None: 1.0, "b": 2.0}}])
def test_a_dict_of_keys_that_cannot_be_sorted_is_refused(mixed):
    for build in (
        lambda: fc.federated_computation(lambda: fc.federated_value(mixed, fc.SERVER)),
        lambda: fc.federated_computation(lambda: mixed),
        lambda: fc.computation(lambda x: x)(mixed),
    ):
        with pytest.raises(TypeError, match="keys of a dict must be either all strings or all integers"):
            build()


def test_a_cohort_is_no_argument_under_jit():
    clients = FederatedData.from_clients([{"x": np.ones((3, 2), np.float32), "y": np.ones(3, np.float32)}])
    cohort = clients.cohort([0], Batching(2))
    for transform in (jax.jit, jax.vmap):
        with pytest.raises(ValueError, match=r"leave jit out, .* or write .*as_function"):
            transform(count)(1.0, cohort)


def test_data_are_no_cohort():
    clients = FederatedData.from_clients([{"x": np.ones((3, 2), np.float32), "y": np.ones(3, np.float32)}])
    with pytest.raises(TypeError, match=r"give a cohort \(`data.cohort\(.*got FederatedData"):
        count(1.0, clients)


@pytest.mark.parametrize("client_id", [b"ada", 1.5])
def test_ids_of_another_kind_are_refused_with_the_string_to_write(client_id):
    written = {b"ada": "use 'ada'", 1.5: r"use str\(1.5\)"}[client_id]
    with pytest.raises(TypeError, match=written):
        mean({client_id: 1.0})


def test_a_cohort_of_labels_of_another_dtype_says_how_to_convert_the_data():
    program = fc.federated_computation(
        lambda data: fc.federated_sum(fc.federated_map(lambda d: d.num_examples, data)),
        fc.at_clients("<x=float32[?],y=int32[?]>*"),
    )
    clients = FederatedData.from_clients([{"x": [1.0], "y": [1.0]}])
    with pytest.raises(TypeError, match=r"convert the examples: data.map\(lambda e: .*astype\('int32'\)"):
        program(clients.cohort([0], Batching(2)))
