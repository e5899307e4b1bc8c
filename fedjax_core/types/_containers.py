"""The Python containers of struct types: how one level of a pytree is flattened, named and rebuilt."""

import collections
import dataclasses
import functools
import keyword
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax import tree_util

from fedjax_core.types import _notation

Names = tuple[str | None, ...]

_NUM_SHOWN = 8  # the number of names that an error message lists


def flatten(value: Any) -> tuple[Names, list[Any], Any]:
    """The names, the children and the one-level `PyTreeDef` of a pytree.

    A leaf is its own only child, and its `PyTreeDef` is that of a leaf.

    Raises:
      TypeError: JAX cannot flatten the value, for example a dict whose keys cannot be sorted.
    """
    paths_and_children, container = _one_level(tree_util.tree_flatten_with_path, value)
    names = tuple(_name(path[-1]) if path else None for path, _ in paths_and_children)
    return names, [child for _, child in paths_and_children], container


def flatten_unnamed(value: Any) -> tuple[list[Any], Any]:
    """The children and the one-level `PyTreeDef` of a pytree; it raises what `flatten` raises."""
    return _one_level(tree_util.tree_flatten, value)


def _one_level(flatten_tree: Callable, value: Any) -> tuple[list[Any], Any]:
    try:
        return flatten_tree(value, is_leaf=lambda node: node is not value)
    except ValueError as error:
        raise TypeError(
            f"a {type(value).__name__} cannot be flattened ({str(error).splitlines()[0]}); "
            f"the keys of a dict must be either all strings or all integers"
        ) from None


def _name(entry: Any) -> str | None:
    """The name of a child: its key or attribute, None if it has only a position."""
    if isinstance(entry, tree_util.GetAttrKey):
        return entry.name
    if isinstance(entry, tree_util.DictKey):
        return str(entry.key)
    if isinstance(entry, tree_util.SequenceKey | tree_util.FlattenedIndexKey):
        return None
    return str(entry)


@functools.lru_cache(maxsize=1024)
def default_container(names: Names) -> Any:
    """The container of a struct that was declared without one.

    If every element has a name it is a dict, or an `OrderedDict` if the names are not in the
    sorted order of a dict's fields; otherwise, and without elements, it is a tuple.
    """
    named = [name for name in names if name is not None]
    if not names or len(named) < len(names):
        return jax.tree.structure((0,) * len(names))
    kind = dict if named == sorted(named) else collections.OrderedDict
    return jax.tree.structure(kind.fromkeys(names, 0))


def describe(container: Any) -> str:
    """The name of a container's Python type."""
    kind = container.node_data()[0] if container.node_data() else None
    return getattr(kind, "__name__", "leaf")


def join(path: str, name: str | None, position: int) -> str:
    """The path of a struct's element, written as Python would select it."""
    if name is None:
        return f"{path}[{position}]"
    if not name.isidentifier() or keyword.iskeyword(name):
        return f"{path}[{_notation.quoted(name)}]"
    return f"{path}.{name}" if path else name


def check_names(names: list[str | None]) -> None:
    """Raises ValueError if a name occurs twice."""
    named = [name for name in names if name is not None]
    if len(set(named)) < len(named):
        repeated = sorted({name for name in named if named.count(name) > 1})
        raise ValueError(f"the names of a struct's elements must differ, got {repeated} more than once in {named}")


def listed(names: Iterable[str | None]) -> str:
    """Names for an error message, with `_` for an element without a name: `(a, _, b)`."""
    return "(" + ", ".join("_" if name is None else name for name in names) + ")"


def in_order(wanted: Names, names: Names, children: list, value: Mapping) -> tuple[Names, list]:
    """The names and the children of a mapping, in the order of `wanted` if it has exactly these names.

    Args:
      wanted: the names in the required order.
      names: the mapping's names as `flatten` returns them, in the order in which JAX flattens it.
      children: the mapping's children as `flatten` returns them.
      value: the mapping.
    """
    if None in names:  # a mapping that was registered without keys: JAX knows its children only by position
        names, children = tuple(map(str, value)), list(value.values())
    by_name = dict(zip(names, children, strict=True))
    if len(by_name) == len(names) == len(wanted) and by_name.keys() == set(wanted):
        return wanted, [by_name[name] for name in wanted]
    return names, children


def dict_reason(wanted: Names, found: Names) -> str | None:
    """Why a dict of the names `found` does not fit a struct of the names `wanted`, or None."""
    if wanted == found:
        return None
    if None in wanted:
        return "its elements have positions and no names; give a tuple"
    problems = {
        "missing": [name for name in wanted if name not in found],
        "not expected": [name for name in found if name not in wanted],
        "given twice": sorted({name for name in found if name is not None and found.count(name) > 1}),
    }
    named = "; ".join(f"{problem} {names}" for problem, names in problems.items() if names)
    shown = ", ".join(f"{name!r}: ..." for name in wanted[:_NUM_SHOWN]) + (", ..." if len(wanted) > _NUM_SHOWN else "")
    return f"{named}; give every name once, in any order: {{{shown}}}"


def names_reason(wanted: Names, found: Names, repair: str | None = None) -> str | None:
    """Why a struct of the names `found` does not fit one of the names `wanted`, or None.

    Args:
      wanted: the names of the target.
      found: the names of the source.
      repair: the end of the reason if only the order differs; by default it says how to get another order.
    """
    if wanted == found:
        return None
    if len(wanted) != len(found):
        reason = f"it has {len(found)} elements, not {len(wanted)}"
        missing = [name for name in wanted if name is not None and name not in found]
        surplus = [name for name in found if name is not None and name not in wanted]
        reason += f"; missing {missing}" if missing and None not in found else ""
        return reason + (f"; not expected {surplus}" if surplus and None not in wanted else "")
    for position, (name, other) in enumerate(zip(wanted, found, strict=True)):
        if other is not None and other != name:
            if None not in found and sorted(map(str, wanted)) == sorted(map(str, found)):
                return "the same names in another order" + (
                    "; a dict's fields come in sorted order, a collections.OrderedDict or a NamedTuple keeps any"
                    if repair is None
                    else repair
                )
            expected = "not named" if name is None else f"named {name!r}"
            return f"element {position} is named {other!r}, but must be {expected}; a tuple has no names"
    return None


def is_of_one_class(container: Any, other: Any) -> bool:
    """Whether two containers are of one Python class."""
    data, found = container.node_data(), other.node_data()
    return data is not None and found is not None and data[0] is found[0]


def static_texts(wanted: Any, found: Any) -> tuple[str, str]:
    """The static fields of two instances of a class, as texts; of dataclasses only the fields that differ."""
    one, other = ({name: repr(part) for name, part in _static_fields(value).items()} for value in (wanted, found))
    differing = [name for name in one if one[name] != other[name]] or list(one)
    one, other = (", ".join(f"{name}={texts[name]:.80}" for name in differing) for texts in (one, other))
    return one, other


def _static_fields(value: Any) -> dict[str, Any]:
    names, _, container = flatten(value)
    if not dataclasses.is_dataclass(value):
        return {"data": container.node_data()[1]}
    return {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value) if f.name not in names}


def is_dict(container: Any) -> bool:
    """Whether a container is a dict, or another mapping."""
    data = container.node_data()
    return data is not None and issubclass(data[0], Mapping)
