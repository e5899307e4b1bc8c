"""Python values as the members that a type declares."""

import collections

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.engine._values import as_member, conform


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("float32", 1), ("float32", 1.5), ("float32", np.float64(1.5)), ("float32", np.float32(1.5)), ("int32", 3),
        ("int32", np.int64(3)), ("uint8", 255), ("bool", True), ("complex64", 1j), ("bfloat16", 2),
        ("bfloat16", np.zeros((), ml_dtypes.bfloat16)), ("float32[2]", [1, 2]), ("float32[2]", (1.0, 2)),
        ("float32[?,2]", [[1, 2], [3, 4]]), ("uint8[2]", [1, 255]), ("int32[0]", []), ("float32[?]", []),
        ("float32[2]", np.ones(2)), ("int32[2]", np.ones(2, np.int64)), ("bool[2]", [True, False]),
        ("float32[2]", jnp.ones(2)), ("float32", jnp.asarray(1.0)), ("key<fry>", jax.random.key(0)),
    ],
)  # fmt: skip
def test_values_take_the_declared_dtype(type_, value):
    type_ = fc.types.parse_type(type_)
    member = as_member(value, type_, "it")
    assert type_.is_assignable_from(fc.types.type_of(member)) and not getattr(member, "weak_type", False)
    if type_.dtype != jax.random.key(0).dtype:
        np.testing.assert_array_equal(np.asarray(member, np.complex64), np.asarray(value, np.complex64))


@pytest.mark.parametrize(
    ("type_", "value", "words"),
    [
        ("int32", 1.5, "expected int32, got the float 1.5"),
        ("bool", 1, "expected bool, got the int 1"),
        ("float32", 1j, "expected float32, got the complex 1j"),
        ("float32[2]", 1.0, "got the float 1.0"),
        ("float32[2]", [1.0], "expected float32[2], got float32[1]; the shapes must agree"),
        ("float32[?]", [[1.0], [1.0, 2.0]], "a list of unequal lengths"),
        ("float32", jnp.int32(1), "got int32; convert it with .astype('float32')"),
        ("int32[2]", [1.0, 2.0], "expected int32[2], got float32[2]"),
        ("float32[1]", ["a"], "got an array of <U1; convert it to numbers"),
        ("float32[1]", [None], "got an array of object"),
        ("key<fry>", np.zeros(2, np.uint32), "expected key<fry>, got uint32[2]; make a key with jax.random.key"),
        ("<a=float32>", {"b": 1.0}, "with (b): missing ['a']; not expected ['b']; give every name once"),
        ("<a=<b=int32>>", {"a": {"b": 1.5}}, "it, field 'a', field 'b': expected int32"),
        ("<float32,int32>", (1.0, 2.5), "it, field 1: expected int32"),
    ],
)
def test_other_values_are_refused(type_, value, words):
    with pytest.raises(TypeError) as error:
        as_member(value, fc.types.parse_type(type_), "it")
    assert str(error.value).startswith("it") and words in str(error.value)


@pytest.mark.parametrize(
    ("type_", "value"), [("uint8", 256), ("int32", 2**31), ("uint8[1]", [-1]), ("int32[1]", np.array([2**40]))]
)
def test_integers_that_do_not_fit_are_refused(type_, value):
    with pytest.raises(ValueError, match=r"it: .* does not fit"):
        as_member(value, fc.types.parse_type(type_), "it")


def test_containers_become_the_declared_ones():
    type_ = fc.types.to_type({"a": "float32", "b": ["int32", "int32"]})
    assert as_member((1, (2, 3)), type_, "it") == {"a": 1.0, "b": [2, 3]}
    assert conform(type_, (1, (2, 3))) == {"a": 1, "b": [2, 3]}


FIELDS = st.recursive(
    st.none(),
    lambda children: st.lists(st.tuples(st.sampled_from("abcdefgh"), children), max_size=5, unique_by=lambda f: f[0]),
    max_leaves=12,
)
"""A struct as the list of its fields in declared order, None for a number."""


def declared(fields) -> fc.types.Type:
    if fields is None:
        return fc.types.to_type("float32")
    return fc.types.StructType([(name, declared(inner)) for name, inner in fields])


def numbered(fields, numbers, order):
    """A value in which all numbers differ; `order` orders the fields of its dicts."""
    if fields is None:
        return float(next(numbers))
    inner = {name: numbered(part, numbers, order) for name, part in fields}
    return collections.OrderedDict((name, inner[name]) for name in order([name for name, _ in fields]))


@given(FIELDS, st.randoms(use_true_random=False))
def test_fields_arrive_by_name_whatever_the_order(fields, random):
    shuffled = numbered(fields, iter(range(99)), lambda names: random.sample(names, len(names)))
    expected = numbered(fields, iter(range(99)), lambda names: names)
    for put in (lambda value: as_member(value, declared(fields), "it"), lambda value: conform(declared(fields), value)):
        for value in (shuffled, plain(shuffled)):
            found = put(value)
            assert list(map(float, jax.tree.leaves(found))) == list(map(float, jax.tree.leaves(expected)))
            assert jax.tree.structure(found) == jax.tree.structure(fc.types.tree_of_types(declared(fields)))


def plain(value):
    """The same value in dicts, which JAX sorts."""
    return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("type_", "value", "error", "words"),
    [
        ("float32[2]", np.array([1.0, -1e39]), ValueError, r"it: -1e\+39 does not fit float32; divide"),
        ("float32[2]", [1.0, 1e39], ValueError, r"it: 1e\+39 does not fit float32"),
        ("float32", 1e39, ValueError, r"it: 1e\+39 does not fit float32"),
        ("float32", 10**39, ValueError, r"it: 1e\+39 does not fit float32"),
        ("float32", 10**400, ValueError, r"it: 10*\.\.\. does not fit float32"),
        ("float16", 70000.0, ValueError, "it: 70000.0 does not fit float16"),
        ("complex64", np.complex128(1e39j), ValueError, "does not fit complex64"),
        ("float32[2]", np.ma.masked_equal(np.float32([1, 9]), 9), TypeError, "it is a masked array, whose mask"),
        ("float32[2]", [np.ma.masked, 1.0], TypeError, "it is a masked array, whose mask"),
    ],
)
def test_what_would_become_another_value_is_refused(type_, value, error, words):
    with pytest.raises(error, match=words):
        as_member(value, fc.types.parse_type(type_), "it")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.array(np.inf), [np.inf]])
def test_an_infinity_stays_one(value):
    type_ = "float32[1]" if isinstance(value, list) else "float32"
    assert not np.isfinite(as_member(value, fc.types.parse_type(type_), "it")).any()
