"""Readable texts of long types: over several lines or shortened, and with names in place of some types."""

from collections.abc import Mapping

from fedjax_core.types._base import Type
from fedjax_core.types._classes import FederatedType, FunctionType, SequenceType, StructType
from fedjax_core.types._notation import name_text


def laid_out(type_: Type, names: Mapping[Type, str], *, start: int = 0, indent: int = 0) -> str:
    """The notation of a type, over several lines if it does not fit on one line of 118 characters.

    Args:
      type_: the type.
      names: the names to write in place of some types.
      start: the number of characters before it on its line.
      indent: the indentation of the lines after the first, in characters.

    Returns:
      The text, which can be parsed if `names` is empty.

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
    """The notation of a type; if it is longer than `width`, its innermost structs become `<...>`.

    Args:
      type_: the type.
      names: the names to write in place of some types.
      width: the number of characters that is aimed at; a type whose outermost struct is `<...>` may exceed it.

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
    """The number of structs around the innermost type of a member."""
    match type_:
        case StructType():
            return 1 + max(map(_depth, type_.children), default=0)
        case SequenceType():
            return _depth(type_.element)
    return 0


def _named_children(struct: StructType):
    """The children, each with the text that the notation writes before it."""
    return [("" if name is None else f"{name_text(name)}=", child) for name, child in struct.elements]


def _placed(type_: FederatedType, member: str) -> str:
    return f"{member}@{type_.placement}" if type_.all_equal else f"{{{member}}}@{type_.placement}"
