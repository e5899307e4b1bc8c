"""Plain lists as clients."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.engine import ClientSequences
from fedjax_core.engine._lists import cohort_of_list, member_type_of_list

ELEMENT = fc.types.parse_type("<x=float32[?,2],y=int32[?]>*")
sizes = st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=5)


def make_batch(start: int, size: int) -> dict:
    rows = np.arange(start, start + size)
    return {"x": np.stack([rows, -rows], 1).astype(np.float32), "y": rows.astype(np.int32)}


@given(sizes, st.randoms())
def test_batches_are_rows_of_the_clients_examples(sizes, random):
    clients = [[make_batch(10 * i, n) for i, n in enumerate(client)] for client in sizes]
    cohort = cohort_of_list(clients, ELEMENT, "it")
    sequences = cohort.value
    assert isinstance(sequences, ClientSequences) and cohort.ids == tuple(range(len(clients)))
    expected = [[b for b in client if len(b["y"])] for client in clients]
    assert sequences.num_steps.tolist() == list(map(len, expected))
    order = random.sample(range(len(clients)), len(clients))
    chosen = np.array(order, np.int64)
    out = {"x": np.empty((sequences.num_examples[chosen].sum(), 2), np.float32)}
    out["y"] = np.empty(len(out["x"]), np.int32)
    sequences.read(chosen, out)
    rows, at, step = sequences.batch_rows(chosen), 0, 0
    for client in order:
        for batch in expected[client]:
            used = rows[step][rows[step] >= 0] + at
            jax.tree.map(lambda a, b, used=used: np.testing.assert_array_equal(a[used], b), out, batch)
            step += 1
        at += sequences.num_examples[client]
    assert step == len(rows)


def test_examples_of_one_sequence_have_one_shape():
    type_ = fc.types.parse_type("<x=float32[?,?]>*")
    clients = [{"x": np.ones((2, 3), np.float32)}, {"x": np.ones((2, 4), np.float32)}]
    with pytest.raises(ValueError, match=r"client 1, field 'x': .* got the shape \(4,\) and in it, client 0 \(3,\)"):
        cohort_of_list(clients, type_, "it")
    with pytest.raises(ValueError, match=r"it, client 1: a dimension `\?` of a client's tensor must be the same"):
        cohort_of_list([np.ones(2, np.float32), np.ones(3, np.float32)], fc.types.parse_type("float32[?]"), "it")


@pytest.mark.parametrize(
    ("clients", "type_"),
    [
        ([1.0, 2], "float32"),
        ([np.ones(3)], "float32[3]"),
        ([[np.ones(3)], []], "float32[?]*"),
        ([[{"x": np.ones((3, 2)), "y": np.ones(3, np.int32)}]], "<x=float32[?,2],y=int32[?]>*"),
        ([[1.0]], "float32*"),
    ],
)
def test_types_of_lists(clients, type_):
    assert str(member_type_of_list(clients)) == type_


@pytest.mark.parametrize("clients", [[], [[]]])
def test_lists_that_tell_no_type(clients):
    with pytest.raises(ValueError, match=r"declare it, as in at_clients"):
        member_type_of_list(clients)
