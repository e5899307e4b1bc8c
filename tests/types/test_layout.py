"""Types for people."""

import pytest

import fedjax_core as fc
from fedjax_core.types import laid_out, shortened

LAYER = {"bias": "float32[128]", "kernel": "float32[9216,128]"}
MODEL = fc.types.to_type({f"layer{i}": LAYER for i in range(5)})
BATCHES = fc.types.SequenceType(
    {"x": "float32[?,28,28,1]", "y": "int32[?]", **{f"field {i}": "bool" for i in range(20)}}
)
TYPES = {
    "tensor": fc.types.to_type("float32[3]"),
    "empty struct": fc.types.to_type("<>"),
    "short": fc.types.to_type("<a=int32,<b=bool>>"),
    "model": MODEL,
    "unnamed": fc.types.to_type((MODEL, MODEL, "int32")),
    "placed": fc.at_clients(MODEL),
    "all equal": fc.at_clients(MODEL, all_equal=True),
    "sequence": fc.at_clients(BATCHES),
    "no parameter": fc.types.FunctionType(None, fc.at_server(MODEL)),
    "short parameter": fc.types.FunctionType("<a=int32,b=int32>", MODEL),
    "function": fc.types.FunctionType(
        {"model": fc.at_server(MODEL), "data": fc.at_clients(BATCHES)}, fc.at_server(MODEL)
    ),
}


@pytest.mark.parametrize("type_", TYPES.values(), ids=TYPES)
def test_what_is_laid_out_is_the_notation_on_lines_of_120_characters(type_):
    text = laid_out(type_, {})
    assert fc.types.parse_type(text) == type_
    assert max(map(len, text.splitlines())) <= 120  # with what follows a type: `)` and `,`
    assert ("\n" in text) == (len(str(type_)) > 118)


def test_names_stand_for_types_wherever_they_are():
    state = fc.types.to_type({"model": MODEL, "moments": (MODEL, MODEL), "count": "int32"})
    names = {MODEL: "W", state: "S"}
    function = fc.types.FunctionType({"state": fc.at_server(state), "data": fc.at_clients(MODEL)}, state)
    assert laid_out(function, names) == "(<data={W}@CLIENTS,state=S@SERVER> -> S)"
    assert laid_out(state, {MODEL: "W"}) == "<count=int32,model=W,moments=<W,W>>"
    assert shortened(state, {MODEL: "W"}) == "<count=int32,model=W,moments=<W,W>>"


def test_a_line_is_shortened_from_the_inside():
    assert shortened(fc.types.to_type("<a=<b=<int32>>>"), {}) == "<a=<b=<int32>>>"
    assert shortened(MODEL, {}, width=80) == f"<{','.join(f'layer{i}=<...>' for i in range(5))}>"
    assert shortened(MODEL, {}, width=40) == "<...>"
    assert shortened(fc.types.SequenceType({"x": {"y": "float32[100,100,100]"}}), {}, width=15) == "<x=<...>>*"
    assert shortened(fc.types.to_type("<a=<>,b=float32[1000]>"), {}, width=10) == "<...>"
    assert shortened(fc.types.to_type("float32[1000]"), {}, width=5) == "float32[1000]"
