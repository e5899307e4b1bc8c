"""Types of values and of descriptions, and the containers that they keep."""

import collections
import dataclasses
import threading
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

from fedjax_core.types import (
    SequenceType,
    StructType,
    TensorType,
    Type,
    at_server,
    matched,
    matched_type,
    parse_type,
    to_type,
    tree_of_types,
    type_leaves,
    type_of,
)


class Pair(NamedTuple):
    x: Any
    y: Any


class Swapped(NamedTuple):
    y: Any
    x: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Point:
    x: Any
    y: Any
    label: str = dataclasses.field(default="", metadata={"static": True})


class Declared:
    """A value object that says its own type."""

    fedjax_type = parse_type("{float32}@CLIENTS")


@jax.tree_util.register_pytree_node_class
class DeclaredNode(Declared):
    """A value object that is a pytree node as well."""

    def tree_flatten(self):
        return (1, 2), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls()


# Descriptions of types


SYMBOLS = jax.export.symbolic_shape("n,2*n")


@pytest.mark.parametrize("spec, text", [
    ("float32[?,784]", "float32[?,784]"),
    (float, "float32"), (int, "int32"), (bool, "bool"), (complex, "complex64"),
    (np.int8, "int8"), (jnp.bfloat16, "bfloat16"), (np.dtype("uint8"), "uint8"), (np.float64, "float64"),
    (jax.random.key(0).dtype, "key<fry>"),
    (jax.ShapeDtypeStruct((2,), "float64"), "float32[2]"),
    (jax.ShapeDtypeStruct((SYMBOLS[0], 3, SYMBOLS[1]), "float32"), "float32[?,3,?]"),
    (None, "<>"), ((), "<>"), ({}, "<>"),
    ({"b": "int32", "a": (int, "bool")}, "<a=<int32,bool>,b=int32>"),
    (Swapped("int32", "bool"), "<y=int32,x=bool>"),
    (Point("int32", "bool"), "<x=int32,y=bool>"),
    ({"a": at_server("int32"), "b": None}, "<a=int32@SERVER,b=<>>"),
    ({2: "int32", 10: "bool"}, '<"2"=int32,"10"=bool>'),
])  # fmt: skip
def test_to_type(spec, text):
    assert str(to_type(spec)) == text


def test_to_type_names_the_leaf_that_is_no_spec():
    with pytest.raises(TypeError, match=r"at a\[1\]\.x: a type must be .* got 3 of type int; use type_of"):
        to_type({"a": ("int32", Pair(3, "int32"))})
    with pytest.raises(ValueError, match=r"at a: this is not a type"):
        to_type({"a": "flot32"})


# Types of values


@pytest.mark.parametrize("value, text", [
    (True, "bool"), (3, "int32"), (0.5, "float32"), (1j, "complex64"), (-(2**31), "int32"),
    (np.float64(1.0), "float32"), (np.int64(1), "int32"), (np.True_, "bool"), (np.uint8(1), "uint8"),
    (np.zeros((2, 0)), "float32[2,0]"), (np.zeros(2, np.int64), "int32[2]"), (np.zeros(2, np.float16), "float16[2]"),
    (jnp.zeros((2, 3), "bfloat16"), "bfloat16[2,3]"), (jnp.asarray(1), "int32"),
    (jax.random.key(0), "key<fry>"), (jax.random.split(jax.random.key(0), 3), "key<fry>[3]"),
    (jax.random.key(0, impl="rbg"), "key<rbg>"),
    (jax.ShapeDtypeStruct((SYMBOLS[0], 2), "int64"), "int32[?,2]"),
    (None, "<>"), ([], "<>"), ([1, 2.0], "<int32,float32>"), ({"b": 1, "a": None}, "<a=<>,b=int32>"),
    (Pair(1, {"c": 2}), "<x=int32,y=<c=int32>>"), (Point(1, 2, "label"), "<x=int32,y=int32>"),
    (collections.OrderedDict(b=1, a=2.0), "<b=int32,a=float32>"), ({2: 1, 10: 2.0}, '<"2"=int32,"10"=float32>'),
    (FrozenDict({"w": {"b": 1}}), "<w=<b=int32>>"),
    (optax.EmptyState(), "<>"), (optax.MaskedNode(), "<>"),
    (optax.sgd(0.1, momentum=0.9).init({"w": jnp.zeros(2)}), "<<trace=<w=float32[2]>>,<>>"),
    (optax.adam(0.1).init({"w": jnp.zeros(2)}), "<<count=int32,mu=<w=float32[2]>,nu=<w=float32[2]>>,<>>"),
    (to_type("int32*"), "int32*"), ((to_type({"a": "int32"}), 1), "<<a=int32>,int32>"),
    (Declared(), "{float32}@CLIENTS"), ({"a": Declared(), "b": DeclaredNode()}, None),
])  # fmt: skip
def test_type_of(value, text):
    text = "<a={float32}@CLIENTS,b={float32}@CLIENTS>" if text is None else text
    assert str(type_of(value)) == text
    assert str(type_of(value)) == text


def test_type_of_nnx_state_with_integer_keys():
    module = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(3, 1, rngs=nnx.Rngs(1)))
    state = nnx.state(module)
    type_ = type_of(state)
    assert str(type_) == (
        '<layers=<"0"=<bias=<value=float32[3]>,kernel=<value=float32[2,3]>>,'
        '"2"=<bias=<value=float32[1]>,kernel=<value=float32[3,1]>>>>'
    )
    assert parse_type(str(type_)) == type_
    rebuilt = rebuild(type_, state)
    assert isinstance(rebuilt, nnx.State)
    assert jax.tree.structure(rebuilt) == jax.tree.structure(state)


def test_type_of_tracers():
    seen = []

    @jax.jit
    def f(tree):
        seen.append(type_of(tree))
        return tree["w"]

    f({"w": jnp.zeros(3), "k": jax.random.key(0)})
    jax.vmap(f)({"w": jnp.zeros((2, 3)), "k": jax.random.split(jax.random.key(0))})
    jax.export.export(f)({"w": jax.ShapeDtypeStruct((SYMBOLS[0],), "float32"), "k": jax.random.key(0)})
    assert {str(type_) for type_ in seen[:-1]} == {"<k=key<fry>,w=float32[3]>"}
    assert str(seen[-1]) == "<k=key<fry>,w=float32[?]>"


def test_symbols_of_different_scopes_are_told_apart():
    for _ in range(2):
        (n,) = jax.export.symbolic_shape("n")
        assert str(type_of((jax.ShapeDtypeStruct((n,), "int32"),))) == "<int32[?]>"


@pytest.mark.parametrize("value, message", [
    ("text", "got 'text' of type str"),
    ({"a": [1, object()]}, r"at a\[1\]: a value must be a pytree of arrays, numbers and keys"),
    ({"a": np.array(["x"])}, r"at a: a tensor's dtype must be a dtype of JAX"),
    ({"a": np.array([None])}, r"at a: a tensor's dtype must be a dtype of JAX"),
    ({1: 1, "a": 2}, "dict cannot be flattened"),
])  # fmt: skip
def test_values_without_a_type_are_refused(value, message):
    with pytest.raises(TypeError, match=message):
        type_of(value)


def test_an_integer_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at n: the integer 2147483648 does not fit int32"):
        type_of({"n": 2**31})


def test_type_of_follows_x64():
    value = {"a": 1.0, "b": np.zeros(2), "c": 2**40}
    with jax.enable_x64(True):
        assert str(type_of(value)) == "<a=float64,b=float64[2],c=int64>"
        assert str(to_type(float)) == "float64"
    with pytest.raises(ValueError, match="does not fit"):
        type_of(value)


def test_type_of_remembers_structures_and_keeps_their_containers():
    first, second = type_of(({"a": np.zeros(2)},)), type_of(({"a": np.ones(2)},))
    assert first is second
    as_dict, as_point = type_of({"x": 1, "y": 2}), type_of(Point(1, 2))
    assert as_dict == as_point
    assert isinstance(as_dict.pack([1, 2]), dict) and isinstance(as_point.pack([1, 2]), Point)
    wrapped = [type_of((to_type(spec), 1))[0] for spec in ({"a": int}, FrozenDict({"a": int}))]
    assert [type(struct.pack([1])) for struct in wrapped] == [dict, FrozenDict]


def test_type_of_in_threads():
    results = {}

    def work(i):
        results[i] = [str(type_of({"w": np.zeros(j % 7 + 1), str(i): 1})) for j in range(200)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert results[i] == [f'<"{i}"=int32,w=float32[{j % 7 + 1}]>' for j in range(200)]


# Containers


def rebuild(type_, value):
    """`value` taken apart and put together again by its type."""
    if not isinstance(type_, StructType):
        return value
    return type_.pack(rebuild(child, part) for child, part in zip(type_.children, type_.unpack(value), strict=True))


def values(children):
    keys = st.text(max_size=3)
    return (
        st.dictionaries(keys, children, max_size=3)
        | st.dictionaries(st.integers(-3, 30), children, max_size=3)
        | st.dictionaries(keys, children, max_size=3).map(FrozenDict)
        | st.lists(st.tuples(keys, children), max_size=3).map(collections.OrderedDict)
        | st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.builds(Pair, children, children)
        | st.builds(Point, children, children, st.text(max_size=2))
        | st.sampled_from([None, optax.EmptyState(), optax.MaskedNode()])
    )


VALUES = st.recursive(st.sampled_from([1, 0.5, True, np.zeros(2, np.int8), np.float64(3)]), values, max_leaves=8)


@hypothesis.given(VALUES)
def test_values_come_back_as_what_they_were(value):
    type_ = type_of(value)
    assert jax.tree.structure(rebuild(type_, value)) == jax.tree.structure(value)
    assert jax.tree.structure(tree_of_types(type_)) == jax.tree.structure(value)
    assert [leaf for _, leaf in type_leaves(type_)] == jax.tree.leaves(tree_of_types(type_))
    assert to_type(tree_of_types(type_)) == type_ == parse_type(str(type_)) == type_of(type_)


@pytest.mark.parametrize("value", [(1, 2), [1, 2], {"x": 1, "y": 2}, Pair(1, 2), Point(1, 2), FrozenDict(x=1, y=2)])
def test_unpack_takes_any_container_with_these_names(value):
    type_ = to_type(Point("int32", "int32"))
    assert type_.unpack(value) == [1, 2]
    assert isinstance(type_.pack(type_.unpack(value)), Point)


@pytest.mark.parametrize("value, message", [
    (3, "must be a struct, got 3 of type int"),
    (np.ones(2), "must be a struct, got .* of type ndarray"),
    ("ab", "must be a struct, got 'ab' of type str"),
    (None, r"got a NoneType with \(\): it has 0 elements, not 2"),
    ((1, 2, 3), r"got a tuple with \(_, _, _\): it has 3 elements, not 2"),
    ({"x": 1}, r"have the elements \(x, y\), got a dict with \(x\): missing \['y'\]; give every name once, in any"),
    ({"x": 1, "z": 2}, r"got a dict with \(x, z\): missing \['y'\]; not expected \['z'\]; give every name once"),
    (collections.OrderedDict({1: 1, "1": 2}), r"missing \['x', 'y'\]; not expected \['1', '1'\]; given twice \['1'\]"),
    (Swapped(1, 2), "got a Swapped with .*: the same names in another order; a dict is matched by name, in any order"),
    ({"x": 1, 2: 2}, "cannot be flattened"),
])  # fmt: skip
def test_unpack_refuses_another_structure(value, message):
    with pytest.raises(TypeError, match=message):
        to_type(Pair("int32", "int32")).unpack(value)


def test_unpack_refuses_other_static_fields():
    """They would silently be those of the type."""
    type_ = to_type({"p": Point("int32", "int32", label="a")})
    assert type_["p"].unpack(Point(1, 2, label="a")) == type_["p"].unpack(Pair(1, 2)) == [1, 2]
    with pytest.raises(
        TypeError, match=r"a Point with the static fields label='a', got label='b'; .*declare the type again"
    ):
        type_["p"].unpack(Point(1, 2, label="b"))
    with pytest.raises(TypeError, match="static fields label='a', got label='b'"):
        matched(type_, {"p": Point(1, 2, label="b")})
    partial = to_type(jax.tree_util.Partial(max, "int32"))
    with pytest.raises(TypeError, match=r"a Partial with the static fields data=.*max>, got data=.*min>"):
        partial.unpack(jax.tree_util.Partial(min, 1))


def test_unpack_takes_a_defaultdict_of_another_default():
    type_ = type_of(collections.defaultdict(int, {"a": 1}))
    assert type_.unpack(collections.defaultdict(float, {"a": 2})) == [2]


def test_unpack_by_position_refuses_names():
    with pytest.raises(TypeError, match="its elements have positions and no names; give a tuple"):
        to_type(("int32", "int32")).unpack({"a": 1, "b": 2})
    with pytest.raises(TypeError, match="must be not named"):
        to_type(("int32", "int32")).unpack(Pair(1, 2))


def as_dicts(value, random):
    """The value with a dict, its fields in any order, in place of every container that has names."""
    paths, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda node: node is not value)
    if not paths or not paths[0][0]:
        return value
    names = [getattr(path[-1], "name", getattr(path[-1], "key", None)) for path, _ in paths]
    children = [as_dicts(child, random) for _, child in paths]
    if None in names:
        return tuple(children)
    pairs = list(zip(names, children, strict=True))
    random.shuffle(pairs)
    return random.choice([dict, FrozenDict, collections.OrderedDict])(pairs)


@hypothesis.given(VALUES, st.randoms(use_true_random=False))
def test_dicts_are_matched_by_name_whatever_their_order(value, random):
    structure = jax.tree.structure(value)
    value = structure.unflatten(range(structure.num_leaves))  # leaves that nobody can mistake for one another
    found = matched(type_of(value), as_dicts(value, random))
    assert jax.tree.structure(found) == structure
    assert jax.tree.leaves(found) == list(range(structure.num_leaves))


@jax.tree_util.register_pytree_node_class
class Unkeyed(dict):
    """A dict that was registered without keys, so that JAX knows its fields by position only."""

    def tree_flatten(self):
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, keys, children):
        return cls(zip(keys, children, strict=True))


@pytest.mark.parametrize("value", [
    {"x": 1, "y": 2},
    collections.OrderedDict(x=1, y=2),
    collections.defaultdict(int, x=1, y=2),
    FrozenDict(x=1, y=2),
    Unkeyed(x=1, y=2),
])  # fmt: skip
def test_fields_are_never_swapped(value):
    for type_ in (to_type(Swapped("int32", "int32")), parse_type("<y=int32,x=int32>")):
        assert type_.unpack(value) == [2, 1]


def test_matched_type_orders_dicts_only():
    target = parse_type("<y=float32,x=<b=int32,a=int32>*>@SERVER")
    source = at_server({"x": SequenceType({"a": "bool", "b": "int8"}), "y": "float32"})
    assert str(matched_type(target, source)) == "<y=float32,x=<b=int8,a=bool>*>@SERVER"
    for other in (Pair("float32", "int32"), {"y": "float32"}, {"y": "float32", "z": "bool"}, ("float32", "int32")):
        assert matched_type(target, at_server(other)) == at_server(other)
    assert matched_type(target, parse_type("int32")) == parse_type("int32")


def test_pack_counts_its_children():
    with pytest.raises(ValueError, match="has 2 elements, got 1 children"):
        to_type(("int32", "int32")).pack([1])


@pytest.mark.parametrize("text, value", [
    ("<>", ()),
    ("<int32,int32>", (1, 2)),
    ("<a=int32,int32>", (1, 2)),
    ("<a=int32,b=int32>", {"a": 1, "b": 2}),
    ("<b=int32,a=int32>", collections.OrderedDict(b=1, a=2)),
    ('<"2"=int32,"10"=int32>', collections.OrderedDict([("2", 1), ("10", 2)])),
])  # fmt: skip
def test_default_container(text, value):
    type_ = parse_type(text)
    packed = type_.pack(range(1, len(type_) + 1))
    assert packed == value and type(packed) is type(value)
    assert type_.unpack(packed) == list(jax.tree.leaves(value))


def test_elements_are_selected_by_name_and_position():
    type_ = to_type({"w": "float32[3]", "names": "int32", "a b": {"c": "bool"}})
    assert type_["w"] == type_.w == type_[2] == TensorType("float32", (3,))
    assert type_["a b"].c == to_type("bool") and type_["names"] == to_type("int32")
    assert type_.names == ("a b", "names", "w") and len(type_) == 3 and "w" in type_ and "v" not in type_
    assert list(type_) == list(type_.children)
    with pytest.raises(KeyError, match="has no element"):
        type_["v"]
    with pytest.raises(AttributeError, match="has no 'v'"):
        type_.v  # noqa: B018
    with pytest.raises(IndexError):
        type_[3]


def test_leaves_name_their_paths():
    type_ = parse_type('<w=<<b=int32>,float32*>,"a b"=<c=bool>@SERVER,class=int8>')
    assert [(path, str(leaf)) for path, leaf in type_leaves(type_)] == [
        ("w[0].b", "int32"), ("w[1]", "float32*"), ('["a b"]', "<c=bool>@SERVER"), ('["class"]', "int8"),
    ]  # fmt: skip
    assert type_leaves(to_type("int32")) == [("", to_type("int32"))]


def test_types_are_leaves_of_a_pytree():
    tree = tree_of_types(type_of({"a": 1, "b": (0.5, None)}))
    assert all(isinstance(leaf, Type) for leaf in jax.tree.leaves(tree))
    assert tree == {"a": to_type("int32"), "b": (to_type("float32"), None)}


@pytest.mark.parametrize(
    ("dtype", "found"), [(">f4", "float32"), (">f8", "float32"), (">i8", "int32"), (">u2", "uint16")]
)
def test_the_byte_order_of_a_file_is_no_part_of_a_type(dtype, found):
    assert str(type_of(np.ones(3, dtype))) == f"{found}[3]"


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}])
def test_a_pytree_of_thousands_of_levels_is_refused(wrap):
    tree = 1.0
    for _ in range(5000):
        tree = wrap(tree)
    with pytest.raises(ValueError, match="at most some hundred levels"):
        type_of(tree)


def test_an_integer_too_long_to_print_is_refused():
    with pytest.raises(ValueError, match="the integer an int of more than 4300 digits does not fit int32"):
        type_of(10**5000)
