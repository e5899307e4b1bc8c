"""What a user's own function raises keeps its class, and a note tells where; the same in all places."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.program import Evaluation, Export, ReleaseManager, Run

KEY = jax.random.key(0)
MODEL = fc.models.logistic_regression(2, 2)
CLIENTS = {"ada": {"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}}
DATA = fc.data.from_clients(CLIENTS)


class OwnError(Exception):
    """Of the user's; the second argument shows that it is not made anew."""

    def __init__(self, what, number):
        super().__init__(what)
        self.number = number


def fail(*given, **named):
    raise OwnError("mine", 3)


def _mapped(fn):
    @fc.federated_computation(fc.at_clients("float32"))
    def sums(values):
        return fc.federated_sum(fc.federated_map(fn, values))


def _evaluated():
    @fc.federated_computation()
    def start():
        return fc.federated_eval(fail, fc.SERVER)


def _aggregated(**functions):
    given = {"zero": 0.0, "accumulate": jnp.add, "merge": jnp.add, "report": lambda total: total} | functions

    @fc.federated_computation(fc.at_clients("float32"))
    def total(values):
        return fc.federated_aggregate(values, **given)


def _trained(**changes):
    fc.algorithms.fed_avg(MODEL._replace(**changes), optax.sgd(0.1), key=KEY)


def _slotted(**slots):
    aggregator = fc.aggregators.mean()._replace(**slots)
    fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), aggregator=aggregator, key=KEY)


def _failing_metric():
    metric = fc.contracts.Metric(lambda predictions, batch, mask: mask.sum(), fail)
    _trained(metrics={"own": metric})


BUILT = {
    "federated_map": lambda: _mapped(fail),
    "federated_eval": _evaluated,
    "computation": lambda: fc.computation(fail, "float32"),
    "zero": lambda: _aggregated(zero=fail),
    "accumulate": lambda: _aggregated(accumulate=fail),
    "merge": lambda: _aggregated(merge=fail),
    "report": lambda: _aggregated(report=fail),
    "init": lambda: _trained(init=fail),
    "predict": lambda: _trained(predict=fail),
    "loss": lambda: _trained(loss=fail),
    "finalize": _failing_metric,
    "aggregator": lambda: _slotted(next=fail),
    "map": lambda: DATA.map(fail),
}


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
@pytest.mark.filterwarnings("ignore:whether padding changes")
def test_an_error_while_something_is_built(build):
    with pytest.raises(OwnError, match="mine") as raised:
        build()
    assert raised.value.number == 3
    if build is not BUILT["aggregator"]:  # which is called, not traced
        assert raised.value.__notes__


def test_the_note_tells_where():
    with pytest.raises(OwnError) as raised:
        _mapped(fail)
    note = raised.value.__notes__[-1]
    assert note.startswith("federated_map(fail) at ") and "test_own_errors.py" in note


@pytest.mark.parametrize(
    "error", [ValueError("mine"), RuntimeError("mine"), ZeroDivisionError("mine"), AssertionError()]
)
def test_errors_of_python_that_a_user_raises_keep_their_class_too(error):
    def raise_it(value):
        raise error

    with pytest.raises(type(error)) as raised:
        _mapped(raise_it)
    assert raised.value is error


@pytest.mark.parametrize("fn", [lambda x: x["y"], lambda x: x.nothing, lambda x: jnp.ones(3) @ jnp.ones(4) + x])
def test_functions_that_do_not_fit_the_types_are_refused_with_these(fn):
    with pytest.raises(TypeError, match=r"cannot be applied to \(float32\)"):
        _mapped(fn)


RUNS = {
    "in the sampler, for round 1": {"sampler": fail},
    "in a hook, after round 1": {"on_round": fail},
    "in a release manager, at round 1": {"releases": ReleaseManager(fail)},
    "in a hook of the evaluation, after round 1": {"hooks": fail},
    "in the export 'own'": {"exports": Export("own", fail)},
    "in the function given to map: client 'ada'": {"mapped": True},
}


@pytest.fixture(scope="module")
def process():
    return fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), key=KEY)


@pytest.mark.parametrize("note", RUNS)
def test_an_error_in_a_run_says_in_which_round(note, process, tmp_path):
    change, data, calls = dict(RUNS[note]), DATA, []
    evaluation = Evaluation(DATA, MODEL, hooks=change.pop("hooks", ()))
    if change.pop("mapped", False):

        def later(examples):
            calls.append(1)
            return examples if len(calls) == 1 else fail()

        data = DATA.map(later)
    arguments = {"sampler": 1, "batching": fc.data.Batching(2), "rounds": 1, "key": KEY, "evaluation": evaluation}
    with pytest.raises(OwnError, match="mine") as raised:
        Run(process, data, folder=tmp_path / "run", **arguments | change).train()
    assert raised.value.number == 3 and note in raised.value.__notes__
