"""Finding the step and the leaf at which a client's training stops being finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.testing import NonFinite, debug_client
from tests import learning_references as reference

KEY = jax.random.key(3)
MODEL = reference.linear_model()
CLIENT = reference.make_clients((11,))["a"]
BATCHING = fc.data.Batching(3, num_epochs=2, shuffle=True)


def process(optimizer=None, model=MODEL):
    return fc.algorithms.fed_avg(model, optimizer or optax.sgd(0.1), key=KEY)


def batches(client, number=4):
    return [{name: part[3 * i : 3 * i + 3] for name, part in client.items()} for i in range(number)]


def test_nan_in_the_data_is_named_with_its_step_and_its_place():
    steps = batches(CLIENT)
    steps[2]["x"] = steps[2]["x"].copy()
    steps[2]["x"][1, 3] = np.nan
    built = process()
    found = debug_client(built, built.initialize(), steps)
    assert found[:2] == (3, "update['bias'][0]") and np.isnan(found.value)
    assert found.data == "['x'][1, 3]"


def test_client_that_is_finite_gives_nothing():
    built = process()
    assert debug_client(built, built.initialize(), batches(CLIENT)) is None
    assert debug_client(built, built.initialize(), CLIENT) is None


@pytest.mark.slow
def test_step_that_overflows_is_named_though_the_data_is_finite():
    built = process(optax.sgd(optax.piecewise_constant_schedule(0.1, {2: 1e30})))
    steps = [{**batch, "x": 1e15 * batch["x"]} for batch in batches(CLIENT)]
    found = debug_client(built, built.initialize(), steps)
    assert found.step == 3 and found.data is None and found.leaf.startswith("update[")


@pytest.mark.slow
def test_cohort_of_one_client_runs_with_the_rounds_batches_and_keys():
    """Dropout of a client's own key makes the step that divides by zero; the round has the same."""

    def predict(weights, batch, key=None, training=False):
        scores = MODEL.predict(weights, batch)
        if not training:
            return scores
        return jnp.where(jax.random.uniform(key) < 0.3, jnp.inf, 1.0) * scores

    built = process(model=MODEL._replace(predict=predict))
    state = built.initialize()
    data = fc.data.from_clients(dict.fromkeys("abcdef", CLIENT))
    steps = {}
    for name in data.client_ids:
        found = debug_client(built, state, data.cohort([name], BATCHING, key=KEY))
        steps[name] = found and found.step
    assert len(set(steps.values())) > 2
    _, metrics = built.next(state, data.cohort(data.client_ids, BATCHING, key=KEY))
    left_out = {name: "update" for name, step in steps.items() if step is not None}
    assert fc.algorithms.left_out_clients(metrics, data.client_ids) == left_out
    for name, step in steps.items():
        for limit in [] if step is None else [step - 1, step]:
            cohort = data.cohort([name], BATCHING, limit, key=KEY)
            result = built.client_results(state, cohort)
            assert bool(fc.trees.is_finite(result.update)) == (limit < step)


def test_batch_of_a_cohort_is_looked_at():
    client = {**CLIENT, "x": np.where(np.arange(11)[:, None] == 6, np.inf, CLIENT["x"]).astype(np.float32)}
    built = process()
    cohort = fc.data.from_clients({"a": client}).cohort(["a"], fc.data.Batching(3))
    found = debug_client(built, built.initialize(), cohort)
    assert found.step == 3 and found.data == "['x'][0, 0]"


def test_weights_of_the_server_come_first():
    built = process()
    state = built.initialize()
    state = state._replace(weights={**state.weights, "bias": state.weights["bias"].at[1].set(jnp.inf)})
    assert debug_client(built, state, batches(CLIENT)) == NonFinite(0, "weights['bias'][1]", np.inf, None)


def test_metric_that_is_not_finite_is_found():
    spoilt = fc.contracts.Metric(lambda p, batch, mask: 1 / (6.0 - jnp.sum(mask)), lambda s: s)
    built = process(model=MODEL._replace(metrics={"spoilt": spoilt}))
    found = debug_client(built, built.initialize(), [{name: part[:6] for name, part in CLIENT.items()}])
    assert found[:2] == (1, "metrics['spoilt']")


def test_results_of_a_process_survive_a_configuration():
    built = process().with_config(fc.EngineConfig(lanes=2))
    assert built.client_results.config.lanes == 2
    result = built.client_results(built.initialize(), reference.cohort({"a": CLIENT}))
    assert isinstance(result, fc.contracts.ClientResult) and result.weight.tolist() == [11.0]


def test_results_that_are_no_computation_are_refused():
    built = process()
    parts = built.initialize, built.next, built.report, built.get_model_weights, built.set_model_weights
    assert fc.templates.LearningProcess(*parts).client_results is None
    with pytest.raises(TypeError, match="client_results"):
        fc.templates.LearningProcess(*parts, client_results=lambda state, data: state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda built: (fc.algorithms.fed_eval(MODEL), None, CLIENT), TypeError, "with `client_results`"),
        (lambda built: (built, built.initialize(), []), TypeError, "a cohort of one client, or its batches"),
        (
            lambda built: (built, built.initialize(), reference.cohort({"a": CLIENT, "b": CLIENT})),
            ValueError,
            "a cohort of one client, got 2",
        ),
    ],
    ids=["process", "no batch", "two clients"],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        debug_client(*arguments(process()))
