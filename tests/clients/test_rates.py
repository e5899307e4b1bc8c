"""Client learning rates that change from round to round: by a function of the round number, or in the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.clients import LocalOptimizer, TrainingState, local_optimizer, local_training, scaffold_optimizer
from tests import learning_references as reference
from tests.test_traces import compilations

KEY = jax.random.key(4)
MODEL = reference.linear_model()
METRICS = fc.algorithms.metrics_process(MODEL)
CLIENTS = reference.make_clients((7, 0, 4))


def cohort():
    return reference.cohort(CLIENTS, num_epochs=2)


def weights_after(rates, momentum=0.0):
    """The weights after a round with each of these client rates, with server rate 1."""
    weights, after = reference.as_float64(MODEL.init(jax.random.split(KEY)[0])), []
    for rate in rates:
        update, _ = reference.fed_avg_update(weights, CLIENTS, reference.SGD(rate, momentum), 3, 2)
        weights = jax.tree.map(np.subtract, weights, update)
        after.append(weights)
    return after


def halving(round_num):
    return optax.sgd(0.5 * 0.5**round_num, momentum=0.5)


def test_a_function_of_the_round_number_gives_the_rates_of_its_rounds():
    process = fc.algorithms.fed_avg(MODEL, halving, key=KEY)
    state, after, programs = process.initialize(), [], []
    for expected in weights_after([0.5, 0.25, 0.125], momentum=0.5):
        with compilations() as compiled:
            state, _ = process.next(state, cohort())
        after.append(state)
        programs.append(len(compiled))
        reference.assert_close(state.weights, expected)
    assert programs[0] > 0 and programs[1:] == [0, 0]
    again = fc.algorithms.fed_avg(MODEL, halving, key=KEY)  # as after a resume
    reference.assert_same_bits(again.next(after[1], cohort()).state, after[2])


def test_the_function_may_give_a_local_optimizer():
    plain, wrapped = (
        fc.algorithms.fed_avg(MODEL, optimizer, key=KEY).next(
            fc.algorithms.fed_avg(MODEL, optimizer, key=KEY).initialize(), cohort()
        )
        for optimizer in (halving, lambda round_num: local_optimizer(halving(round_num)))
    )
    reference.assert_same_bits(plain.state.weights, wrapped.state.weights)


def injected(rate=0.5):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate, momentum=0.5)


def test_rates_in_the_state_change_without_another_compilation():
    process = fc.algorithms.fed_avg(MODEL, injected(), server_optimizer=injected(1.0), key=KEY)
    state = process.initialize()
    assert isinstance(state.client_work, TrainingState)
    assert process.get_hparams(state)["client_work"] == {"learning_rate": 0.5, "momentum": 0.5}
    expected = weights_after([0.5, 0.25, 0.125], momentum=0.5)
    server = {"learning_rate": 1.0, "momentum": 0.0}
    with compilations() as programs:
        for i, rate in enumerate([0.5, 0.25, 0.125]):
            before = len(programs)
            state = process.set_hparams(
                state, {"client_work": {"learning_rate": rate, "momentum": 0.5}, "finalizer": server}
            )
            state, _ = process.next(state, cohort())
            reference.assert_close(state.weights, expected[i])
            # The first state is on one device, and those of rounds are on all of them.
            assert i == 0 or set(programs[before:]) <= ({"jit(set_hparams)"} if i == 1 else set())
    assert process.get_hparams(state)["client_work"]["learning_rate"] == 0.125
    config = fc.EngineConfig(lanes=3, devices=1)
    state = process.set_hparams(
        process.initialize(), {**process.get_hparams(process.initialize()), "finalizer": server}
    )
    reference.assert_close(process.with_config(config).next(state, cohort()).state.weights, expected[0])


def test_a_process_rebuilt_from_its_attributes_has_them():
    process = fc.algorithms.fed_avg(MODEL, injected(), key=KEY)
    names = ("initialize", "next", "report", "get_model_weights", "set_model_weights")
    again = fc.templates.LearningProcess(*(getattr(process, name) for name in names))
    for name in ("get_hparams", "set_hparams"):
        assert getattr(again, name).type_signature == getattr(process, name).type_signature
    assert "get_hparams" in process.describe()


def test_rates_of_a_refused_round_stay():
    process = fc.algorithms.fed_avg(MODEL, injected(), key=KEY)
    state = process.set_hparams(process.initialize(), {"client_work": {"learning_rate": 0.125, "momentum": 0.25}})
    after = process.next(state, reference.cohort(CLIENTS, ["b"])).state
    assert process.get_hparams(after) == {"client_work": {"learning_rate": 0.125, "momentum": 0.25}}


def test_without_any_the_process_says_so():
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.5), key=KEY)
    state = process.initialize()
    assert process.get_hparams(state) == {}
    reference.assert_same_bits(process.set_hparams(state, {}), state)
    assert "hparams" not in process.describe()


@pytest.mark.parametrize("optimizer", [optax.sgd, lambda rate: optax.sgd(rate), lambda: optax.sgd(0.1)])
def test_a_function_of_anything_else_is_refused(optimizer):
    with pytest.raises(TypeError, match=r"got the function .*; write optax.sgd\(0.02\), or for rates .* lambda"):
        local_training(MODEL, optimizer, METRICS)


def test_a_function_that_gives_no_optimizer_is_refused():
    with pytest.raises(fc.templates.ProcessCompositionError, match=r"client_optimizer must be an optax\.Gradient"):
        fc.algorithms.fed_avg(MODEL, lambda round_num: 0.1 * round_num, key=KEY)


def test_an_optimizer_that_exchanges_variables_is_refused():
    with pytest.raises(ValueError, match=r"exchanges \['scaffold'\] .*; write a ClientWork .*local_trainer\(model"):
        fc.algorithms.fed_avg(MODEL, scaffold_optimizer(optax.sgd(0.1)), key=KEY)


def halved_after_each_step() -> LocalOptimizer:
    """A custom local optimizer."""

    def step(state, gradient, weights):
        rate = 0.5 * 0.5**state
        return state + 1, jax.tree.map(lambda w, g: w - rate * g, weights, gradient)

    return LocalOptimizer(lambda weights: jnp.float32(0), lambda state, aux_var, weights: state, step, lambda state: {})


@pytest.mark.slow
def test_a_local_optimizer_of_one_s_own_trains_simulated_clients():
    process = fc.algorithms.fed_avg(MODEL, halved_after_each_step(), key=KEY)
    state, _ = process.next(process.initialize(), cohort())
    schedule = optax.sgd(lambda count: 0.5 * 0.5**count)
    expected = fc.algorithms.fed_avg(MODEL, schedule, key=KEY)
    reference.assert_close(state.weights, expected.next(expected.initialize(), cohort()).state.weights)
