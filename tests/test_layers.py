"""Rooms import only from rooms above them, and no module from one that imports it."""

import ast
import pathlib
import re

import pytest

import fedjax_core

PACKAGE = pathlib.Path(fedjax_core.__file__).parent
ROOMS = [
    "_signposts", "_own_errors", "_checks", "types", "trees", "language", "engine", "computations", "templates",
    "contracts", "model_calls", "data", "aggregators", "metrics", "models", "clients", "privacy", "algorithms",
    "program", "participant", "cli", "testing",
]  # fmt: skip
CATALOGUE = {"aggregators", "metrics", "models", "clients", "privacy"}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[0]


def imported_modules(module: str) -> set[str]:
    """The modules of this package that a module imports, wherever in its code."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if inside(name) in MODULES else node.module for name in names}
    return {inside(name) for name in found if inside(name) in MODULES} - {module}


def inside(name: str) -> str | None:
    """The name within this package, None for a module of another."""
    package, _, rest = name.partition(".")
    return rest if package == "fedjax_core" else None


IMPORTS = {module: imported_modules(module) for module in MODULES}
INSIDE = [module for module in MODULES if module not in ("", "__main__")]


PUBLIC_SUBROOMS = {"models": ("layers",), "language": ("graph", "rows", "sums"), "aggregators": ("reservoir",)}


@pytest.mark.parametrize("module", INSIDE)
def test_every_module_is_in_a_room(module):
    assert room_of(module) in ROOMS


@pytest.mark.parametrize("module", INSIDE)
def test_a_room_imports_only_from_rooms_above_it(module):
    place = ROOMS.index(room_of(module))
    for other in IMPORTS[module]:
        assert other, f"{module} imports the whole package"
        assert ROOMS.index(room_of(other)) <= place, f"{module} imports {other}"


SAMPLING = {("metrics", "aggregators"), ("metrics", "aggregators.reservoir")}
"""Metrics of a sample of the clients are sampled by the aggregator that does so."""


@pytest.mark.parametrize("module", [m for m in INSIDE if room_of(m) in CATALOGUE])
def test_rooms_of_the_catalogue_do_not_import_one_another(module):
    room = room_of(module)
    for other in IMPORTS[module]:
        allowed = room_of(other) not in CATALOGUE - {room} or (room, other) in SAMPLING
        assert allowed, f"{module} imports {other}"


def test_the_language_knows_no_engine():
    known = {"_signposts", "_own_errors", "_checks", "types", "trees", "language"}
    for module in MODULES:
        if room_of(module) == "language":
            assert {room_of(other) for other in IMPORTS[module]} <= known, module


def test_there_are_no_cycles():
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a cycle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for other in sorted(IMPORTS[module]):
            visit(other)
        done.add(path.pop())

    for module in MODULES:
        visit(module)
    assert done == set(MODULES)


@pytest.mark.parametrize("module", INSIDE)
def test_rooms_are_public_and_their_files_private(module):
    room, *file = module.split(".")
    if file and room not in ("templates",) and file[0] not in PUBLIC_SUBROOMS.get(room, ()):
        assert file[-1].startswith("_"), module


def test_the_maps_show_the_rooms_in_their_order():
    """That of the package's docstring and that of the README."""
    package = re.findall(r"^  ((?:\w+, )*\w+)  ", fedjax_core.__doc__, re.MULTILINE)
    readme = re.findall(r"^\| `(\w+)` \|", (PACKAGE.parent / "README.md").read_text(), re.MULTILINE)
    assert ", ".join(package).split(", ") == readme == [room for room in ROOMS if not room.startswith("_")]


@pytest.mark.parametrize("module", INSIDE)
def test_a_room_imports_no_private_file_of_another(module):
    for other in IMPORTS[module]:
        assert room_of(other) == room_of(module) or "._" not in other, f"{module} imports {other}"
