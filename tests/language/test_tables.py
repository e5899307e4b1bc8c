"""Rows of a table at the server, read and written by clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fedjax_core as fc
from tests import references

TABLE = fc.at_server({"n": "int32[4]", "w": "float32[4,2]"})
ROW = fc.at_clients({"n": "int32", "w": "float32[2]"})
WRITE = fc.federated_computation(fc.federated_scatter, TABLE, fc.at_clients("int32"), ROW)
READ = fc.federated_computation(
    lambda keys, table: fc.federated_collect(fc.federated_select(keys, table)), fc.at_clients("int32"), TABLE
)


def make_table():
    return {"n": np.arange(4, dtype=np.int32), "w": np.arange(8, dtype=np.float32).reshape(4, 2)}


@settings(max_examples=25)
@given(st.lists(st.integers(-2, 6), min_size=5, max_size=5))
@example([1, 1, 1, 1, 1])
@example([-1, 4, -(2**31), 2**31 - 1, 0])
def test_the_last_client_wins_and_keys_outside_are_left_out(keys):
    rows = {"n": 100 + np.arange(5, dtype=np.int32), "w": 100 + np.arange(10, dtype=np.float32).reshape(5, 2)}
    expected = {name: references.scatter(make_table()[name], keys, rows[name]) for name in rows}
    arguments = make_table(), np.array(keys, np.int32), rows
    for found in (WRITE(*arguments), WRITE.as_function()(*arguments)):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_nobody_writes_nothing():
    jax.tree.map(np.testing.assert_array_equal, WRITE(make_table(), [], []), make_table())


def test_vectors_of_keys():
    write = fc.federated_computation(
        fc.federated_scatter, fc.at_server("float32[4]"), fc.at_clients("int32[?]"), fc.at_clients("float32[?]")
    )
    zeros = jnp.zeros(4)
    assert write(zeros, [[0, 1], [1, 9]], [[1.0, 2.0], [3.0, 4.0]]).tolist() == [1, 3, 0, 0]
    assert write(zeros, [[], []], [[], []]).tolist() == [0, 0, 0, 0]
    assert write(zeros, [], []).tolist() == [0, 0, 0, 0]

    read = fc.federated_computation(
        lambda keys, table: fc.federated_collect(fc.federated_select(keys, table)), fc.at_clients("int32[?]"), TABLE
    )
    assert str(read.type_signature.result) == "<n=int32[?,?],w=float32[?,?,2]>@SERVER"
    assert read([[0, 3], [1, 1]], make_table())["n"].tolist() == [[0, 3], [1, 1]]


def test_select_reads_rows():
    assert str(READ.type_signature.result) == "<n=int32[?],w=float32[?,2]>@SERVER"
    rows = READ([3, 0, 3], make_table())
    assert rows["n"].tolist() == [3, 0, 3] and rows["w"].tolist() == [[6, 7], [0, 1], [6, 7]]


def test_select_by_a_function():
    def pick(table, key):
        return jnp.sum(table["w"][key]) + key

    run = fc.federated_computation(
        lambda keys, table: fc.federated_sum(fc.federated_select(keys, table, pick)), fc.at_clients("int32"), TABLE
    )
    assert float(run([1, 2], make_table())) == 5 + 9 + 3
    with pytest.raises(TypeError, match=r"federated_select\(lambda at line \d+\) at .* cannot be applied"):
        fc.federated_computation(
            lambda keys, table: fc.federated_select(keys, table, lambda t, k: t["x"]), fc.at_clients("int32"), TABLE
        )


def test_per_client_state_survives_rounds():
    @fc.federated_computation(fc.at_server("float32[4]"), fc.at_clients("float32"))
    def step(table, values):
        index = fc.federated_client_index()
        mine = fc.federated_select(index, table)
        return fc.federated_scatter(table, index, fc.federated_map(lambda m, v: m + v, mine, values))

    table = jnp.zeros(4)
    for _ in range(3):
        table = step(table, [1.0, 2.0, 3.0])
    assert table.tolist() == [3, 6, 9, 0]


def test_what_is_refused():
    keys, table, rows = fc.at_clients("int32"), fc.at_server("float32[4,2]"), fc.at_clients("float32[2]")

    def scatter(*types):
        return fc.federated_computation(fc.federated_scatter, *types)

    with pytest.raises(TypeError, match=r"federated_scatter takes int32 keys.*got \{float32\}@CLIENTS at .*astype"):
        scatter(table, fc.at_clients("float32"), rows)
    with pytest.raises(TypeError, match=r"int32 keys, a scalar or a vector"):
        scatter(table, fc.at_clients("int32[2,2]"), rows)
    with pytest.raises(TypeError, match=r"writes rows of type float32\[2\] into float32\[4,2\]@SERVER, got \{float32"):
        scatter(table, keys, fc.at_clients("float32[3]"))
    with pytest.raises(TypeError, match=r"a scalar has no rows"):
        scatter(fc.at_server("float32"), keys, fc.at_clients("float32"))
    with pytest.raises(TypeError, match=r"takes a value at SERVER, got \{float32\[2\]\}@CLIENTS at .*table at SERVER"):
        scatter(rows, keys, rows)
    with pytest.raises(TypeError, match=r"federated_select takes a value at SERVER"):
        fc.federated_computation(fc.federated_select, keys, rows)
    with pytest.raises(TypeError, match=r"federated_select takes a value at CLIENTS, got int32@SERVER"):
        fc.federated_computation(fc.federated_select, fc.at_server("int32"), table)


def test_rows_that_are_dicts_are_written_by_name():
    table, keys = fc.at_server("<y=float32[3],x=float32[3]>"), fc.at_clients("int32")

    @fc.federated_computation(table, keys, fc.at_clients("float32"))
    def write(table, keys, values):
        rows = fc.federated_map(lambda v: {"x": v, "y": 10 * v}, values)
        return fc.federated_scatter(table, keys, rows)

    written = write({"x": jnp.zeros(3), "y": jnp.ones(3)}, [2, 0], [5.0, 7.0])
    assert list(written) == ["y", "x"]
    assert written["x"].tolist() == [7, 0, 5] and written["y"].tolist() == [70, 1, 50]
