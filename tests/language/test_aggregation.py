"""Operators that combine clients' values: oracles, types, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fedjax_core as fc
from tests import references

CLIENTS_FLOAT = fc.at_clients("float32")


def computation(operator, *types):
    return fc.federated_computation(lambda *values: operator(*values), *types)


def combine(values, weights):
    return {
        "sum": fc.federated_sum(values),
        "mean": fc.federated_mean(values),
        "weighted": fc.federated_mean(values, weights),
        "smallest": fc.federated_min(values),
        "largest": fc.federated_max(values),
        "collected": fc.federated_collect(values),
    }


COMBINED = fc.federated_computation(combine, fc.at_clients("float32[3]"), CLIENTS_FLOAT)
finite = st.floats(-100, 100, width=32)


@settings(max_examples=20)
@given(hnp.arrays(np.float32, (5, 3), elements=finite), hnp.arrays(np.float32, 5, elements=st.floats(0.5, 9, width=32)))
def test_operators_agree_with_numpy(values, weights):
    exact = values.astype(np.float64)
    expected = {
        "sum": exact.sum(0),
        "mean": exact.mean(0),
        "weighted": references.weighted_mean(exact, weights),
        "smallest": exact.min(0),
        "largest": exact.max(0),
        "collected": exact,
    }
    for found in (COMBINED(values, weights), COMBINED.as_function()(values, weights)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), dict(found), expected)


def test_signatures():
    assert str(COMBINED.type_signature.result) == (
        "<collected=float32[?,3]@SERVER,largest=float32[3]@SERVER,mean=float32[3]@SERVER,smallest=float32[3]@SERVER,"
        "sum=float32[3]@SERVER,weighted=float32[3]@SERVER>"
    )


def test_nobody():
    result = COMBINED(np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    np.testing.assert_array_equal(result["sum"], np.zeros(3))
    assert np.isnan(result["mean"]).all() and np.isnan(result["weighted"]).all()
    assert (result["smallest"] == np.inf).all() and (result["largest"] == -np.inf).all()
    assert result["collected"].shape == (0, 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "float16", "bfloat16", "float32"])
def test_dtypes_of_sums_and_extrema(dtype):
    run = computation(lambda v: (fc.federated_sum(v), fc.federated_min(v), fc.federated_max(v)), fc.at_clients(dtype))
    values = [jnp.asarray(n, dtype) for n in (3, 1, 2)]
    assert [float(x) for x in run(values)] == [6, 1, 3]
    of_sum = {"int8": "int32", "uint8": "uint32"}.get(dtype, dtype)
    for found in (run(values), run([])):
        assert [x.dtype for x in found] == [of_sum, dtype, dtype]
    assert str(run.type_signature) == f"({{{dtype}}}@CLIENTS -> <{of_sum}@SERVER,{dtype}@SERVER,{dtype}@SERVER>)"


def test_extrema_of_booleans():
    run = computation(lambda v: (fc.federated_min(v), fc.federated_max(v)), fc.at_clients("bool"))
    assert run([True, False]) == (False, True)
    assert run([]) == (True, False)


def test_integers_have_a_float_mean():
    run = computation(fc.federated_mean, fc.at_clients("int32"))
    assert str(run.type_signature) == "({int32}@CLIENTS -> float32@SERVER)"
    assert float(run([1, 2])) == 1.5


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bfloat16"])
def test_narrow_weights_do_not_overflow(dtype):
    run = computation(fc.federated_mean, CLIENTS_FLOAT, fc.at_clients(dtype))
    weight = jnp.asarray(100 if dtype != "int32" else 2**30, dtype)
    assert float(run([2.0] * 9, [weight] * 9)) == 2.0


def test_half_precision_is_averaged_in_float32():
    run = computation(fc.federated_mean, fc.at_clients("float16"))
    assert float(run([np.float16(60000.0)] * 8)) == 60000.0


def test_structs_are_combined_field_by_field():
    type_ = {"a": "float32[2]", "b": ("int32", ())}
    run = computation(lambda v: (fc.federated_sum(v), fc.federated_mean(v)), fc.at_clients(type_))
    clients = [{"a": [1.0, 2.0], "b": (3, ())}, {"a": [3.0, 4.0], "b": (4, ())}]
    total, mean = run(clients)
    np.testing.assert_array_equal(total["a"], [4.0, 6.0])
    assert total["b"] == (7, ()) and mean["b"] == (3.5, ())


def test_the_weight_of_a_struct_is_one_scalar():
    value = fc.at_clients({"a": "float32"})
    with pytest.raises(
        TypeError, match=r"one real scalar per client as weight, got \{float32\[2\]\}@CLIENTS at .*:\d+"
    ):
        computation(fc.federated_mean, value, fc.at_clients("float32[2]"))
    with pytest.raises(TypeError, match=r"one real scalar"):
        computation(fc.federated_mean, value, fc.at_clients("bool"))
    with pytest.raises(TypeError, match=r"takes a value at CLIENTS, got float32@SERVER"):
        computation(fc.federated_mean, value, fc.at_server("float32"))


@pytest.mark.parametrize(
    "name",
    ["federated_sum", "federated_mean", "federated_min", "federated_max", "federated_collect", "federated_aggregate"],
)
def test_values_at_the_server_are_refused_with_the_repaired_call(name):
    arguments = (0.0, jnp.add, jnp.add, lambda a: a) if name == "federated_aggregate" else ()
    with pytest.raises(TypeError) as error:
        computation(lambda v: getattr(fc, name)(v, *arguments), fc.at_server("float32"))
    message = str(error.value)
    assert message.startswith(f"{name} takes a value at CLIENTS, got float32@SERVER at {__file__}:")
    assert f"write fc.{name}(fc.federated_broadcast(value))" in message


@pytest.mark.parametrize("name", ["federated_sum", "federated_mean"])
@pytest.mark.parametrize("type_", ["bool", "key<fry>", "float32[?]*", "<a=float32,b=bool>"])
def test_only_numbers_are_summed(name, type_):
    with pytest.raises(TypeError, match=rf"{name} takes numbers, got .*test_aggregation.py:\d+; convert it"):
        computation(getattr(fc, name), fc.at_clients(fc.types.parse_type(type_)))


@pytest.mark.parametrize("type_", ["complex64", "key<fry>", "float32[?]*"])
def test_only_real_numbers_have_extrema(type_):
    with pytest.raises(TypeError, match=r"federated_max takes real numbers"):
        computation(fc.federated_max, fc.at_clients(fc.types.parse_type(type_)))


@pytest.mark.parametrize("value", [3.0, np.ones(3), [1.0], None, "text"])
def test_unplaced_values_are_refused(value):
    with pytest.raises(TypeError, match=r"federated_sum takes placed values, got .*federated_value"):
        computation(lambda v: fc.federated_sum(value), CLIENTS_FLOAT)


def test_collect_keeps_the_order_and_keys():
    run = computation(fc.federated_collect, fc.at_clients({"k": "key<fry>", "v": "int32[2]"}))
    keys = [jax.random.key(i) for i in range(3)]
    result = run([{"k": k, "v": [i, -i]} for i, k in enumerate(keys)])
    np.testing.assert_array_equal(result["v"], [[0, 0], [1, -1], [2, -2]])
    np.testing.assert_array_equal(jax.random.key_data(result["k"]), jax.random.key_data(jnp.stack(keys)))
    assert run([])["k"].shape == (0,)
    with pytest.raises(TypeError, match=r"federated_collect takes tensors"):
        computation(fc.federated_collect, fc.at_clients(fc.types.parse_type("float32*")))


def test_two_collected_values_have_the_same_clients():
    def covariance(a, b):
        return fc.federated_map(lambda a, b: jnp.dot(a, b), fc.federated_collect(a), fc.federated_collect(b))

    run = fc.federated_computation(covariance, CLIENTS_FLOAT, CLIENTS_FLOAT)
    assert float(run([1.0, 2.0], [3.0, 4.0])) == 11.0


def mean_and_variance(lanes):
    def accumulate(total, value):
        return {"n": total["n"] + 1, "sum": total["sum"] + value, "squares": total["squares"] + value**2}

    def report(total):
        mean = total["sum"] / total["n"]
        return mean, total["squares"] / total["n"] - mean**2

    def run(values):
        zero = {"n": 0, "sum": 0.0, "squares": 0.0}
        return fc.federated_aggregate(values, zero, accumulate, lambda a, b: jax.tree.map(jnp.add, a, b), report)

    return fc.federated_computation(run, CLIENTS_FLOAT).with_config(fc.EngineConfig(lanes=lanes))


@pytest.mark.parametrize("lanes", [1, 4])
def test_aggregate_by_functions_of_ones_own(lanes):
    run = mean_and_variance(lanes)
    values = np.arange(11, dtype=np.float32)
    assert str(run.type_signature) == "({float32}@CLIENTS -> <float32,float32>@SERVER)"
    for result in (run(values), run.as_function()(values)):
        np.testing.assert_allclose(result, (values.mean(), values.var()), rtol=1e-5)


def test_the_accumulator_keeps_the_type_of_its_zero():
    def run(zero):
        add = lambda a, b: a + b  # noqa: E731
        return computation(lambda v: fc.federated_aggregate(v, zero, add, add, lambda a: a), CLIENTS_FLOAT)

    with pytest.raises(TypeError, match=r"`accumulate` of federated_aggregate must return .* type int32, got float32"):
        run(0)
    assert float(run(0.0)([1.0, 2.0])) == 3.0
    assert float(run(lambda: jnp.zeros(()))([1.0, 2.0])) == 3.0


@pytest.mark.parametrize(
    ("accumulate", "merge", "report", "message"),
    [
        (lambda a: a, jnp.add, jnp.sqrt, "`accumulate` of federated_aggregate at .* cannot be applied"),
        (jnp.add, lambda a, b: (a, b), jnp.sqrt, "`merge` of federated_aggregate must return"),
        (jnp.add, jnp.add, lambda a: a["x"], "`report` of federated_aggregate at .* cannot be applied"),
    ],
)
def test_functions_of_an_aggregate_are_checked(accumulate, merge, report, message):
    with pytest.raises(TypeError, match=message):
        computation(lambda v: fc.federated_aggregate(v, 0.0, accumulate, merge, report), CLIENTS_FLOAT)


def test_keys_in_an_accumulator():
    def first_key(keys):
        zero = {"key": jax.random.key(0), "found": False}

        def accumulate(state, key):
            return merge(state, {"key": key, "found": jnp.array(True)})

        def merge(a, b):
            return {"key": jnp.where(a["found"], a["key"], b["key"]), "found": a["found"] | b["found"]}

        return fc.federated_aggregate(keys, zero, accumulate, merge, lambda state: state["key"])

    run = fc.federated_computation(first_key, fc.at_clients("key<fry>"))
    result = run([jax.random.key(5)] * 3)
    np.testing.assert_array_equal(jax.random.key_data(result), jax.random.key_data(jax.random.key(5)))


def test_a_struct_without_tensors():
    run = computation(fc.federated_sum, fc.at_clients(()))
    assert str(run.type_signature) == "({<>}@CLIENTS -> <>@SERVER)" and run([(), ()]) == ()
    with pytest.raises(TypeError, match=r"federated_aggregate takes a value with at least one tensor"):
        computation(lambda v: fc.federated_aggregate(v, 0, lambda a, v: a, jnp.add, lambda a: a), fc.at_clients(()))
