"""One protocol for everything that is public: one name for one thing, keys last, contracts with the same parameters."""

import importlib
import inspect
import pathlib
import typing

import jax
import optax
import pytest

import fedjax_core as fc
from tests import stateful_works
from tests.test_catalogue import AGGREGATOR_CASES, METRIC_CASES

PACKAGE = pathlib.Path(fc.__file__).parent


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = [part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"]
        if parts and not any(part.startswith("_") for part in parts):
            yield importlib.import_module(".".join([PACKAGE.name, *parts]))


def _public() -> dict[str, inspect.Signature]:
    """The signatures of all public functions, classes and their public methods, by the path that a user writes."""
    found = {}
    for module in _modules():
        for name in module.__all__:
            value = getattr(module, name)
            path = f"{module.__name__.partition('.')[2]}.{name}"
            if inspect.isclass(value):
                found |= {f"{path}.{method.__name__}": method for method in _methods(value)}
            if callable(value) and not typing.get_origin(value) and not _is_error(value):
                found[path] = value
    return {path: inspect.signature(value) for path, value in found.items()}


def _methods(kind: type) -> list:
    """The public methods that are written in this package."""
    values = [getattr(kind, name) for name in vars(kind) if not name.startswith("_")]
    functions = [value for value in values if inspect.isfunction(value) or inspect.ismethod(value)]
    return [value for value in functions if value.__module__.startswith(PACKAGE.name)]


def _is_error(value) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


PUBLIC = _public()
WITH_KEY = [path for path, signature in PUBLIC.items() if "key" in signature.parameters]
KEY_IS_THE_SUBJECT = {"language.federated_split_key", "trees.split_key"}
STATES = {"algorithms.LearningState"}
"""NamedTuples that hold a key: the last field."""
AS_THE_CONTRACT = {"model_calls.predicted"}
"""Takes the arguments of `Model.predict` in their order."""

OF_OTHERS = {"program.Experiment"}
"""Their names are those of the contract that they keep."""
ONE_NAME = {
    "cohort_size": {
        "n_clients",
        "clients_per_round",
        "num_clients_per_round",
        "clients_per_cohort",
        "num_participants",
    },
    "rounds": {"n_rounds", "num_rounds", "total_rounds"},
    "round_num": {"round_number", "round_index", "round_idx"},
    "key": {"rng", "prng_key", "random_key", "seed", "random_state", "rng_key"},
    "folder": {"run_dir", "dir", "directory", "log_dir", "logdir", "output_dir", "workdir"},
    "path": {"filename", "file_name", "file_path"},
    "learning_rate": {"lr", "step_size", "client_lr", "server_lr"},
    "max_norm": {"clip", "clip_norm", "clipping_norm", "norm_bound"},
    "batch_size": {"batchsize", "num_examples_per_batch"},
    "num_epochs": {"n_epochs", "num_local_epochs", "local_epochs"},
    "population": {"num_total_clients", "population_size"},
}
"""What has a name here, and the names that it has elsewhere."""
MAKE_POPULATIONS = {"data.digits", "data.partition", "data.synthetic", "data.synthetic_iid"}
COUNT_REPORTS = {"data.first_to_report", "data.minimum_reports", "program.Record"}


@pytest.mark.parametrize("path", sorted(set(WITH_KEY) - KEY_IS_THE_SUBJECT - AS_THE_CONTRACT))
def test_a_key_is_keyword_only_and_last(path):
    *_, last = (each for each in PUBLIC[path].parameters.values() if each.kind is not each.VAR_KEYWORD)
    assert last.name == "key", f"{path}{PUBLIC[path]}: `key` comes last"
    assert path in STATES or last.kind is last.KEYWORD_ONLY, f"{path}{PUBLIC[path]}: `key` is keyword-only"


@pytest.mark.parametrize("path", sorted(PUBLIC))
def test_one_thing_has_one_name(path):
    given = set(PUBLIC[path].parameters)
    for name, others in ONE_NAME.items():
        twins = set() if path in OF_OTHERS else given & others
        assert not twins, f"{path}{PUBLIC[path]}: write {name} for {', '.join(twins)}"
    is_path_to_a_file = path.split(".")[-1].startswith(("save_", "load_", "release_to_"))
    assert "path" not in given or is_path_to_a_file, f"{path}{PUBLIC[path]}: a folder is `folder`, a file is `path`"


def test_the_clients_of_a_round_are_cohort_size():
    """`num_clients` is the size of a population that is made, or how many clients report."""
    assert {path for path in PUBLIC if "num_clients" in PUBLIC[path].parameters} == MAKE_POPULATIONS | COUNT_REPORTS


@pytest.mark.parametrize("path", sorted(PUBLIC))
def test_variants_are_arguments(path):
    """There are no twins of a function, and no factories by name: every function here makes something."""
    name = path.split(".")[-1]
    assert not name.startswith(("build_", "make_", "create_", "get_", "unweighted_")) or name == "get_model_weights"
    assert not name.endswith(("_factory", "Factory", "_fn"))


def _names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("case", AGGREGATOR_CASES)
def test_aggregators_take_the_same_arguments(case):
    aggregator, _ = AGGREGATOR_CASES[case]()
    assert _names(aggregator.init) == ["value_type"]
    assert _names(aggregator.next) == ["state", "value", "weight"]


@pytest.mark.parametrize("case", AGGREGATOR_CASES)
def test_aggregators_have_the_same_types_where_x64_is_on(case):
    def signature():
        aggregator, _ = AGGREGATOR_CASES[case]()
        return str(fc.aggregators.as_process(aggregator, "<b=float32,w=float32[3]>").next.type_signature)

    expected = signature()
    with jax.enable_x64(True):
        assert signature() == expected


@pytest.mark.parametrize("case", METRIC_CASES)
def test_metrics_take_the_same_arguments(case):
    metric, *_ = METRIC_CASES[case]
    assert _names(metric.measure) == ["predictions", "batch", "mask"]
    assert len(_names(metric.finalize)) == 1


MODELS = {
    "logistic_regression": lambda: fc.models.logistic_regression(3, 2),
    "mlp": lambda: fc.models.mlp(3, 4, 2),
    "emnist_cnn": fc.models.emnist_cnn,
    "character_model": fc.models.character_model,
}


@pytest.mark.parametrize("name", MODELS)
def test_models_take_the_same_arguments(name):
    model = MODELS[name]()
    assert _names(model.init) == ["key"]
    assert [n for n in _names(model.predict) if n != "mask"] == ["weights", "batch", "key", "training"]
    assert [n for n in _names(model.loss) if n != "mask"] == ["predictions", "batch"]


def _client_works() -> dict:
    model, optimizer = MODELS["mlp"](), optax.sgd(0.1)
    metrics = fc.algorithms.metrics_process(model)
    return {
        "local_training": fc.clients.local_training(model, optimizer, metrics),
        "local_training by round": fc.clients.local_training(model, lambda round_num: optax.sgd(0.1), metrics),
        "local_gradient": fc.clients.local_gradient(model, metrics),
        "scaffold": stateful_works.scaffold(model, 0.1, 10),
        "clustered": stateful_works.clustered(model, optimizer, 3),
    }


def test_learning_processes_count_rounds_in_int32_where_x64_is_on():
    with jax.enable_x64(True):
        model = MODELS["logistic_regression"]()
        for process in (
            fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0)),
            fc.algorithms.fed_eval(model),
        ):
            assert str(process.state_type.member["round_num"]) == "int32"


def test_client_works_take_the_same_arguments():
    for name, work in _client_works().items():
        assert _names(work.init) == ["weights"], name
        assert [n for n in _names(work.run) if n != "round_num"] == ["state", "weights", "data", "key"], name
        assert _names(work.commit) == ["state", "result", "included", "shared"], name


def test_the_other_slots_take_the_same_arguments():
    distributor, finalizer = fc.algorithms.broadcast(), fc.algorithms.apply_optimizer(optax.sgd(1.0))
    assert _names(distributor.init) == ["weights"]
    assert _names(distributor.next) == ["state", "weights"]
    assert _names(finalizer.init) == ["weights"]
    assert [n for n in _names(finalizer.next) if n != "value"] == ["state", "weights", "update"]
