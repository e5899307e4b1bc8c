"""Types: notation both ways, well-formedness, assignability, types of values, containers."""

import collections
import copy
import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import types
from fedjax_core.types import (
    CLIENTS,
    SERVER,
    FederatedType,
    FunctionType,
    Placement,
    SequenceType,
    StructType,
    TensorType,
    TypeNotAssignableError,
    at_clients,
    at_server,
    parse_type,
    to_type,
    type_of,
)


def tensors(dtypes=("float32", "int32", "bool", "bfloat16", "float8_e4m3fn", "key<fry>", "key<rbg>", "key<urbg>")):
    dims = st.none() | st.integers(0, 3)
    shapes = st.none() | st.lists(dims, max_size=3).map(tuple)
    return st.builds(TensorType, st.sampled_from(dtypes), shapes)


def structs(children, names=None):
    names = st.none() | (st.text(max_size=4) if names is None else names)
    pairs = st.tuples(names, children)
    return st.lists(pairs, max_size=3, unique_by=lambda p: object() if p[0] is None else p[0]).map(StructType)


def all_types(tensor=None, names=None):
    tensor = tensors() if tensor is None else tensor
    plain = st.recursive(tensor, lambda inner: structs(inner, names), max_leaves=4)
    members = st.recursive(plain | st.builds(SequenceType, plain), lambda inner: structs(inner, names), max_leaves=4)
    federated = st.builds(FederatedType, members, st.sampled_from(Placement), st.sampled_from([None, True, False]))
    return st.recursive(
        members | federated,
        lambda inner: structs(inner, names) | st.builds(FunctionType, st.none() | inner, inner),
        max_leaves=4,
    )


ANY_TYPE = all_types()
SMALL_TYPE = all_types(
    st.builds(TensorType, st.just("int32"), st.sampled_from([None, (), (None,), (2,)])), st.sampled_from("ab")
)


@st.composite
def wider(draw, type_):
    """A type that is assignable from `type_`."""
    match type_:
        case TensorType(dtype, shape):
            if shape is None or draw(st.booleans()):
                return TensorType(dtype, None)
            return TensorType(dtype, tuple(draw(st.sampled_from([dim, None])) for dim in shape))
        case StructType(elements):
            unused = iter([name for name in "pqrstu" if name not in type_])
            return StructType(
                [
                    (next(unused) if name is None and draw(st.booleans()) else name, draw(wider(child)))
                    for name, child in elements
                ]
            )
        case SequenceType(element):
            return SequenceType(draw(wider(element)))
        case FunctionType(parameter, result):
            return FunctionType(parameter, draw(wider(result)))
        case FederatedType(member, placement, all_equal):
            return FederatedType(draw(wider(member)), placement, all_equal and draw(st.booleans()))


# Notation


NOTATIONS = [
    (at_server("int32"), "int32@SERVER"),
    (at_clients("float32", all_equal=True), "float32@CLIENTS"),
    (at_clients("int32"), "{int32}@CLIENTS"),
    (FederatedType("int32", SERVER, False), "{int32}@SERVER"),
    (FunctionType(None, at_server("int32")), "( -> int32@SERVER)"),
    (FunctionType("int32", "float32"), "(int32 -> float32)"),
    (FunctionType(to_type({"a": "int32"}), FunctionType(None, "bool")), "(<a=int32> -> ( -> bool))"),
    (SequenceType({"x": "float32[?,784]", "y": "int32[?]"}), "<x=float32[?,784],y=int32[?]>*"),
    (at_clients(SequenceType("int32")), "{int32*}@CLIENTS"),
    (at_server(SequenceType("int32")), "int32*@SERVER"),
    (StructType([]), "<>"),
    (StructType([("a", "int32"), (None, "bool")]), "<a=int32,bool>"),
    (StructType(["int32", TensorType("bool")]), "<int32,bool>"),
    (StructType({"b": "int32", "a": "bool"}), "<a=bool,b=int32>"),
    (TensorType(np.float32), "float32"),
    (TensorType("float32", [None, 3]), "float32[?,3]"),
    (TensorType("float32", None), "float32[...]"),
    (TensorType("float64", (np.int64(2),)), "float64[2]"),
    (TensorType(jnp.bfloat16, (0,)), "bfloat16[0]"),
    (TensorType(jax.random.key(0).dtype), "key<fry>"),
    (TensorType("key<rbg>", (2,)), "key<rbg>[2]"),
    (type_of(jax.random.key(0, impl="unsafe_rbg")), "key<urbg>"),
    (StructType([("key", "key<fry>"), ("b c", "int32")]), '<key=key<fry>,"b c"=int32>'),
    (StructType([('"', "int32"), ("a,b=>", "int32")]), '<"\\""=int32,"a,b=>"=int32>'),
    (StructType([("\n\\", "int32"), ("", "int32")]), '<"\\n\\\\"=int32,""=int32>'),
    (StructType([("größe", "int32"), ("größe in m", "int32")]), '<größe=int32,"größe in m"=int32>'),
    (
        FunctionType(
            StructType(
                [
                    ("state", at_server({"w": "float32[3]"})),
                    ("data", at_clients(SequenceType({"x": "float32[?,784]", "y": "int32[?]"}))),
                ]
            ),
            StructType([("state", at_server("int32")), ("metrics", at_server(StructType([])))]),
        ),
        "(<state=<w=float32[3]>@SERVER,data={<x=float32[?,784],y=int32[?]>*}@CLIENTS> -> "
        "<state=int32@SERVER,metrics=<>@SERVER>)",
    ),
]


@pytest.mark.parametrize("type_, text", NOTATIONS, ids=[text for _, text in NOTATIONS])
def test_notation_is_printed_and_read_back(type_, text):
    assert str(type_) == text
    assert str(parse_type(text)) == text
    assert parse_type(text) == type_
    assert parse_type(type_.formatted()) == type_
    assert eval(repr(type_)) == type_


@hypothesis.given(ANY_TYPE)
def test_parse_inverts_print(type_):
    parsed = parse_type(str(type_))
    assert str(parsed) == str(type_)
    assert parsed == type_ and hash(parsed) == hash(type_)
    assert parsed.is_equivalent_to(type_)
    assert parse_type(type_.formatted()) == type_


def test_formatted_puts_each_element_on_its_own_line():
    type_ = parse_type("(<state=<a=int32,b=<>>@SERVER,data={<x=float32[2]>*}@CLIENTS> -> int32@SERVER)")
    assert type_.formatted() == (
        "(<\n  state=<\n    a=int32,\n    b=<>\n  >@SERVER,\n  data={<\n    x=float32[2]\n  >*}@CLIENTS\n"
        "> -> int32@SERVER)"
    )


def test_whitespace_between_tokens_is_ignored():
    assert str(parse_type(' < a = int32 [ ? , 3 ] , "b c" = { int8 } @ CLIENTS >\n')) == (
        '<a=int32[?,3],"b c"={int8}@CLIENTS>'
    )
    assert parse_type("(int32->int8)") == parse_type("(int32 -> int8)")


@pytest.mark.parametrize("text", [
    "", "flot32", "int32 int32", "int32[", "int32[]", "int32[-1]", "int32[a]", "int32[2,]", "int32[..]", "int32[1.0]",
    "<", "<int32", "<int32,>", "<,>", "<a=>", "<a b=int32>", "<1=int32>", '<"a=int32>', '<"a"int32>', "<a=int32>>",
    "{int32}", "{int32@CLIENTS", "int32@", "int32@HERE", "int32@SERVERS", "(int32)", "(-> )", "int32 -> int32",
    "(int32 -> int32", "key", "key<", "key<foo>", "key<fry", "key<fry>>", "int64[²]", "*", "@SERVER", "Ellipsis",
])  # fmt: skip
def test_text_that_is_no_notation_is_refused(text):
    with pytest.raises(ValueError, match=r"this is not a type: expected .* at position"):
        parse_type(text)


def test_syntax_error_points_at_the_place():
    with pytest.raises(ValueError) as error:
        parse_type("<a=int32,\n  b=flot32>")
    assert "expected a dtype of JAX at position 14\n    b=flot32>\n      ^\n" in str(error.value)


def test_parse_type_takes_a_string():
    with pytest.raises(TypeError, match="use to_type"):
        parse_type(np.float32)


# Well-formedness


ILL_FORMED = [
    "int32@SERVER@CLIENTS", "{<a=int32@SERVER>}@CLIENTS", "(int32 -> int32)@SERVER", "<( -> int32)>@SERVER",
    "int32@SERVER*", "<a=<int32@CLIENTS>>*", "( -> int32)*", "int32**", "<a=int32*>*", "<a=int32,a=int32>",
    '<a=int32,int32,"a"=bool>',
]  # fmt: skip


@pytest.mark.parametrize("text", ILL_FORMED)
def test_ill_formed_types_are_refused(text):
    with pytest.raises(ValueError, match=r"cannot contain|differ"):
        parse_type(text)


def test_ill_formed_types_are_refused_by_the_constructors():
    federated, function, sequence = at_server("int32"), FunctionType(None, "int32"), SequenceType("int32")
    for part in (federated, function):
        with pytest.raises(ValueError, match="a federated value cannot contain"):
            at_clients({"a": part})
    for part in (federated, function, sequence):
        with pytest.raises(ValueError, match="a sequence cannot contain"):
            SequenceType(("int32", part))
    with pytest.raises(ValueError, match=r"\['a'\] more than once"):
        StructType([("a", "int32"), ("a", "int32")])
    with pytest.raises(ValueError, match="cannot be negative"):
        TensorType("int32", (-1,))
    with pytest.raises(ValueError, match="1 children, not 2"):
        StructType(["int32", "int32"], to_type(("int32",)).container)
    assert str(at_server(sequence)) == "int32*@SERVER"


@pytest.mark.parametrize("build", [
    lambda: TensorType(None), lambda: TensorType(3), lambda: TensorType("flot32"), lambda: TensorType("float"),
    lambda: TensorType(str), lambda: TensorType(object), lambda: TensorType(jnp.ones(3)),
    lambda: TensorType(jax.random.key(0)),
    lambda: TensorType("int32", 3), lambda: TensorType("int32", "3"), lambda: TensorType("int32", (1.0,)),
    lambda: TensorType("int32", (True,)), lambda: TensorType("int32", ("?",)),
    lambda: StructType(3), lambda: StructType("int32"), lambda: StructType([3]), lambda: StructType([(1, "int32")]),
    lambda: StructType([("a", None)]), lambda: StructType(None),
    lambda: SequenceType(None), lambda: SequenceType(5), lambda: SequenceType(jnp.ones(3)),
    lambda: FunctionType("int32", None), lambda: FunctionType(3, "int32"),
    lambda: FederatedType(None, SERVER), lambda: FederatedType("int32", "SERVER"), lambda: FederatedType(3, SERVER),
    lambda: FederatedType("int32", None), lambda: FederatedType("int32", SERVER, 1),
    lambda: at_clients("int32", all_equal="yes"), lambda: at_server(None), lambda: at_server(object()),
    lambda: to_type(3), lambda: to_type(np.ones(3)), lambda: to_type({"a": 3.0}), lambda: to_type(object()),
    lambda: to_type(jax.random.key(0)), lambda: to_type({1: "int32", "a": "int32"}),
])  # fmt: skip
def test_wrong_kinds_of_arguments_are_refused(build):
    with pytest.raises(TypeError):
        build()


def test_types_are_immutable():
    type_ = to_type({"a": "int32"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        type_.elements = ()
    assert copy.deepcopy(type_) is type_ and copy.copy(type_) is type_


def test_equality_is_equality_of_notation():
    assert to_type(("int32", "int32")) == to_type(["int32", "int32"]) == StructType(["int32", "int32"])
    assert hash(to_type(collections.OrderedDict(x="int32", y="bool"))) == hash(to_type({"x": "int32", "y": "bool"}))
    assert to_type(("int32",)) != to_type("int32") and to_type("int32") != "int32"
    assert StructType([]) and bool(to_type("int32"))


# Assignability


ASSIGNABLE = [
    ("int32", "int32", True),
    ("int32", "int64", False),
    ("float32", "int32", False),
    ("key<fry>", "key<rbg>", False),
    ("key<fry>", "key<fry>", True),
    ("key<fry>", "uint32[2]", False),
    ("int32[?]", "int32[3]", True),
    ("int32[3]", "int32[?]", False),
    ("int32[?]", "int32", False),
    ("int32", "int32[1]", False),
    ("int32[?]", "int32[?]", True),
    ("int32[?,3]", "int32[2,3]", True),
    ("int32[?,3]", "int32[2,4]", False),
    ("int32[...]", "int32[2,4]", True),
    ("int32[...]", "int32", True),
    ("int32[...]", "int32[...]", True),
    ("int32[...]", "float32[2]", False),
    ("int32[?]", "int32[...]", False),
    ("<>", "<>", True),
    ("<int32>", "<>", False),
    ("<>", "<int32>", False),
    ("<a=int32>", "<int32>", True),
    ("<int32>", "<a=int32>", False),
    ("<a=int32>", "<b=int32>", False),
    ("<a=int32,b=int32>", "<b=int32,a=int32>", False),
    ("<a=int32,b=bool>", "<int32,b=bool>", True),
    ("<a=int32[?]>", "<a=int32[2]>", True),
    ("<a=int32[2]>", "<a=int32[?]>", False),
    ("<int32>", "int32", False),
    ("int32", "<int32>", False),
    ("int32[?]*", "int32[3]*", True),
    ("int32[3]*", "int32[?]*", False),
    ("int32*", "int32", False),
    ("( -> int32)", "( -> int32)", True),
    ("( -> int32[?])", "( -> int32[2])", True),
    ("( -> int32[2])", "( -> int32[?])", False),
    ("(int32[2] -> int32)", "(int32[?] -> int32)", True),
    ("(int32[?] -> int32)", "(int32[2] -> int32)", False),
    ("( -> int32)", "(int32 -> int32)", False),
    ("(int32 -> int32)", "( -> int32)", False),
    ("(<> -> int32)", "( -> int32)", False),
    ("int32@SERVER", "int32@SERVER", True),
    ("int32@SERVER", "int32@CLIENTS", False),
    ("{int32}@CLIENTS", "{int32}@CLIENTS", True),
    ("{int32}@CLIENTS", "int32@CLIENTS", True),
    ("int32@CLIENTS", "{int32}@CLIENTS", False),
    ("{int32[?]}@CLIENTS", "{int32[2]}@CLIENTS", True),
    ("{int32[2]}@CLIENTS", "{int32[?]}@CLIENTS", False),
    ("<a=int32>@SERVER", "<a=int32@SERVER>", False),
    ("<a=int32@SERVER>", "<a=int32>@SERVER", False),
    ("int32@SERVER", "int32", False),
    ("int32", "int32@SERVER", False),
]


@pytest.mark.parametrize("target, source, expected", ASSIGNABLE)
def test_assignability_table(target, source, expected):
    target, source = parse_type(target), parse_type(source)
    assert target.is_assignable_from(source) is expected
    if expected:
        target.check_assignable_from(source)
    else:
        with pytest.raises(TypeNotAssignableError) as error:
            target.check_assignable_from(source)
        assert f"\n  {source}\n" in str(error.value) and f"\n  {target}\n" in str(error.value)


@pytest.mark.parametrize("target, source, message", [
    ("<w=<a=int32[3],b=bool>>", "<w=<a=int32[4],b=bool>>", "at w.a: expected int32[3], got int32[4] (dimension 0 is 4"),
    ("<w=<int32,int32[?]>>", "<w=<int32,int32[...]>>", "at w[1]: expected int32[?], got int32[...] (a value of"),
    ('<"a b"=int32[2]>', '<"a b"=int32>', 'at ["a b"]: expected int32[2], got int32 (it has 0 dimensions, not 1'),
    ("int32", "float32", "the whole type: expected int32, got float32 (its dtype is float32, not int32"),
    ("int32", "float32", "jnp.asarray(value, 'int32')"),
    ("float64", "float32", "jax_enable_x64"),
    ("key<fry>", "uint32[2]", "jax.random.key(seed)"),
    ("<a=int32>", "<a=int32,b=bool>", "(it has 2 elements, not 1; not expected ['b'])"),
    ("<a=int32,b=bool>", "<a=int32>", "(it has 1 elements, not 2; missing ['b'])"),
    ("<a=int32>", "<b=int32>", "element 0 is named 'b', but must be named 'a'"),
    ("<int32>", "<b=int32>", "element 0 is named 'b', but must be not named"),
    ("<b=int32,a=bool>", "<a=bool,b=int32>", "the same names in another order"),
    ("<x=float32>*@SERVER", "<x=int32>*@SERVER", "at x: expected float32, got int32"),
    ("int32@SERVER", "{int32}@CLIENTS", "federated_sum, federated_mean or federated_collect brings it there"),
    ("{int32}@CLIENTS", "int32@SERVER", "federated_broadcast brings it there"),
    ("int32@CLIENTS", "{int32}@CLIENTS", "one value for all is required"),
    ("int32@SERVER", "int32", "federated_value(value, SERVER)"),
    ("int32", "int32@SERVER", "federated_map(fn, value)"),
    ("<a=int32>@SERVER", "<a=int32@SERVER>", "federated_zip"),
    ("( -> int32)", "(int32 -> int32)", "it takes a parameter"),
    ("(<a=int32[?]> -> int32)", "(<a=int32[2]> -> int32)", "at parameter.a: expected int32[?], got int32[2]"),
    ("( -> <a=int32[2]>)", "( -> <a=int32[?]>)", "at result.a: expected int32[2], got int32[?]"),
])  # fmt: skip
def test_error_points_at_the_first_part_that_differs(target, source, message):
    with pytest.raises(TypeNotAssignableError) as error:
        parse_type(target).check_assignable_from(parse_type(source))
    assert message in str(error.value)
    assert isinstance(error.value, TypeError)


@pytest.mark.parametrize("method", ["is_assignable_from", "is_equivalent_to", "check_assignable_from"])
def test_only_types_are_compared(method):
    with pytest.raises(TypeError, match=f"`{method}` compares types, got 'int32'"):
        getattr(to_type("int32"), method)("int32")


@hypothesis.given(ANY_TYPE)
def test_assignability_is_reflexive(type_):
    rebuilt = parse_type(str(type_))
    assert type_.is_assignable_from(rebuilt) and rebuilt.is_assignable_from(type_)


@hypothesis.given(st.data())
def test_assignability_is_transitive_along_widenings(data):
    narrow = data.draw(ANY_TYPE)
    wide = data.draw(wider(narrow))
    widest = data.draw(wider(wide))
    assert wide.is_assignable_from(narrow) and widest.is_assignable_from(wide)
    assert widest.is_assignable_from(narrow)
    if not isinstance(narrow, FunctionType):
        assert FunctionType(narrow, "int32").is_assignable_from(FunctionType(wide, "int32"))


@hypothesis.given(SMALL_TYPE, SMALL_TYPE, SMALL_TYPE)
@hypothesis.settings(max_examples=300)
def test_assignability_is_transitive(a, b, c):
    if a.is_assignable_from(b) and b.is_assignable_from(c):
        assert a.is_assignable_from(c)


@hypothesis.given(st.data())
def test_equivalence_is_symmetric_and_both_directions(data):
    a = data.draw(SMALL_TYPE)
    b = data.draw(SMALL_TYPE | wider(a))
    assert a.is_equivalent_to(b) == b.is_equivalent_to(a)
    assert a.is_equivalent_to(b) == (a.is_assignable_from(b) and b.is_assignable_from(a))


@hypothesis.given(st.data())
def test_check_agrees_with_is_assignable(data):
    a = data.draw(SMALL_TYPE)
    b = data.draw(SMALL_TYPE | wider(a))
    try:
        a.check_assignable_from(b)
    except TypeNotAssignableError:
        assert not a.is_assignable_from(b)
    else:
        assert a.is_assignable_from(b)


def test_all_names_are_exported():
    assert all(hasattr(types, name) for name in types.__all__)
    assert str(SERVER) == "SERVER" and CLIENTS is Placement.CLIENTS


def test_a_part_of_a_type_is_said_to_be_of_a_class():
    whole = parse_type("(int32 -> {<a=int32,b=bool>}@CLIENTS)")
    result = types.of_kind(whole, FunctionType).result
    assert types.of_kind(result, FederatedType) is result
    assert str(types.member_of(result)) == "<a=int32,b=bool>"


@pytest.mark.parametrize("kind", [StructType, SequenceType, FunctionType, FederatedType])
def test_a_part_of_another_class_is_refused(kind):
    with pytest.raises(TypeError, match=rf"^expected a {kind.__name__}, got int32; "):
        types.of_kind(TensorType("int32"), kind)


def test_a_type_without_a_placement_has_no_member():
    with pytest.raises(TypeError, match=r"^expected a FederatedType, got int32; "):
        types.member_of(TensorType("int32"))


@pytest.mark.parametrize("text", ["<" * 500 + "int32" + ">" * 500, "(" * 9000, "{" * 9000, "int32" + "*" * 9000])
def test_a_notation_of_many_levels_is_refused(text):
    with pytest.raises(ValueError, match="at most some hundred levels"):
        parse_type(text)


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_dimension_beyond_64_bits_is_refused(digits):
    with pytest.raises(ValueError, match="expected a dimension below 2"):
        parse_type(f"int32[{'9' * digits}]")


def test_all_equal_may_be_a_bool_of_numpy():
    assert at_clients("int32", np.bool_(True)) == at_clients("int32", True)
