"""A name that is looked up in the wrong room: the error says where it is."""

import copy
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import fedjax_core as fc

ROOMS = [
    info.name for info in pkgutil.iter_modules([str(pathlib.Path(fc.__file__).parent)]) if not info.name.startswith("_")
]


@pytest.mark.parametrize(
    "module, name, advice",
    [
        ("fedjax_core", "fed_avg", "write fc.algorithms.fed_avg"),
        ("fedjax_core", "accuracy", "write fc.metrics.accuracy"),
        ("fedjax_core", "gru", "write fc.models.layers.gru"),
        ("fedjax_core", "ClientBatches", "write fc.language.ClientBatches"),
        ("fedjax_core", "fed_agv", "did you mean fc.algorithms.fed_avg?"),
        ("fedjax_core", "algoritms", "did you mean fc.algorithms?"),
        ("fedjax_core.algorithms", "accuracy", "write fc.metrics.accuracy"),
        ("fedjax_core.algorithms", "fedavg", "did you mean fc.algorithms.fed_avg?"),
        ("fedjax_core.metrics", "federated_sum", "write fc.federated_sum"),
        ("fedjax_core.metrics", "Model", "write fc.Model"),
        ("fedjax_core.language", "EngineConfig", "write fc.EngineConfig"),
        ("fedjax_core.trees", "clip_by_norms", "did you mean fc.trees.clip_by_norm?"),
        ("fedjax_core.models.layers", "mlp", "write fc.models.mlp"),
    ],
)
def test_the_error_says_where_the_name_is(module, name, advice):
    with pytest.raises(AttributeError) as error:
        getattr(importlib.import_module(module), name)
    assert str(error.value) == f"module {module!r} has no attribute {name!r}; {advice}"


def test_the_root_has_every_room():
    assert {*ROOMS} <= {*dir(fc)} == {*fc.__all__}
    assert all(hasattr(fc, name) for name in fc.__all__)


@pytest.mark.parametrize("name", ["nothing_of_the_kind", "_private", "__wrapped__", "pytest_plugins"])
def test_a_name_that_is_nowhere_is_an_ordinary_error(name):
    with pytest.raises(AttributeError) as error:
        getattr(fc.metrics, name)
    assert str(error.value) == f"module 'fedjax_core.metrics' has no attribute {name!r}"


def test_what_is_written_exists():
    """Every name of every room, looked up in the root, is found where the error says."""
    for room in ROOMS:
        for name in getattr(fc, room).__all__:
            if hasattr(fc, name):
                continue
            with pytest.raises(AttributeError) as error:
                getattr(fc, name)
            for written in str(error.value).partition("; write ")[2].split(" or "):
                found = fc
                for part in written.split(".")[1:]:
                    found = getattr(found, part)
                assert found is not None, written


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_signposts_and_a_table_of_contents(room):
    module = getattr(fc, room)
    assert dir(module) == sorted(module.__all__)
    with pytest.raises(AttributeError, match=r"(; write|; did you mean) fc\.algorithms\.fed_avg\??$"):
        module.fed_avg if room != "algorithms" else module.fedavg  # noqa: B018
    assert not hasattr(module, "no_such_name") and getattr(module, "no_such_name", 3) == 3


@pytest.mark.parametrize("module", [fc.contracts, fc.model_calls, fc.templates.errors], ids=lambda m: m.__name__)
def test_the_table_of_contents_of_one_file_is_complete(module):
    defined = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    assert {name for name in defined if not name.startswith("_")} == set(module.__all__)


def test_tools_that_look_at_modules():
    assert inspect.unwrap(fc.metrics) is fc.metrics
    assert copy.copy(fc.metrics.accuracy) is fc.metrics.accuracy
    with pytest.raises(TypeError, match="cannot pickle 'module' object"):
        copy.copy(fc.metrics)
    assert doctest.DocTestFinder().find(fc.trees)
    assert dict(inspect.getmembers(fc.metrics)).keys() >= set(fc.metrics.__all__)
    with pytest.raises(ImportError, match="cannot import name 'fed_avg'"):
        from fedjax_core import fed_avg  # noqa: F401


def test_the_answer_imports_no_room():
    program = (
        "import sys, fedjax_core as fc\n"
        "assert not hasattr(fc, 'fed_avg') and not hasattr(fc.trees, 'export_weights')\n"
        "assert not {'fedjax_core.algorithms', 'fedjax_core.program', 'optax', 'flax'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
