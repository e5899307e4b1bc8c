"""Signposts: the error for a name that is looked up in the wrong room says which room has it."""

import ast
import difflib
import functools
import pathlib
import sys

_PACKAGE = __name__.partition(".")[0]
_ALIKE = 0.8


def signpost(module: str) -> None:
    """Makes a room raise `missing` for a name that it lacks, and makes `dir` list its `__all__`.

    Args:
      module: the `__name__` of the room, which must have an `__all__`.
    """
    room = sys.modules[module]

    def __getattr__(name: str):
        raise missing(module, name)

    # Set from here: type checkers assume that a module that defines `__getattr__` itself has every name.
    vars(room).update(__getattr__=__getattr__, __dir__=lambda: sorted(room.__all__))


def missing(module: str, name: str) -> AttributeError:
    """The error for a name that a module lacks, which says where the name is or which name is spelled like it.

    No room is imported for it: when the first name is missing, it reads the rooms' `__all__` from their sources.

    Args:
      module: the module, for example `"fedjax_core.algorithms"`.
      name: the name that was looked up.

    Example:
      >>> print(missing("fedjax_core.algorithms", "accuracy"))
      module 'fedjax_core.algorithms' has no attribute 'accuracy'; write fc.metrics.accuracy
      >>> print(missing("fedjax_core", "federated_meen"))
      module 'fedjax_core' has no attribute 'federated_meen'; did you mean fc.federated_mean?
    """
    error = f"module {module!r} has no attribute {name!r}"
    if name.startswith("_"):  # tools such as doctest, pytest, copy and inspect look up such names in every module
        return AttributeError(error)
    rooms = _contents()
    places = [room for room, names in rooms.items() if name in names and room != module]
    if places:
        chosen = places[:1] if places[0] == _PACKAGE else places
        return AttributeError(f"{error}; write {' or '.join(_written(room, name) for room in chosen)}")
    for room in dict.fromkeys([module, *rooms]):
        for close in difflib.get_close_matches(name, rooms.get(room, ()), n=1, cutoff=_ALIKE):
            return AttributeError(f"{error}; did you mean {_written(room, close)}?")
    return AttributeError(error)


def _written(room: str, name: str) -> str:
    return f"fc{room.removeprefix(_PACKAGE)}.{name}"


@functools.cache
def _contents() -> dict[str, tuple[str, ...]]:
    """The public names of each public module, the root first."""
    root = sys.modules[_PACKAGE]
    folder = pathlib.Path(__file__).parent
    contents = {_PACKAGE: tuple(root.__all__)}
    for path in sorted(folder.rglob("*.py")):
        parts = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
        if parts and not any(part.startswith("_") for part in parts):
            contents[".".join([_PACKAGE, *parts])] = _listed(path)
    return contents


def _listed(path: pathlib.Path) -> tuple[str, ...]:
    """The names in the `__all__` of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(to, "id", None) == "__all__" for to in node.targets):
            return tuple(ast.literal_eval(node.value))
    return ()
