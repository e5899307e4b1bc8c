"""Python containers of struct types: one level of a pytree, its names, and the way back."""

import collections
import functools
import keyword
from typing import Any

import jax
from jax import tree_util

from fedjax_core import _type_notation

Names = tuple[str | None, ...]


def flatten(value: Any) -> tuple[Names, list[Any], Any]:
    """The names, the children and the one-level `PyTreeDef` of a pytree.

    A leaf has itself as its only child, and the `PyTreeDef` of a leaf.
    """
    paths_and_children, container = tree_util.tree_flatten_with_path(value, is_leaf=lambda node: node is not value)
    names = tuple(_name(path[-1]) if path else None for path, _ in paths_and_children)
    return names, [child for _, child in paths_and_children], container


def flatten_unnamed(value: Any) -> tuple[list[Any], Any]:
    """The children and the one-level `PyTreeDef` of a pytree."""
    return tree_util.tree_flatten(value, is_leaf=lambda node: node is not value)


def _name(entry: Any) -> str | None:
    """The name of a child: its key or attribute, None for one that has a position only."""
    if isinstance(entry, tree_util.GetAttrKey):
        return entry.name
    if isinstance(entry, tree_util.DictKey):
        return str(entry.key)
    if isinstance(entry, tree_util.SequenceKey | tree_util.FlattenedIndexKey):
        return None
    return str(entry)


@functools.lru_cache(maxsize=1024)
def default_container(names: Names) -> Any:
    """The container of a struct that was written without one.

    With a name for every element it is a dict, an `OrderedDict` where the names are not in
    the sorted order of a dict's fields; otherwise, and for no elements, it is a tuple.
    """
    if not names or None in names:
        return jax.tree.structure((0,) * len(names))
    kind = dict if list(names) == sorted(names) else collections.OrderedDict
    return jax.tree.structure(kind.fromkeys(names, 0))


def describe(container: Any) -> str:
    """The name of a container's Python type."""
    kind = container.node_data()[0] if container.node_data() else None
    return getattr(kind, "__name__", "leaf")


def join(path: str, name: str | None, position: int) -> str:
    """The path of a struct's element, in the way that Python would select it."""
    if name is None:
        return f"{path}[{position}]"
    if not name.isidentifier() or keyword.iskeyword(name):
        return f"{path}[{_type_notation.quoted(name)}]"
    return f"{path}.{name}" if path else name
