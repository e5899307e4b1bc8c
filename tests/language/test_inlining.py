"""A computation called inside another becomes part of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc


def trace(fn, *types):
    return fc.federated_computation(fn, *types)


FLOATS = fc.at_clients("float32")
MEAN = trace(lambda v: fc.federated_mean(v), FLOATS)
START = trace(lambda: {"n": fc.federated_value(3, fc.SERVER), "w": fc.federated_eval(lambda: jnp.ones(2), fc.SERVER)})


def test_several_levels():
    centered = trace(lambda v: fc.federated_map(jnp.subtract, v, fc.federated_broadcast(MEAN(v))), FLOATS)
    variance = trace(lambda v: MEAN(fc.federated_map(jnp.square, centered(v))), FLOATS)
    assert str(variance.type_signature) == "({float32}@CLIENTS -> float32@SERVER)"
    assert float(variance([1.0, 2.0, 6.0])) == pytest.approx(14 / 3)


def test_without_arguments():
    run = trace(lambda v: (START(), fc.federated_sum(v)), FLOATS)
    assert str(run.type_signature.result) == "<<n=int32@SERVER,w=float32[2]@SERVER>,float32@SERVER>"
    start, total = run([1.0, 2.0])
    assert int(start["n"]) == 3 and start["w"].tolist() == [1, 1] and float(total) == 3.0
    assert trace(lambda: START()["n"])() == 3


def test_plain_computations_without_arguments_are_constants():
    seven = fc.computation(lambda: jnp.int32(7))
    assert int(trace(lambda: fc.federated_value(seven(), fc.SERVER))()) == 7
    assert int(seven()) == 7


def test_types_narrow():
    total = trace(lambda v: fc.federated_map(lambda x: jnp.sum(x), fc.federated_sum(v)), fc.at_clients("float32[?,?]"))
    run = trace(lambda v: (total(v), fc.federated_sum(v)), fc.at_clients("float32[2,3]"))
    assert float(run(np.ones((4, 2, 3), np.float32))[0]) == 24.0
    open_ = trace(fc.federated_sum, fc.at_clients("float32[?]"))
    assert str(trace(lambda v: open_(v), fc.at_clients("float32[5]")).type_signature.result) == "float32[5]@SERVER"
    with pytest.raises(TypeError, match=r"argument 'v' of <lambda> at .*test_inlining.py:\d+: cannot assign"):
        trace(lambda v: total(v), fc.at_clients("float32[2]"))


def test_containers_become_the_declared_ones():
    inner = trace(
        lambda s: fc.federated_map(lambda s: s["w"] + s["b"]["n"], s),
        fc.at_server({"b": {"n": "float32"}, "w": "float32"}),
    )
    run = trace(lambda a, b: inner(fc.federated_zip(((a,), b))), fc.at_server("float32"), fc.at_server("float32"))
    assert float(run(1.0, 2.0)) == 3.0


def test_structs_of_placed_values():
    inner = trace(
        lambda p: fc.federated_sum(fc.federated_map(jnp.multiply, p["s"], p["v"])),
        {"s": fc.at_clients("float32", True), "v": FLOATS},
    )
    run = trace(lambda s, v: inner({"s": fc.federated_broadcast(s), "v": v}), fc.at_server("float32"), FLOATS)
    assert float(run(2.0, [1.0, 3.0])) == 8.0
    with pytest.raises(TypeError, match=r"argument 'p' of <lambda>"):
        trace(lambda v: inner({"x": v}), FLOATS)


def test_unplaced_parameters_take_constants_and_arguments():
    scale = trace(
        lambda factor, v: fc.federated_map(
            jnp.multiply, fc.federated_broadcast(fc.federated_value(factor, fc.SERVER)), v
        ),
        "float32",
        FLOATS,
    )
    outer = trace(lambda factor, v: (scale(2.0, v), scale(factor, v)), "float32", FLOATS)
    twice, thrice = outer(3.0, [1.0, 2.0])
    assert twice.tolist() == [2.0, 4.0] and thrice.tolist() == [3.0, 6.0]
    with pytest.raises(TypeError, match=r"argument 'factor' of <lambda>: expected float32, got 'text'"):
        trace(lambda v: scale("text", v), FLOATS)


def test_placements_are_checked_at_the_call():
    with pytest.raises(TypeError, match=r"argument 'v' of <lambda> at .*:\d+: .*"):
        trace(lambda s: MEAN(s), fc.at_server("float32"))
    two = trace(lambda s, v: fc.federated_map(jnp.add, fc.federated_broadcast(s), v), fc.at_server("float32"), FLOATS)
    with pytest.raises(TypeError, match=r"'s' of <lambda> takes placed values, got float32 at .*federated_value"):
        trace(lambda v: two(3.0, v), FLOATS)


def test_untyped_computations_are_typed_by_placed_values():
    total = fc.federated_computation(lambda v: fc.federated_sum(v))
    run = trace(lambda a, b: (total(a), total(b)), FLOATS, fc.at_clients("int32[2]"))
    assert str(run.type_signature.result) == "<float32@SERVER,int32[2]@SERVER>"


def test_a_plain_computation_on_placed_values_shows_the_map():
    half = fc.computation(lambda x: x / 2, "float32")
    with pytest.raises(TypeError, match=r"has no placements and got placed values at .*:\d+; write fc.federated_map"):
        trace(lambda v: half(v), FLOATS)


def test_closing_over_a_placed_value_of_another_computation():
    def outer(v):
        @fc.federated_computation(fc.at_clients("int32"))
        def inner(w):
            return fc.federated_sum(v)

        return inner(v)

    with pytest.raises(
        TypeError, match=r"argument 'v' of another computation, is used at .*test_inlining.py:\d+; declare"
    ):
        trace(outer, FLOATS)


def test_functions_are_traced_once_for_the_same_types():
    traces = []

    def noted(x):
        traces.append(1)
        return 2 * x

    inner = trace(lambda v: fc.federated_map(noted, v), FLOATS)
    number = len(traces)
    trace(lambda a, b: (inner(a), inner(b), inner(inner(a))), FLOATS, FLOATS)
    assert len(traces) == number


def test_randomness_and_indices_are_those_of_the_outer_clients():
    inner = trace(
        lambda key, v: (fc.federated_split_key(key), fc.federated_client_index()), fc.at_server("key<fry>"), FLOATS
    )
    outer = trace(lambda key, v: (inner(key, v), inner(key, v)), fc.at_server("key<fry>"), FLOATS)
    (a, i), (b, j) = outer(jax.random.key(0), [0.0] * 3)
    np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
    assert i.tolist() == j.tolist() == [0, 1, 2]
