"""Types for people: long ones over several lines, or shortened, with names for some of them."""

from collections.abc import Mapping

from fedjax_core.types._base import Type
from fedjax_core.types._classes import FederatedType, FunctionType, SequenceType, StructType
from fedjax_core.types._notation import name_text


def laid_out(type_: Type, names: Mapping[Type, str], *, start: int = 0, indent: int = 0) -> str:
    """The notation of a type, over several lines where it would not fit on one of 118 characters.

    Args:
      type_: the type.
      names: what is written in place of some types.
      start: how many characters stand on the line before it.
      indent: of the lines after the first.

    Returns:
      The text, which without `names` can be parsed.

    Example:

    >>> from fedjax_core import types
    >>> print(types.laid_out(types.parse_type("<x=float32[3],y=int32>"), {}, start=100))
    <
      x=float32[3],
      y=int32
    >
    """
    line = _text(type_, names)
    if type_ in names or start + len(line) <= 118:
        return line
    match type_:
        case StructType() if type_.children:
            pad = "\n" + " " * (indent + 2)
            parts = [
                name + laid_out(child, names, start=indent + 3 + len(name), indent=indent + 2)
                for name, child in _named_children(type_)
            ]
            return f"<{pad}{f',{pad}'.join(parts)}\n{' ' * indent}>"
        case SequenceType():
            return laid_out(type_.element, names, start=start + 1, indent=indent) + "*"
        case FederatedType():
            member = laid_out(type_.member, names, start=start + 10, indent=indent)
            return _placed(type_, member)
        case FunctionType():
            parameter = laid_out(type_.parameter, names, start=start + 5, indent=indent) if type_.parameter else ""
            column = len(parameter.rpartition("\n")[2]) + (0 if "\n" in parameter else start) + 6
            return f"({parameter} -> {laid_out(type_.result, names, start=column, indent=indent)})"
    return line


def shortened(type_: Type, names: Mapping[Type, str], width: int = 60) -> str:
    """The notation of a type, the innermost structs as `<...>` where it would be longer than `width`.

    Example:

    >>> from fedjax_core import types
    >>> print(types.shortened(types.parse_type("<x=<float32,float32>,y=int32>"), {}, width=20))
    <x=<...>,y=int32>
    """
    depth = _depth(type_)
    text = _text(type_, names)
    while len(text) > width and depth > 0:
        depth -= 1
        text = _text(type_, names, depth)
    return text


def _text(type_: Type, names: Mapping[Type, str], depth: int | None = None) -> str:
    """The notation, with `<...>` in place of structs below `depth`."""
    if type_ in names:
        return names[type_]
    match type_:
        case StructType() if depth == 0 and type_.children:
            return "<...>"
        case StructType():
            deeper = None if depth is None else depth - 1
            return f"<{','.join(name + _text(child, names, deeper) for name, child in _named_children(type_))}>"
        case SequenceType():
            return _text(type_.element, names, depth) + "*"
        case FederatedType():
            return _placed(type_, _text(type_.member, names, depth))
        case FunctionType():
            parameter = _text(type_.parameter, names, depth) if type_.parameter else ""
            return f"({parameter} -> {_text(type_.result, names, depth)})"
    return str(type_)


def _depth(type_: Type) -> int:
    """How many structs are around the innermost type of a member."""
    match type_:
        case StructType():
            return 1 + max(map(_depth, type_.children), default=0)
        case SequenceType():
            return _depth(type_.element)
    return 0


def _named_children(struct: StructType):
    """The children with what the notation writes before them."""
    return [("" if name is None else f"{name_text(name)}=", child) for name, child in struct.elements]


def _placed(type_: FederatedType, member: str) -> str:
    return f"{member}@{type_.placement}" if type_.all_equal else f"{{{member}}}@{type_.placement}"
