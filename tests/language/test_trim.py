"""Trimmed rows: cut when they are returned, whole with their count under `as_function`, and never computed with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc

TABLE = fc.at_server({"a": "float32[4]", "b": ("int32[4,2]", "bool[4]")})
COUNT = fc.at_server("int32")
VALUES = {"a": np.arange(4, dtype=np.float32), "b": (np.arange(8, dtype=np.int32).reshape(4, 2), np.ones(4, bool))}


@fc.federated_computation(TABLE, COUNT)
def trim(table, count):
    return fc.federated_trim(table, count)


def cut(count):
    return jax.tree.map(lambda x: x[:count], VALUES)


def assert_rows(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(expected)]


def test_type_has_an_open_leading_dimension():
    assert str(trim.type_signature.result) == "<a=float32[?],b=<int32[?,2],bool[?]>>@SERVER"


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4), (-1, 0)])
def test_a_call_returns_the_rows_that_count(count, rows):
    found = trim(VALUES, count)
    assert_rows(found, cut(rows))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_any_number_of_rows_is_compiled_once():
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(kwargs)

    trim(VALUES, 0)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for count in range(1, 5):
            trim(VALUES, count)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


def test_as_function_returns_all_rows_and_the_count():
    traced = jax.jit(trim.as_function())(VALUES, 3)
    rows = traced["a"]
    assert isinstance(rows, fc.language.TrimmedRows) and rows.values.shape == (4,) and rows.count == 3
    batched = jax.vmap(trim.as_function(), (None, 0))(VALUES, jnp.arange(2))
    np.testing.assert_array_equal(batched["b"][1].count, [0, 1])


def test_select_zip_and_inlining():
    @fc.federated_computation(TABLE, COUNT)
    def outer(table, count):
        inner = trim(table, count)
        again = fc.federated_zip({"part": inner["b"][0], "count": count, "whole": inner})
        doubled = fc.federated_map(lambda x: 2 * x, again["count"])
        return again["part"], fc.federated_zip((again, doubled))

    part, ((again), doubled) = outer(VALUES, 2)
    assert_rows(part, VALUES["b"][0][:2])
    assert_rows(again["whole"], cut(2))
    assert again["count"] == 2 and doubled == 4
    assert outer.as_function()(VALUES, 2)[1][0]["whole"]["a"].count == 2


def test_trimmed_rows_pass_through_other_computations():
    swap = fc.federated_computation(lambda p: fc.federated_zip((p[1], p[0])), fc.at_server(("float32[?]", "int32")))
    untyped = fc.federated_computation(lambda p: fc.federated_zip((p[1], p[0])))

    @fc.federated_computation(TABLE, COUNT)
    def outer(table, count):
        pair = fc.federated_zip((fc.federated_trim(table["a"], count), count))
        return swap(pair), untyped(pair)

    for count, rows in outer(VALUES, 1):
        assert count == 1 and rows.tolist() == [0.0]


def test_rows_from_the_clients_in_a_program_with_passes():
    @fc.federated_computation(fc.at_clients("float32"))
    def largest(values):
        everyone = fc.federated_collect(values)
        number = fc.federated_sum(fc.federated_map(lambda v: (v > 1).astype("int32"), values))
        ordered = fc.federated_map(lambda x: -jnp.sort(-x), everyone)
        return fc.federated_trim(ordered, number), fc.federated_max(values)

    rows, highest = largest([1.0, 3.0, 0.5, 2.0])
    assert rows.tolist() == [3.0, 2.0] and highest == 3.0
    assert largest([])[0].shape == (0,)


def test_keys_are_rows_too():
    run = fc.federated_computation(fc.federated_trim, fc.at_server("key<fry>[3]"), COUNT)
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_array_equal(jax.random.key_data(run(keys, 2)), jax.random.key_data(keys[:2]))


def test_nothing_computes_with_trimmed_rows():
    def trace(use):
        fc.federated_computation(lambda table, count: use(fc.federated_trim(table["a"], count), count), TABLE, COUNT)

    total = fc.federated_computation(lambda x: fc.federated_map(jnp.sum, x), fc.at_server("float32[?]"))
    sent = fc.federated_computation(lambda x: fc.federated_broadcast(x), fc.at_server("float32[?]"))
    again = fc.federated_computation(lambda x, n: fc.federated_trim(x, n), fc.at_server("float32[?]"), COUNT)
    uses = [
        ("federated_map", lambda rows, count: fc.federated_map(jnp.sum, rows)),
        ("federated_map", lambda rows, count: fc.federated_map(lambda p: p[1], (rows, count))),
        ("federated_map", lambda rows, count: total(rows)),
        ("federated_broadcast", lambda rows, count: fc.federated_broadcast(rows)),
        ("federated_broadcast", lambda rows, count: sent(rows)),
        ("federated_trim", lambda rows, count: fc.federated_trim(rows, count)),
        ("federated_trim", lambda rows, count: again(rows, count)),
    ]
    for operator, use in uses:
        with pytest.raises(TypeError, match=rf"{operator}.* cannot take trimmed rows.*float32\[\?\].*before trimming"):
            trace(use)


@pytest.mark.parametrize(
    ("value", "count", "message"),
    [
        (fc.at_clients("float32[4]"), COUNT, "a value at SERVER"),
        (fc.at_server("float32"), COUNT, "common leading dimension"),
        (fc.at_server(("float32[4]", "float32[3]")), COUNT, "common leading dimension"),
        (fc.at_server("float32[4]"), fc.at_clients("int32"), "a value at SERVER"),
        (fc.at_server("float32[4]"), fc.at_server("float32"), "int32 scalar as count"),
        (fc.at_server("float32[4]"), fc.at_server("int32[1]"), "int32 scalar as count"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(value, count, message):
    with pytest.raises(TypeError, match=rf"federated_trim.*{message}"):
        fc.federated_computation(fc.federated_trim, value, count)
