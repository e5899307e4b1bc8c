"""Updates that the server rejects by a rule of the user's, as TensorFlow Federated's finalizer does."""

import jax
import jax.numpy as jnp
import optax
import pytest

import fedjax_core as fc
from fedjax_core.algorithms import apply_optimizer, fed_avg, fed_sgd, on_part
from tests import learning_references as reference

KEY = jax.random.key(8)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((7, 0, 4))


def too_many_steps(state, update):
    """TFF's test rejects by a value of the optimizer's state: here its third step."""
    return optax.tree.get(state, "count") > 2, {"num_steps": optax.tree.get(state, "count")}


def test_a_rejected_update_moves_neither_weights_nor_optimizer_but_the_other_slots():
    server = apply_optimizer(optax.adam(0.1), should_reject_update=too_many_steps)
    clip = fc.aggregators.clip_by_norm(fc.aggregators.quantile_estimate(1e-3, 0.5, 0.2))
    processes = [
        fed_avg(MODEL, optax.sgd(0.1), server_optimizer=optimizer, aggregator=clip, key=KEY)
        for optimizer in (server, optax.adam(0.1))
    ]
    states = [process.initialize() for process in processes]
    for round_num in range(1, 4):
        before = states[0]
        outputs = [process.next(state, reference.cohort(CLIENTS)) for process, state in zip(processes, states)]
        states = [output.state for output in outputs]
        measured = outputs[0].metrics["finalizer"]
        assert [int(measured[name]) for name in ("num_steps", "update_rejected", "update_non_finite")] == [
            round_num,
            round_num == 3,
            0,
        ]
        if round_num < 3:
            reference.assert_close(states[0].weights, states[1].weights, rtol=1e-5)
    reference.assert_same_bits((states[0].weights, states[0].finalizer), (before.weights, before.finalizer))
    estimates = [state.aggregator["max_norm"]["estimate"] for state in (before, states[0])]
    assert states[0].round_num == 3 and estimates[0] < estimates[1]


def test_a_plain_answer_and_other_algorithms_and_parts():
    never = apply_optimizer(optax.sgd(0.1), should_reject_update=lambda state, update: False)
    always = on_part(
        lambda path: True, apply_optimizer(optax.sgd(0.1), should_reject_update=lambda state, update: True)
    )
    moved = []
    for server in (never, always):
        process = fed_sgd(MODEL, server_optimizer=server, key=KEY)
        first = process.initialize()
        state, metrics = process.next(first, reference.cohort(CLIENTS))
        assert sorted(metrics["finalizer"]) == ["update_non_finite", "update_rejected"]
        moved.append(float(fc.trees.norm(fc.trees.subtract(state.weights, first.weights))))
    assert moved[0] > 0 == moved[1]


@pytest.mark.parametrize(
    "answer",
    [None, 1, jnp.array([True]), (True, 3), (True, {}, {}), "no"],
    ids=["none", "int", "array", "pair", "triple", "str"],
)
def test_other_answers_are_refused_when_the_process_is_built(answer):
    server = apply_optimizer(optax.sgd(1.0), should_reject_update=lambda state, update: answer)
    with pytest.raises(TypeError, match=r"should_reject_update=\.\.\.\) must return a bool, or a bool and a dict"):
        fed_sgd(MODEL, server_optimizer=server, key=KEY)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"should_reject_update=\.\.\.\) must be a function .* write lambda state"):
        apply_optimizer(optax.sgd(1.0), should_reject_update=True)
