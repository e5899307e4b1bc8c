"""Placed values select fields; everything else is refused with the `federated_map` to write instead."""

import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc


class State(NamedTuple):
    weights: dict
    step: int


STATE = fc.at_server(State({"w": "float32[2]", "b": ("int32", "bool")}, "int32"))


def trace(fn, *types):
    return fc.federated_computation(fn, *types)


def test_fields_by_name_position_and_unpacking():
    def select(state):
        weights, step = state
        first, second = state.weights["b"]
        return {
            "by_name": state.weights["w"],
            "by_position": state[0][1],
            "from_the_end": state[-1],
            "unpacked": (weights.b, step, first, second),
        }

    run = trace(select, STATE)
    assert str(run.type_signature.result) == (
        "<by_name=float32[2]@SERVER,by_position=float32[2]@SERVER,from_the_end=int32@SERVER,"
        "unpacked=<<int32,bool>@SERVER,int32@SERVER,int32@SERVER,bool@SERVER>>"
    )
    result = run(State({"w": [1.0, 2.0], "b": (3, True)}, 4))
    np.testing.assert_array_equal(result["by_position"], [1.0, 2.0])
    assert jax.tree.map(int, (result["from_the_end"], result["unpacked"])) == (4, ((3, 1), 4, 3, 1))


def test_fields_of_clients():
    run = trace(lambda v: (v.a, fc.federated_sum(v["b"][1])), fc.at_clients({"a": "int32", "b": ("bool", "int32")}))
    a, total = run([{"a": 1, "b": (True, 10)}, {"a": 2, "b": (False, 20)}])
    assert a.tolist() == [1, 2] and int(total) == 30


@pytest.mark.parametrize("select", [lambda s: s.missing, lambda s: s["missing"], lambda s: s.weights.missing])
def test_unknown_names_list_the_fields(select):
    with pytest.raises(AttributeError, match=r"has no field 'missing'; its fields: '"):
        trace(select, STATE)


@pytest.mark.parametrize("key", [2, -3, 1.5, None])
def test_unknown_positions_list_the_fields(key):
    with pytest.raises(IndexError, match=r"has no field .*; its fields: 'weights', 'step'"):
        trace(lambda s: s[key], STATE)


@pytest.mark.parametrize(
    "use", [lambda v: v.mean, lambda v: v[0], lambda v: list(v), len, lambda v: {**v}, lambda v: v.shape]
)
def test_tensors_have_no_fields(use):
    with pytest.raises(TypeError, match=r"float32\[2\]@SERVER has no fields. To compute .* fc.federated_map|mapping"):
        trace(use, fc.at_server("float32[2]"))


BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift"]
COMPARISONS = ["lt", "le", "gt", "ge", "eq", "ne"]
WRITTEN = ["+", "-", "*", "/", "//", "%", "**", "@", "&", "|", "^", "<<", ">>", "<", "<=", ">", ">=", "==", "!="]
SYMBOLS = dict(zip(BINARY + COMPARISONS, WRITTEN, strict=True))
PLACEMENTS = [fc.at_server("int32"), fc.at_clients("int32"), fc.at_clients("int32", all_equal=True), fc.at_server(())]


@pytest.mark.parametrize("type_", PLACEMENTS, ids=str)
@pytest.mark.parametrize("name", BINARY + COMPARISONS)
def test_operators_are_refused(name, type_):
    apply = getattr(operator, name)
    for use in (lambda v: apply(v, v), lambda v: apply(v, 2), lambda v: apply(2, v)):
        with pytest.raises(TypeError) as error:
            trace(use, type_)
        assert "was applied to a placed value at " + __file__ in str(error.value)
        assert "Write fc.federated_map(lambda a, b: a " in str(error.value)
    with pytest.raises(TypeError, match=r"placed value"):
        trace(lambda v: apply(np.ones(2), v), type_)
    with pytest.raises(TypeError, match=r"placed value"):
        trace(lambda v: apply(jnp.ones(2), v), type_)


@pytest.mark.parametrize("name", sorted(SYMBOLS))
def test_the_message_repeats_the_operator(name):
    with pytest.raises(TypeError) as error:
        trace(lambda v: getattr(operator, name)(v, v), PLACEMENTS[0])
    assert f"fc.federated_map(lambda a, b: a {SYMBOLS[name]} b, a, b)" in str(error.value)


@pytest.mark.parametrize(
    "use",
    [
        operator.neg, operator.pos, abs, operator.invert, float, int, complex, round, bool, operator.index, math.sqrt,
        operator.not_, lambda v: 1 if v else 0, lambda v: v and v, lambda v: v in [1], lambda v: range(v),
        lambda v: [1, 2][v], np.mean, np.asarray, np.sum, np.exp, jnp.sum, jnp.exp, jnp.asarray,
        lambda v: jnp.add(v, v), lambda v: jnp.where(v, 1, 0), jax.nn.relu, lambda v: jax.jit(lambda x: x)(v),
    ],
)  # fmt: skip
def test_other_uses_are_refused(use):
    with pytest.raises(TypeError) as error:
        trace(lambda v: use(v), fc.at_server("int32"))
    message = str(error.value)
    assert f"placed value at {__file__}:" in message or "has no fields" in message
    assert "fc.federated_map(lambda " in message


def test_a_placed_value_captured_by_a_function_is_named():
    for capture in (lambda x, w: x + w, lambda x, w: jnp.add(x, w), lambda x, w: x if w else -x):
        with pytest.raises(TypeError, match=r"at .*test_placed.py:\d+ cannot be applied .* not among its arguments"):
            trace(
                lambda v, w, capture=capture: fc.federated_map(lambda x: capture(x, w), v),
                fc.at_server("float32"),
                fc.at_server("float32"),
            )


def test_a_placed_value_is_not_changed():
    def assign(state):
        state.step = 3

    with pytest.raises(TypeError, match=r"a placed value cannot be changed; return a new struct with 'step'"):
        trace(assign, STATE)
    with pytest.raises(TypeError, match=r"unhashable"):
        trace(lambda v: {v: 1}, STATE)


def test_repr_shows_the_type():
    seen = []
    trace(lambda v: (seen.append(repr(v)), v)[1], fc.at_clients("float32[3]"))
    assert seen == ["Placed({float32[3]}@CLIENTS)"]


def test_a_struct_may_be_sliced():
    @fc.federated_computation(fc.at_server("<float32,int32,bool>"))
    def parts(value):
        return value[:1], value[::-1], value[5:]

    assert str(parts.type_signature.result) == ("<<float32@SERVER>,<bool@SERVER,int32@SERVER,float32@SERVER>,<>>")


def test_an_index_may_be_an_integer_of_numpy():
    program = fc.federated_computation(lambda value: value[np.int64(-1)], fc.at_server("<float32,int32>"))
    assert str(program.type_signature.result) == "int32@SERVER"


def test_a_tensor_cannot_be_sliced():
    with pytest.raises(TypeError, match=r"cannot select slice\(None, 1, None\): .* has no fields. .*federated_map"):
        fc.federated_computation(lambda value: value[:1], fc.at_server("float32[3]"))


def test_keys_that_cannot_be_sorted_are_refused():
    with pytest.raises(TypeError, match="keys of a dict must be either all strings or all integers"):
        fc.federated_computation(lambda value: fc.federated_zip({"a": value, 1: value}), fc.at_server("float32"))
