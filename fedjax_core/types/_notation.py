"""The grammar of the type notation: how names are quoted, and a reader that does not know the type classes.

The reader turns text into nested tuples, one per type, of which `types.parse_type` builds the type:

    ("tensor", dtype, shape)    ("struct", [(name, node), ...])    ("sequence", node)
    ("function", node or None, node)    ("federated", node, placement, all_equal)
"""

import json
import re
from typing import Any, NoReturn

from fedjax_core.types import _dtypes

PLACEMENTS = ("SERVER", "CLIENTS")
_WORD = re.compile(r"[^\s=,<>\[\]{}()*@\"-]+")
_SPACE = re.compile(r"\s*")
_QUOTED = json.JSONDecoder(strict=False)


def quoted(name: str) -> str:
    """`name` in double quotes, with JSON's escapes."""
    return json.dumps(name, ensure_ascii=False)


def name_text(name: str) -> str:
    """A field's name as the notation writes it: bare if it is an identifier, else quoted."""
    return name if name.isidentifier() else quoted(name)


def read(text: str) -> tuple:
    """The syntax tree of a type's notation.

    Raises:
      ValueError: the text is not well formed; the message shows where.
    """
    reader = _Reader(text)
    try:
        node = reader.type()
    except RecursionError:
        raise ValueError(
            f"this is not a type: expected at most some hundred levels of brackets, got {text[:60]!r}...; take the "
            "type from a value with fc.types.type_of(value)"
        ) from None
    reader.space()
    if reader.position < len(text):
        reader.fail("the end of the type")
    return node


class _Reader:
    """A recursive descent parser of `text`, with one method per rule of the grammar."""

    def __init__(self, text: str):
        self.text = text
        self.position = 0

    def fail(self, expected: str) -> NoReturn:
        start = max(self.text.rfind("\n", 0, self.position) + 1, self.position - 40)
        excerpt = self.text[start : self.position + 40].split("\n")[0]
        raise ValueError(
            f"this is not a type: expected {expected} at position {self.position}\n"
            f"  {excerpt}\n  {' ' * (self.position - start)}^\n"
            f"types look like float32, int32[?,3], <x=float32,y=int32>*, float32@SERVER, "
            f"{{int32}}@CLIENTS, (int32 -> float32)"
        )

    def space(self) -> None:
        found = _SPACE.match(self.text, self.position)
        assert found is not None  # the pattern also matches the empty string
        self.position = found.end()

    def accepts(self, token: str) -> bool:
        self.space()
        found = self.text.startswith(token, self.position)
        self.position += len(token) if found else 0
        return found

    def expect(self, token: str) -> None:
        if not self.accepts(token):
            self.fail(repr(token))

    def word(self, expected: str) -> str:
        self.space()
        match = _WORD.match(self.text, self.position)
        if match is None:
            self.fail(expected)
        self.position = match.end()
        return match.group()

    def type(self) -> tuple:
        if self.accepts("{"):
            member = self.type()
            self.expect("}")
            self.expect("@")
            node = ("federated", member, self.placement(), False)
        elif self.accepts("<"):
            node = ("struct", self.elements())
        elif self.accepts("("):
            node = self.function()
        else:
            node = self.tensor()
        while True:
            if self.accepts("*"):
                node = ("sequence", node)
            elif self.accepts("@"):
                node = ("federated", node, self.placement(), True)
            else:
                return node

    def placement(self) -> str:
        start = self.position
        word = self.word("a placement, SERVER or CLIENTS")
        if word not in PLACEMENTS:
            self.position = start
            self.fail("a placement, SERVER or CLIENTS")
        return word

    def function(self) -> tuple:
        parameter = None if self.accepts("->") else self.type()
        if parameter is not None:
            self.expect("->")
        result = self.type()
        self.expect(")")
        return ("function", parameter, result)

    def elements(self) -> list[tuple[str | None, tuple]]:
        elements = []
        if self.accepts(">"):
            return elements
        while True:
            elements.append((self.name(), self.type()))
            if self.accepts(">"):
                return elements
            self.expect(",")

    def name(self) -> str | None:
        self.space()
        start = self.position
        if self.text.startswith('"', start):
            return self.quoted_name()
        match = _WORD.match(self.text, start)
        if match is None:
            return None
        self.position = match.end()
        if not self.accepts("="):
            self.position = start
            return None
        if not match.group().isidentifier():
            self.position = start
            self.fail(f"a field name; one that is not an identifier must be quoted, {quoted(match.group())}=")
        return match.group()

    def quoted_name(self) -> str:
        try:
            name, self.position = _QUOTED.raw_decode(self.text, self.position)
        except json.JSONDecodeError as error:
            self.position = error.pos
            self.fail("the end of a quoted field name")
        self.expect("=")
        return name

    def tensor(self) -> tuple:
        self.space()
        start = self.position
        name = self.word("a type")
        if name == "key" and self.accepts("<"):
            name = f"key<{self.word('the name of a key implementation')}>"
            self.expect(">")
        dtype = _dtypes.dtype_named(name)
        if dtype is None:
            self.position = start
            self.fail("a dtype of JAX")
        return ("tensor", dtype, self.shape())

    def shape(self) -> tuple[Any, ...] | None:
        if not self.accepts("["):
            return ()
        if self.accepts("..."):
            self.expect("]")
            return None
        dims = [self.dim()]
        while self.accepts(","):
            dims.append(self.dim())
        self.expect("]")
        return tuple(dims)

    def dim(self) -> int | None:
        self.space()
        start = self.position
        word = self.word("a dimension, an integer or '?'")
        if word == "?":
            return None
        if not (word.isascii() and word.isdecimal()):
            self.position = start
            self.fail("a dimension, an integer or '?'")
        return self.size(word, start)

    def size(self, digits: str, start: int) -> int:
        if len(digits) > 19 or int(digits) >= 2**63:  # arrays count in int64
            self.position = start
            self.fail("a dimension below 2**63")
        return int(digits)
