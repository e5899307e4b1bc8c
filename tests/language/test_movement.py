"""Placing, moving, mapping, zipping: results, types, and errors with the line and the repaired call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc

SERVER, CLIENTS = fc.at_server("float32"), fc.at_clients("float32")


def trace(fn, *types):
    return fc.federated_computation(fn, *types)


def test_values_at_both_placements():
    run = trace(
        lambda v: (fc.federated_value({"a": 1, "b": [2.0, True]}, fc.SERVER), fc.federated_value(3, fc.CLIENTS), v),
        CLIENTS,
    )
    assert str(run.type_signature.result) == "<<a=int32,b=<float32,bool>>@SERVER,int32@CLIENTS,{float32}@CLIENTS>"
    server, clients, values = run([5.0, 6.0])
    assert server == {"a": 1, "b": [2.0, True]} and int(clients) == 3 and values.tolist() == [5.0, 6.0]


def test_a_value_at_the_clients_is_summed_over_them():
    run = trace(lambda v: fc.federated_sum(fc.federated_value(3, fc.CLIENTS)), CLIENTS)
    assert int(run([0.0] * 5)) == 15 and int(run([])) == 0
    assert int(run.with_config(fc.EngineConfig(lanes=3))([0.0] * 5)) == 15


def test_eval_at_both_placements():
    def draw():
        return {"zeros": jnp.zeros(2), "number": 7}

    run = trace(lambda v: (fc.federated_eval(draw, fc.SERVER), fc.federated_eval(draw, fc.CLIENTS)), CLIENTS)
    member = "<number=int32,zeros=float32[2]>"
    assert str(run.type_signature.result) == f"<{member}@SERVER,{{{member}}}@CLIENTS>"
    server, clients = run([1.0, 2.0, 3.0])
    assert int(server["number"]) == 7 and clients["number"].tolist() == [7, 7, 7] and clients["zeros"].shape == (3, 2)


def test_eval_takes_a_computation_without_arguments():
    three = fc.computation(lambda: jnp.float32(3))
    assert float(trace(lambda: fc.federated_eval(three, fc.SERVER))()) == 3.0


@pytest.mark.parametrize("operator", [lambda p: fc.federated_value(1, p), lambda p: fc.federated_eval(lambda: 1, p)])
def test_what_is_no_placement(operator):
    with pytest.raises(TypeError, match=r"takes fc.SERVER or fc.CLIENTS as placement, got 'SERVER'"):
        trace(lambda: operator("SERVER"))


def test_values_are_constants():
    with pytest.raises(TypeError, match=r"takes a constant, got float32@SERVER at .*:\d+; .*federated_broadcast"):
        trace(lambda v: fc.federated_value(v, fc.CLIENTS), SERVER)
    with pytest.raises(TypeError, match=r"a value must be a pytree of arrays"):
        trace(lambda: fc.federated_value("text", fc.SERVER))


def test_a_constant_is_what_it_was_when_it_was_given():
    table = np.arange(3, dtype=np.float32)
    given = fc.federated_computation(lambda: fc.federated_value({"t": table}, fc.SERVER))
    table += 1
    assert given()["t"].tolist() == [0.0, 1.0, 2.0]


def test_arguments_without_a_placement_are_placed_by_value():
    run = trace(lambda x: fc.federated_map(lambda x: x + 1, fc.federated_value(x, fc.SERVER)), "float32")
    assert str(run.type_signature) == "(float32 -> float32@SERVER)" and float(run(1)) == 2.0
    with pytest.raises(TypeError, match=r"which has no placement.*declare the argument as fc.at_server"):
        trace(lambda x: fc.federated_map(lambda x: x, x), "float32")


def test_broadcast():
    def send(s, v):
        return fc.federated_broadcast(s), fc.federated_map(jnp.add, fc.federated_broadcast(s), v)

    run = trace(send, SERVER, CLIENTS)
    assert str(run.type_signature.result) == "<float32@CLIENTS,{float32}@CLIENTS>"
    sent, added = run(10.0, [1.0, 2.0])
    assert float(sent) == 10.0 and added.tolist() == [11.0, 12.0]
    repaired = r"write fc.federated_broadcast\(fc.federated_mean\(value\)\)"
    with pytest.raises(TypeError, match=rf"takes a value at SERVER, got \{{float32\}}@CLIENTS at .*:\d+; {repaired}"):
        trace(fc.federated_broadcast, CLIENTS)


def test_map_at_both_placements():
    run = trace(
        lambda s, v: (fc.federated_map(lambda s: {"twice": 2 * s}, s), fc.federated_map(lambda v: (v, v > 1), v)),
        SERVER,
        CLIENTS,
    )
    assert str(run.type_signature.result) == "<<twice=float32>@SERVER,{<float32,bool>}@CLIENTS>"
    server, (values, large) = run(3.0, [1.0, 2.0])
    assert float(server["twice"]) == 6.0 and values.tolist() == [1.0, 2.0] and large.tolist() == [False, True]


def test_map_refuses_arguments_at_different_placements():
    with pytest.raises(TypeError) as error:
        trace(lambda s, v: fc.federated_map(lambda a, b: a + b, s, v), SERVER, CLIENTS)
    message = str(error.value)
    assert message.startswith("federated_map takes values at one placement, got float32@SERVER, {float32}@CLIENTS at ")
    assert f" at {__file__}:" in message
    assert "fc.federated_map(fn, fc.federated_broadcast(server_value), client_value)" in message


@pytest.mark.parametrize("fn", [3, None, "text"])
def test_map_takes_a_function_first(fn):
    with pytest.raises(
        TypeError, match=r"takes a function as its first argument, got .* at .*:\d+; write fc.federated_map\(lambda"
    ):
        trace(lambda v: fc.federated_map(fn, v), CLIENTS)


def test_map_with_swapped_arguments():
    with pytest.raises(TypeError, match=r"federated_map takes a function as its first argument"):
        trace(lambda v: fc.federated_map(v, jnp.sum), CLIENTS)
    with pytest.raises(
        TypeError, match=r"takes at least one value, got none; for a function without arguments write fc.federated_eval"
    ):
        trace(lambda v: fc.federated_map(jnp.sum), CLIENTS)


@pytest.mark.parametrize(
    "fn", [lambda a: a, lambda a, b: a @ b, lambda a, b: a["x"], lambda a, b: "text", lambda a, b: a if b > 0 else b]
)
def test_functions_that_fail_are_named_with_the_line_and_the_types(fn):
    line = fn.__code__.co_firstlineno
    where = rf"federated_map\(lambda at line {line}\) at .*test_movement.py:\d+"
    with pytest.raises(TypeError, match=rf"{where} cannot be applied to \(float32, float32\): "):
        trace(lambda v: fc.federated_map(fn, v, v), CLIENTS)


def test_functions_with_placements_are_called_not_mapped():
    total = trace(fc.federated_sum, CLIENTS)
    with pytest.raises(TypeError, match=r"without placements, got federated_sum of type \(\{float32\}.*call it"):
        trace(lambda v: fc.federated_map(total, v), CLIENTS)
    with pytest.raises(TypeError, match=r"without placements"):
        trace(lambda: fc.federated_eval(total, fc.SERVER))


def test_a_computation_is_mapped():
    half = fc.computation(lambda x: x / 2, "float32[?]")
    run = trace(lambda v: fc.federated_map(half, v), fc.at_clients("float32[2]"))
    assert str(run.type_signature.result) == "{float32[2]}@CLIENTS"
    np.testing.assert_array_equal(run([[2.0, 4.0]]), [[1.0, 2.0]])
    with pytest.raises(TypeError, match=r"argument 'x': expected float32\[\?\], got int32"):
        trace(lambda v: fc.federated_map(half, v), fc.at_clients("int32[2]"))


def test_zip():
    run = trace(lambda a, b: fc.federated_zip({"b": b, "a": (a, b)}), CLIENTS, fc.at_clients("int32"))
    assert str(run.type_signature.result) == "{<a=<float32,int32>,b=int32>}@CLIENTS"
    assert jax.tree.map(list, run([1.0], [2])) == {"a": ([1.0], [2]), "b": [2]}
    with pytest.raises(TypeError, match=r"takes values at one placement, got float32@SERVER, .*federated_broadcast"):
        trace(lambda s, v: fc.federated_zip((s, v)), SERVER, CLIENTS)
    with pytest.raises(TypeError, match=r"federated_zip takes placed values, got"):
        trace(lambda s: fc.federated_zip((s, 1)), SERVER)


def test_structs_of_placed_values_are_zipped_by_themselves():
    run = trace(lambda a, b: fc.federated_map(lambda v: v["a"] + v["b"], {"a": a, "b": b}), SERVER, SERVER)
    assert float(run(1.0, 2.0)) == 3.0


def test_dtypes_at_run_time_are_the_inferred_ones():
    inner = trace(lambda a, b: fc.federated_map(lambda x, y: x * y, a, b), SERVER, fc.at_server("bfloat16"))
    outer = trace(lambda b: inner(fc.federated_eval(lambda: 1.0, fc.SERVER), b), fc.at_server("bfloat16"))
    assert str(outer.type_signature) == "(bfloat16@SERVER -> float32@SERVER)"
    assert outer(jnp.bfloat16(2)).dtype == jnp.float32


def test_all_equal_values_are_computed_once():
    calls = []

    def noted(x):
        jax.debug.callback(lambda: calls.append(1))
        return x * 2

    def add(s, v):
        return fc.federated_map(jnp.add, fc.federated_map(noted, fc.federated_broadcast(s)), v)

    run = trace(add, SERVER, CLIENTS)
    assert str(run.type_signature.result) == "{float32}@CLIENTS"
    assert run(1.0, [1.0, 2.0, 3.0]).tolist() == [3.0, 4.0, 5.0]
    jax.effects_barrier()
    assert len(calls) == 1
