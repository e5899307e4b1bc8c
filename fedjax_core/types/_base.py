"""The base of all types: placements, equality by notation, assignability and its error."""

import enum
import functools
from typing import Any, TypeVar

from fedjax_core.types import _assignability


class Placement(enum.Enum):
    """Where a federated value lives: at the `SERVER`, or at the `CLIENTS`, with one value at each client."""

    SERVER = "SERVER"
    CLIENTS = "CLIENTS"

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return self.value


SERVER = Placement.SERVER
CLIENTS = Placement.CLIENTS


class TypeNotAssignableError(TypeError):
    """A value of one type was passed where another type is required."""

    __module__ = "fedjax_core.types"


class Type:
    """The base class of all types, which are immutable and are compared and hashed by their notation.

    A type is a leaf of a pytree, never a node, so a pytree of types describes a pytree of values.

    Attributes:
      kind: `"tensor"`, `"struct"`, `"sequence"`, `"function"` or `"federated"`.
    """

    kind = "type"

    @property
    def fedjax_type(self) -> "Type":
        """The type itself, so that `type_of` accepts a type in place of a value of that type."""
        return self

    @functools.cached_property
    def _notation(self) -> str:
        return self._render(None)

    def _render(self, indent: int | None) -> str:
        raise NotImplementedError  # each type has its own

    def _parts(self) -> tuple["Type", ...]:
        return ()

    @functools.cached_property
    def _kinds(self) -> frozenset[str]:
        return frozenset({self.kind}).union(*(part._kinds for part in self._parts()))

    def contains(self, kind: str) -> bool:
        """Whether the type, or any type inside it, is of a kind, such as `"federated"`.

        Example:
          >>> from fedjax_core.types import parse_type
          >>> parse_type("(<a=int32*> -> int32)").contains("sequence")
          True
        """
        return kind in self._kinds

    def __str__(self) -> str:
        return self._notation

    def __repr__(self) -> str:
        return f"parse_type({self._notation!r})"

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Type):
            return NotImplemented
        return self is other or self._notation == other._notation

    def __hash__(self) -> int:
        return hash(self._notation)

    def __bool__(self) -> bool:
        return True

    def __copy__(self) -> "Type":
        return self

    def __deepcopy__(self, memo: dict) -> "Type":
        return self

    def formatted(self) -> str:
        """The notation over several lines: one struct element per line, indented by two spaces.

        Example:
          >>> from fedjax_core.types import parse_type
          >>> print(parse_type("<w=float32[3],b=float32>@SERVER").formatted())
          <
            w=float32[3],
            b=float32
          >@SERVER
        """
        return self._render(0)

    def is_assignable_from(self, source: "Type") -> bool:
        """Whether a value of type `source` may be passed where this type is required.

        Tensors need the same dtype, and every dimension of the target must be `?` or equal (`[...]` takes
        any shape). Structs are compared position by position; the source's name must be absent or
        equal. Sequences and federated types are compared by their element or member; a target that is
        all-equal needs a source that is, too. Functions have a contravariant parameter and a covariant
        result.

        Raises:
          TypeError: `source` is not a Type.

        Example:
          >>> from fedjax_core.types import parse_type
          >>> parse_type("int32[?]").is_assignable_from(parse_type("int32[3]"))
          True
          >>> parse_type("<int32>").is_assignable_from(parse_type("<a=int32>"))
          False
        """
        _require_type(source, "is_assignable_from")
        return self == source or _assignability.is_assignable(self, source)

    def is_equivalent_to(self, other: "Type") -> bool:
        """Whether each of the two types is assignable from the other.

        Raises:
          TypeError: `other` is not a Type.

        Example:
          >>> from fedjax_core.types import parse_type
          >>> parse_type("float32@CLIENTS").is_equivalent_to(parse_type("{float32}@CLIENTS"))
          False
        """
        _require_type(other, "is_equivalent_to")
        return self == other or (self.is_assignable_from(other) and other.is_assignable_from(self))

    def check_assignable_from(self, source: "Type") -> None:
        """Raises an error unless a value of type `source` may be passed where this type is required.

        Raises:
          TypeNotAssignableError: it may not; the message shows both types and the first part that
            differs.
          TypeError: `source` is not a Type.

        Example:
          >>> from fedjax_core.types import parse_type
          >>> parse_type("<x=int32,y=int32[2]>").check_assignable_from(parse_type("<x=int32,y=int32[3]>"))
          Traceback (most recent call last):
            ...
          fedjax_core.types.TypeNotAssignableError: cannot assign a value of type
            <x=int32,y=int32[3]>
          to the type
            <x=int32,y=int32[2]>
          The first difference is at y: expected int32[2], got int32[3] (dimension 0 is 3, not 2).
        """
        _require_type(source, "check_assignable_from")
        difference = None if self == source else _assignability.first_difference(self, source)
        if difference is None:
            return
        where = f"at {difference.path}: " if difference.path else "the whole type: "
        raise TypeNotAssignableError(
            f"cannot assign a value of type\n  {source}\nto the type\n  {self}\n"
            f"The first difference is {where}expected {difference.target}, got {difference.source} "
            f"({difference.reason})."
        )


Kind = TypeVar("Kind", bound=Type)


def of_kind(type_: Type, kind: type[Kind]) -> Kind:
    """The type itself, narrowed to one of the type classes for type checkers.

    Args:
      type_: any type.
      kind: `TensorType`, `StructType`, `SequenceType`, `FunctionType` or `FederatedType`.

    Raises:
      TypeError: the type is not an instance of `kind`.

    Example:
      >>> from fedjax_core.types import StructType, parse_type
      >>> signature = parse_type("(int32 -> <a=int32,b=bool>)")
      >>> of_kind(signature.result, StructType).names
      ('a', 'b')
    """
    if not isinstance(type_, kind):
        raise TypeError(f"expected a {kind.__name__}, got {type_}; parse_type(text) makes a type from a notation")
    return type_


def _require_type(source: Any, method: str) -> None:
    if not isinstance(source, Type):
        raise TypeError(
            f"`{method}` compares types, got {source!r} of type {type(source).__name__}; "
            f"use type_of(value) for a value and parse_type(text) for a notation"
        )
