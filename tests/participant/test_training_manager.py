"""One participant against the NumPy oracle, with an injected clock."""

import itertools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.clients import proximal, scaffold_optimizer
from fedjax_core.contracts import Metric, ModelWeights
from fedjax_core.participant import (
    METRICS_LEVEL,
    ErrorReply,
    EvaluationReply,
    EvaluationRequest,
    TrainingManager,
    TrainReply,
    TrainRequest,
    decode_message,
    encode_message,
)
from tests import learning_references as reference
from tests import running_references as running
from tests.clock import Clock

KEY = jax.random.key(3)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((7, 5))
DATA, VALID = CLIENTS["a"], CLIENTS["b"]
WEIGHTS = jax.tree.map(np.asarray, MODEL.init(KEY))
OTHERS = jax.tree.map(lambda w: w + np.float32(0.1), WEIGHTS)
START = reference.as_float64(WEIGHTS)
RATE = 0.3
THREES = {"batch_size": 3}
EPOCH = reference.batches(DATA, 3, 1)


def make(optimizer=None, model=MODEL, data=DATA, clock=None, aggregator=None, **options) -> TrainingManager:
    optimizer = optax.sgd(RATE) if optimizer is None else optimizer
    aggregator = fc.aggregators.mean() if aggregator is None else aggregator
    return TrainingManager(model, optimizer, aggregator, data, clock=clock or Clock(tick=0.5), **options)


@pytest.fixture(scope="module")
def shared():
    """A manager with stateless SGD, to which every test sends weights."""
    return make(valid_data=VALID)


def train(manager, weights=WEIGHTS, aux_var=None, batches=THREES, round_i=1, **limits) -> TrainReply:
    reply = manager.training_round(TrainRequest(round_i, weights, aux_var or {}, batches, **limits or {"n_epoch": 1}))
    assert isinstance(reply, TrainReply), reply
    return reply


def evaluate(manager, weights=None, batches=THREES, **limits) -> EvaluationReply:
    reply = manager.evaluation_round(EvaluationRequest(1, weights, batches, **limits))
    assert isinstance(reply, EvaluationReply), reply
    return reply


def trained(steps, weights=START, **options) -> dict:
    return reference.SGD(RATE, **options).run(weights, steps)[0]


def assert_update(reply, end, start=START):
    reference.assert_close(reply.updates, jax.tree.map(np.subtract, start, end))


# Training


def test_two_epochs_agree_with_the_oracle(shared):
    reply = train(shared, n_epoch=2)
    end = trained(EPOCH * 2)
    assert_update(reply, end)
    reference.assert_close(shared.weights, end)
    assert (reply.n_epoch, reply.n_steps, reply.n_examples, reply.aux_var) == (2, 6, 14, {})
    assert all(type(effort) is int for effort in (reply.n_epoch, reply.n_steps, reply.n_examples))


def test_batches_may_cross_epochs_of_the_batching(shared):
    reply = train(shared, batches={"batch_size": 3, "num_epochs": 3})
    assert_update(reply, trained(reference.batches(DATA, 3, 3)))
    assert (reply.n_epoch, reply.n_steps, reply.n_examples) == (1, 7, 21)


@pytest.mark.parametrize(
    "limits, epochs, steps",
    [
        ({"n_epoch": 1}, 1, 3),
        ({"n_epoch": 3}, 3, 9),
        ({"n_steps": 3}, 1, 3),
        ({"n_steps": 4}, 2, 4),
        ({"n_steps": 1}, 1, 1),
        ({"n_epoch": 2, "n_steps": 4}, 2, 4),
        ({"n_epoch": 1, "n_steps": 4}, 1, 3),
        ({"timeout": 0.1}, 1, 1),
        ({"timeout": 2.0}, 2, 4),
        ({"timeout": 2.1}, 2, 5),
        ({"n_epoch": 1, "timeout": 100}, 1, 3),
        ({"n_epoch": 5, "n_steps": 5, "timeout": 1}, 1, 2),
    ],
)
def test_the_first_limit_ends_training(shared, limits, epochs, steps):
    reply = train(shared, **limits)
    assert (reply.n_epoch, reply.n_steps) == (epochs, steps)
    assert_update(reply, trained(list(itertools.islice(itertools.cycle(EPOCH), steps))))
    assert reply.n_examples == sum(len(batch["y"]) for batch in itertools.islice(itertools.cycle(EPOCH), steps))


def test_train_under_constraints_is_the_same_without_messages(shared):
    train(shared, n_steps=1)
    before = reference.as_float64(shared.weights)
    effort = shared.train_under_constraints(THREES)
    assert {name: type(value) for name, value in effort.items()} == {"n_epoch": int, "n_steps": int, "t_spent": float}
    assert (effort["n_epoch"], effort["n_steps"]) == (1, 3)
    reference.assert_close(shared.weights, trained(EPOCH, before))
    assert shared.train_under_constraints(THREES, n_epoch=None, n_steps=5)["n_steps"] == 5


def test_own_weights_are_kept_where_a_request_has_none(shared):
    train(shared, n_epoch=1)
    reply = train(shared, weights=None, n_epoch=1)
    once = trained(EPOCH)
    assert_update(reply, trained(EPOCH, once), once)
    reference.assert_close(shared.weights, trained(EPOCH * 2))
    assert_update(train(shared, n_epoch=1), once)  # replaced again


def test_weights_in_the_containers_of_a_message_are_taken(shared):
    request = decode_message(encode_message(TrainRequest(1, shared.model.init(KEY), {}, THREES, n_epoch=1)))
    reply = decode_message(encode_message(shared.training_round(request)))
    assert_update(reply, trained(EPOCH))


def test_what_was_sent_is_not_kept_by_reference(shared):
    buffer = np.zeros(64, np.float32)
    kernel = buffer[-buffer.ctypes.data % 64 // 4 :][:12].reshape(4, 3)  # aligned, so that JAX need not copy it
    kernel[:] = WEIGHTS["kernel"]
    evaluate(shared, {"kernel": kernel, "bias": WEIGHTS["bias"]})
    kernel[:] = np.nan
    assert np.isfinite(evaluate(shared).loss)


def test_seconds_are_rounded_to_three_digits():
    manager = make(clock=Clock(tick=0.1234567))
    assert train(manager).t_spent == 0.123
    assert manager.train_under_constraints(THREES)["t_spent"] == pytest.approx(0.1234567)
    assert evaluate(manager).t_spent == 0.123
    assert manager.evaluate_under_constraints(THREES)[2]["t_spent"] == pytest.approx(0.1234567)


def test_the_aggregator_prepares_what_is_shared():
    class Recorder:
        def prepare(self, update, n_steps, n_examples):
            self.given = update, n_steps, n_examples
            return {"scaled": fc.trees.scale(update, n_examples)}

    aggregator = Recorder()
    reply = train(make(aggregator=aggregator), n_steps=2)
    update, n_steps, n_examples = aggregator.given
    reference.assert_close(update, jax.tree.map(np.subtract, START, trained(EPOCH[:2])))
    assert (n_steps, n_examples) == (2, 6)
    reference.assert_close(reply.updates["scaled"], jax.tree.map(lambda u: 6 * u, reference.as_float64(update)))


def test_an_aggregator_without_a_prepare_gets_the_update_as_it_is():
    reply = train(make(aggregator=fc.aggregators.median()), n_steps=2)
    reference.assert_close(reply.updates, jax.tree.map(np.subtract, START, trained(EPOCH[:2])))


def test_momentum_lives_on_from_round_to_round():
    manager = make(optax.sgd(RATE, momentum=0.8))
    train(manager)
    train(manager, weights=None)
    reference.assert_close(manager.weights, trained(EPOCH * 2, momentum=0.8))


@pytest.mark.parametrize("make_sgd", [optax.sgd, optax.inject_hyperparams(optax.sgd)])
def test_rates_are_a_function_of_the_round(make_sgd):
    """Momentum persists, even if the optimizer keeps the rate in its state as well."""
    traces = []

    def halving(round_num):
        traces.append(round_num)
        return make_sgd(RATE * 0.5**round_num, momentum=0.8)

    manager, weights, velocity = make(halving), START, None
    for round_i in (0, 1, 3):
        train(manager, WEIGHTS if round_i == 0 else None, round_i=round_i, n_epoch=2)
        for batch in EPOCH * 2:
            slope = reference.gradient(weights, batch)
            velocity = slope if velocity is None else jax.tree.map(lambda v, g: 0.8 * v + g, velocity, slope)
            weights = jax.tree.map(lambda w, v, rate=RATE * 0.5**round_i: w - rate * v, weights, velocity)
        reference.assert_close(manager.weights, weights)
    assert sum(isinstance(number, jax.core.Tracer) for number in traces) == 1  # one program for all rounds


class Interrupting:
    """Raises `failure` before step number `at`, from 0."""

    at, failure = None, None

    def __call__(self, weights, batch, mask):
        if self.at == 0:
            raise self.failure
        self.at -= 1


@pytest.fixture(scope="module")
def interrupted():
    return make(optax.sgd(RATE, momentum=0.8), on_step=Interrupting())


def interrupt(manager, at, failure=None):
    manager.on_step.at, manager.on_step.failure = at, failure


def test_on_step_is_told_the_weights_before_each_step_the_batch_and_its_mask():
    told = []
    manager = make(on_step=lambda weights, batch, mask: told.append((weights, batch, mask)))
    train(manager, n_steps=3)
    for i, (weights, batch, mask) in enumerate(told):
        reference.assert_close(weights, trained(EPOCH[:i]))
        np.testing.assert_array_equal(batch["y"][np.asarray(mask)], EPOCH[i]["y"])
    assert len(told) == 3 and [int(mask.sum()) for _, _, mask in told] == [3, 3, 1]


@pytest.mark.parametrize("at, epochs", [(0, 1), (1, 1), (3, 2), (5, 2)])
def test_stop_iteration_ends_a_round_normally(interrupted, at, epochs, caplog):
    interrupted._state = None
    interrupt(interrupted, at, StopIteration("budget is spent"))
    reply = train(interrupted, n_epoch=2)
    assert (reply.n_epoch, reply.n_steps) == (epochs, at)
    assert_update(reply, trained((EPOCH * 2)[:at], momentum=0.8))
    assert [(r.levelname, r.message) for r in caplog.records] == [("WARNING", "training ends early: budget is spent")]


def test_an_exception_is_answered_and_undone(interrupted, caplog):
    interrupted._state = None
    interrupt(interrupted, 100)
    train(interrupted)
    before = jax.tree.map(np.asarray, interrupted._state)
    interrupt(interrupted, 2, RuntimeError("out of memory"))
    reply = interrupted.training_round(TrainRequest(2, OTHERS, {}, THREES, n_epoch=1))
    assert reply == ErrorReply("RuntimeError('out of memory')")
    reference.assert_same_bits(interrupted._state, before)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "training round failed" in record.message and record.exc_info
    interrupt(interrupted, 100)
    reply = train(interrupted, weights=None)
    assert reply.n_steps == 3


def test_an_interrupt_of_the_keyboard_is_no_answer(interrupted):
    interrupt(interrupted, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(interrupted)


def test_an_extended_transformation_is_told_the_loss_of_the_batch():
    optimizer = optax.polyak_sgd(max_learning_rate=0.5)
    end, state = WEIGHTS, optimizer.init(WEIGHTS)
    for batch in EPOCH:
        batch = {"x": jnp.float32(batch["x"]), "y": jnp.asarray(batch["y"])}
        loss = lambda w, batch=batch: MODEL.loss(MODEL.predict(w, batch), batch).mean()  # noqa: E731
        value, slope = jax.value_and_grad(loss)(end)
        step, state = optimizer.update(slope, state, end, value=value)
        end = optax.apply_updates(end, step)
    assert_update(train(make(optimizer)), reference.as_float64(end))


# Auxiliary variables


def test_fed_prox_is_captured_anew_each_round():
    manager = make(optax.chain(proximal(0.5), optax.sgd(RATE)))

    def expected(start, steps):
        weights = start
        for batch in steps:
            slope = jax.tree.map(lambda g, w, s: g + 0.5 * (w - s), reference.gradient(weights, batch), weights, start)
            weights = jax.tree.map(lambda w, g: w - RATE * g, weights, slope)
        return weights

    assert_update(train(manager, n_epoch=2), expected(START, EPOCH * 2))
    start = reference.as_float64(manager.weights)
    assert_update(train(manager, weights=None, n_epoch=2), expected(start, EPOCH * 2), start)


@pytest.mark.parametrize(
    "optimizer",
    [scaffold_optimizer(optax.sgd(RATE)), lambda round_num: scaffold_optimizer(optax.sgd(2 * RATE * 0.5**round_num))],
)
def test_scaffold_takes_and_gives_its_variable_as_bytes(optimizer):
    manager = make(optimizer)
    correction = jax.tree.map(lambda w: np.full_like(w, 0.25), WEIGHTS)
    request = TrainRequest(1, WEIGHTS, {"scaffold": {"correction": correction}}, THREES, n_epoch=2)
    reply = decode_message(encode_message(manager.training_round(decode_message(encode_message(request)))))
    weights, total = START, jax.tree.map(np.zeros_like, START)
    for batch in EPOCH * 2:
        slope = reference.gradient(weights, batch)
        total = jax.tree.map(np.add, total, slope)
        weights = jax.tree.map(lambda w, g: w - RATE * (g + 0.25), weights, slope)
    assert_update(reply, weights)
    reference.assert_close(reply.aux_var["scaffold"]["control"], jax.tree.map(lambda t: t / 6, total))


def test_a_federation_of_scaffold_is_the_paper_s_algorithm_1():
    """Three rounds of two participants with option II for the control variates, server rate 1, everybody each round."""
    steps = {name: reference.batches(client, 3, 1) for name, client in CLIENTS.items()}
    managers = {name: make(scaffold_optimizer(optax.sgd(RATE)), data=CLIENTS[name]) for name in CLIENTS}
    weights, controls = WEIGHTS, dict.fromkeys(CLIENTS, jax.tree.map(np.zeros_like, WEIGHTS))
    expected, own = START, dict.fromkeys(CLIENTS, jax.tree.map(np.zeros_like, START))
    for round_i in range(3):
        updates, shared = [], mean(controls.values())
        for name, manager in managers.items():
            correction = jax.tree.map(np.subtract, shared, controls[name])
            reply = train(manager, weights, {"scaffold": {"correction": correction}}, round_i=round_i)
            updates.append(reply.updates)
            controls[name] = jax.device_get(reply.aux_var["scaffold"]["control"])
        weights = jax.tree.map(np.subtract, weights, mean(updates))
        results = {name: scaffold_client(expected, steps[name], own[name], mean(own.values())) for name in CLIENTS}
        expected = mean(end for end, _ in results.values())
        own = {name: control for name, (_, control) in results.items()}
    reference.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    for name in CLIENTS:
        reference.assert_close(controls[name], own[name], rtol=1e-4, atol=1e-5)


def mean(parts) -> dict:
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *parts)


def scaffold_client(start, steps, own, shared) -> tuple[dict, dict]:
    """Lines 8 to 12 of the algorithm: the weights y_i and the new control variate c_i."""
    weights = start
    for batch in steps:
        slope = reference.gradient(weights, batch)
        weights = jax.tree.map(lambda w, g, c_i, c: w - RATE * (g - c_i + c), weights, slope, own, shared)
    scale = len(steps) * RATE
    return weights, jax.tree.map(lambda c_i, c, x, y: c_i - c + (x - y) / scale, own, shared, start, weights)


def test_running_state_is_answered_with_its_examples_where_the_server_averages_it():
    model, x = running.centering(), running.CLIENTS["a"]
    weights = model.init(KEY)
    reply = train(make(optax.sgd(0.01), model, {"x": x}), weights, batches={"batch_size": 2, "num_epochs": 2})
    reply = decode_message(encode_message(reply))
    end, running_mean = running.oracle(x)
    np.testing.assert_allclose(reply.updates["w"], [[1 - end]], rtol=1e-5)
    assert reply.aux_var["running"]["num_examples"] == 10
    np.testing.assert_allclose(reply.aux_var["running"]["state"]["mean"], [running_mean], rtol=1e-6)
    assert train(make(optax.sgd(0.01), running.centering("keep"), {"x": x}), weights).aux_var == {}


# Evaluation


def oracle(weights, data, batches=None) -> np.ndarray:
    """The sum of the losses, the number of correct predictions, and the number of examples."""
    return np.sum([reference.measured(weights, batch) for batch in batches or [data]], axis=0)


def test_evaluation_agrees_with_the_oracle_and_replaces_the_weights(shared):
    reply = evaluate(shared, OTHERS)
    loss, right, count = oracle(reference.as_float64(OTHERS), VALID)
    np.testing.assert_allclose(reply.loss, loss / count, rtol=1e-5)
    assert type(reply.loss) is float and reply.n_steps == 2
    assert set(reply.metrics) == {"loss", "accuracy", "num_examples"}
    np.testing.assert_allclose(reply.metrics["loss"], (loss, count), rtol=1e-5)
    assert tuple(map(int, reply.metrics["accuracy"])) == (right, count)
    reference.assert_close(shared.weights, reference.as_float64(OTHERS))
    assert evaluate(shared) == reply  # metrics are reset, weights kept


def test_statistics_of_participants_add_up_field_by_field(shared):
    first, second = (make(data=data) for data in (DATA, VALID))
    states = [evaluate(manager, WEIGHTS).metrics for manager in (first, second)]
    total = jax.tree.map(np.add, *states)
    expected = reference.evaluate(START, {"a": DATA, "b": VALID})
    for name, metric in shared.metrics.items():
        np.testing.assert_allclose(metric.finalize(total[name]), expected[name], rtol=1e-5)


def test_values_are_numbers_or_arrays():
    histogram = Metric(
        lambda predictions, batch, mask: jnp.bincount(batch["y"], mask.astype(int), length=3), lambda total: total
    )
    manager = make(metrics={"histogram": histogram}, key=KEY)
    values, states, effort = manager.evaluate_under_constraints(THREES)
    assert type(values["loss"]) is float and type(values["num_examples"]) is int
    np.testing.assert_array_equal(values["histogram"], np.bincount(DATA["y"], minlength=3))
    np.testing.assert_array_equal(states["histogram"], values["histogram"])
    assert set(effort) == {"n_steps", "t_spent"}


@pytest.mark.parametrize(
    "limits, steps", [({}, 3), ({"n_steps": 2}, 2), ({"n_steps": 9}, 3), ({"timeout": 0.1}, 1), ({"timeout": 1}, 2)]
)
def test_an_evaluation_is_at_most_one_pass(limits, steps):
    manager = make(key=KEY)
    reply = evaluate(manager, WEIGHTS, **limits)
    loss, _, count = oracle(START, None, EPOCH[:steps])
    assert reply.n_steps == steps and reply.metrics["num_examples"] == count
    np.testing.assert_allclose(reply.loss, loss / count, rtol=1e-5)


def test_the_optimizer_is_untouched_by_an_evaluation():
    manager = make(optax.sgd(RATE, momentum=0.8))
    train(manager)
    before = jax.tree.map(np.asarray, manager._state.optimizer)
    evaluate(manager, OTHERS)
    reference.assert_same_bits(manager._state.optimizer, before)


def test_train_data_is_evaluated_where_there_is_no_other(shared):
    assert evaluate(make(), WEIGHTS).metrics["num_examples"] == 7
    assert evaluate(shared, WEIGHTS).metrics["num_examples"] == 5


# Refusals


@pytest.mark.parametrize(
    "limits, message",
    [
        ({"n_epoch": 0}, "ValueError('the limit n_epoch must be an integer of at least 1, got 0"),
        ({"n_steps": -2}, "ValueError('the limit n_steps must be an integer of at least 1, got -2"),
        ({"timeout": 0}, "ValueError('the limit timeout must be positive and finite, got 0"),
        ({"n_epoch": None}, "ValueError('training needs a limit"),
        ({"n_epoch": 2.0}, "TypeError('the limit n_epoch must be an integer of at least 1, got 2.0"),
    ],
)
def test_limits_are_checked(shared, limits, message):
    reply = shared.training_round(TrainRequest(1, WEIGHTS, {}, THREES, **limits))
    assert isinstance(reply, ErrorReply) and reply.message.startswith(message)
    with pytest.raises((ValueError, TypeError)):
        shared.train_under_constraints(THREES, **limits)


@pytest.mark.parametrize("limits", [{"n_steps": 0}, {"timeout": -1.0}])
def test_limits_of_an_evaluation_are_checked(shared, limits):
    assert "the limit" in shared.evaluation_round(EvaluationRequest(1, WEIGHTS, THREES, **limits)).message


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batches": {"batch_size": 8, "drop_remainder": True}}, "holds 7 examples, from which"),
        ({"batches": {"batch_size": 0}}, "must be an integer of at least 1, got 0"),
        ({"batches": {"size": 3}}, "unexpected keyword argument"),
        ({"batches": {"batch_size": 3, "shuffle": True}}, "shuffles and needs a key"),
        (
            {"weights": {"kernel": WEIGHTS["kernel"]}},
            "the request's weights must be like the model's: .*no leaf 'bias'",
        ),
        ({"weights": reference.as_float64(WEIGHTS)}, r"'bias' must be float32\[3\], got float64\[3\]"),
        ({"aux_var": {"scaffold": {}}}, "takes no auxiliary variables, got 'scaffold'"),
        ({"round_i": 1.5}, r"round_i=\.\.\.\) must be an integer of at least 0, got 1.5"),
    ],
)
def test_what_does_not_fit_is_answered_by_an_error(shared, changes, message):
    request = TrainRequest(1, WEIGHTS, {}, THREES, n_epoch=1)._replace(**changes)
    reply = shared.training_round(request)
    assert isinstance(reply, ErrorReply)
    assert re.search(message, reply.message)


def test_empty_data_is_refused_not_looped_over():
    empty = {name: values[:0] for name, values in DATA.items()}
    manager = make(data=empty, key=KEY)
    for call in (manager.train_under_constraints, manager.evaluate_under_constraints):
        with pytest.raises(ValueError, match="holds 0 examples"):
            call(THREES)
    assert "holds 0 examples" in manager.training_round(TrainRequest(1, WEIGHTS, {}, THREES, timeout=0.1)).message
    assert evaluate(make(data=empty, valid_data=VALID), WEIGHTS).n_steps == 2


def test_more_than_one_pass_of_evaluation_is_refused(shared):
    reply = shared.evaluation_round(EvaluationRequest(1, WEIGHTS, {"batch_size": 3, "num_epochs": 2}))
    assert "at most one pass" in reply.message


def test_no_weights_at_all_are_refused():
    manager = make()
    reply = manager.training_round(TrainRequest(1, None, {}, THREES, n_epoch=1))
    assert "has no weights yet: send them with the first request" in reply.message
    with pytest.raises(ValueError, match=r"TrainingManager\(key=jax.random.key\(0\)\)"):
        _ = manager.weights


def test_another_kind_of_message_is_answered_by_an_error(shared):
    request = EvaluationRequest(1, WEIGHTS, THREES)
    assert "training_round takes a TrainRequest, got a EvaluationRequest" in shared.training_round(request).message
    assert "evaluation_round takes a EvaluationRequest" in shared.evaluation_round(None).message


async def _later(weights, batch, mask):
    pass


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"model": None}, TypeError, r"a model must be a fc\.Model"),
        ({"model": None, "metrics": ["accuracy"]}, TypeError, r"a model must be a fc\.Model"),
        ({"optimizer": 0.1}, TypeError, "^optimizer must be an optax.Gradient.*, got 0.1"),
        ({"optimizer": optax.sgd}, TypeError, "^optimizer must be an .* got the function sgd.*; write optax.sgd"),
        ({"optimizer": lambda round_num: 0.1}, TypeError, "^optimizer must be an optax.Gradient.*, got 0.1"),
        (
            {"aggregator": fc.aggregators.mean},
            TypeError,
            r"must be an Aggregator or have a `prepare\(update.* call it: mean\(\)",
        ),
        ({"aggregator": 3}, TypeError, r"got 3; use fc.aggregators.mean\(\)"),
        ({"data": {"x": DATA["x"]}}, TypeError, r"train_data=...\) holds"),
        ({"valid_data": {"x": DATA["x"]}}, TypeError, r"valid_data=...\) holds"),
        ({"metrics": "accuracy"}, TypeError, r"write metrics=\[\"accuracy\"\]"),
        ({"logger": 3}, TypeError, "must be a logger or the name of one, got 3"),
        ({"on_step": _later}, TypeError, r"on_step=...\) must be an ordinary function, got a coroutine function"),
        ({"on_step": 3}, TypeError, r"on_step=...\) must be a function of weights, batch and mask, got 3; write"),
        ({"clock": 3.0}, TypeError, r"TrainingManager\(clock=...\) must be a function that gives seconds, got 3.0"),
        ({"key": 0}, TypeError, r"TrainingManager\(key=...\) must be one JAX key, got 0"),
    ],
)
def test_arguments_are_checked_when_it_is_built(change, error, message):
    with pytest.raises(error, match=message):
        make(**change)


# What it draws, what it logs, what it shows, what it compiles


def test_arguments_are_attributes():
    optimizer, aggregator = optax.sgd(RATE), fc.aggregators.mean()
    manager = TrainingManager(MODEL, optimizer, aggregator, DATA, VALID, ["accuracy"], "participant", False)
    assert manager.model is MODEL and manager.optimizer is optimizer and manager.aggregator is aggregator
    assert manager.train_data is DATA and manager.valid_data is VALID and manager.verbose is False
    assert list(manager.metrics) == ["loss", "accuracy", "num_examples"]
    assert manager.logger is logging.getLogger("participant")
    assert make().logger.name == "TrainingManager" and make(logger=manager.logger).logger is manager.logger
    assert make().valid_data is None


def test_own_weights_and_shuffling_are_functions_of_key_and_round():
    batches = {"batch_size": 3, "shuffle": True}
    first, second = make(key=KEY), make(key=KEY, data=fc.data.from_clients([DATA]))
    init_key, rounds_key = jax.random.split(KEY)
    initial = MODEL.init(init_key)
    reference.assert_same_bits(first.weights, initial)
    train(second, weights=None, round_i=4)  # what it did before does not matter
    replies = [train(manager, weights=initial, batches=batches, round_i=5, n_epoch=2) for manager in (first, second)]
    reference.assert_same_bits(replies[0].updates, replies[1].updates)
    steps = []
    for epoch in range(2):
        key = jax.random.fold_in(jax.random.fold_in(rounds_key, 5), epoch)
        cohort = fc.data.from_clients([DATA]).cohort([0], fc.data.Batching(**batches), key=key)
        rows = [row[row >= 0] for row in cohort.value.batch_rows(np.zeros(1, int))]
        steps += [{name: values[row] for name, values in DATA.items()} for row in rows]
    start = reference.as_float64(initial)
    assert_update(replies[0], trained(steps, start), start)
    other = train(first, weights=initial, batches=batches, round_i=6, n_epoch=2)
    assert np.any(np.asarray(other.updates["kernel"]) != np.asarray(replies[0].updates["kernel"]))


def noisy_model():
    def predict(weights, batch, key=None, training=False):
        logits = MODEL.predict(weights, batch)
        return logits + jax.random.normal(key, (3,))[None, :] if training else logits

    return MODEL._replace(predict=predict)


def test_what_a_model_draws_is_a_function_of_key_round_and_step():
    first, second = (make(model=noisy_model(), key=KEY) for _ in range(2))
    updates = [train(manager, n_steps=2).updates for manager in (first, first, second)]
    reference.assert_same_bits(updates[0], updates[1])
    reference.assert_same_bits(updates[0], updates[2])
    other = train(first, round_i=2, n_steps=2).updates
    assert np.any(np.asarray(other["bias"]) != np.asarray(updates[0]["bias"]))
    evaluate(first)
    assert isinstance(make(model=noisy_model()).training_round(TrainRequest(1, WEIGHTS, {}, THREES, 1)), ErrorReply)


def test_only_trainable_weights_are_trained_and_shared():
    def init(key):
        return ModelWeights(MODEL.init(key), {"scale": jnp.full(4, 2.0)})

    def predict(weights, batch, key=None, training=False):
        return MODEL.predict(weights.trainable, {"x": batch["x"] * weights.non_trainable["scale"][None, :]})

    manager = make(model=MODEL._replace(init=init, predict=predict))
    weights = ModelWeights(WEIGHTS, {"scale": np.full(4, 3.0, np.float32)})
    request = decode_message(encode_message(TrainRequest(1, weights, {}, THREES, n_epoch=1)))
    reply = manager.training_round(request)
    scaled = [{**batch, "x": 3 * batch["x"]} for batch in EPOCH]
    assert_update(reply, trained(scaled))
    np.testing.assert_array_equal(manager.weights.non_trainable["scale"], weights.non_trainable["scale"])


def test_logs_at_four_levels(shared, caplog):
    with caplog.at_level(logging.INFO, "TrainingManager"):
        train(shared, n_epoch=1)
        training = [(r.levelno, r.message) for r in caplog.records]
        caplog.clear()
        evaluate(shared, WEIGHTS, n_steps=1)
        evaluation = [(r.levelno, r.message) for r in caplog.records]
    assert [message for _, message in training] == [
        "training round 1: starts",
        "training round 1: applies weights and auxiliary variables",
        "training round 1: at most 1 epochs, None steps, None seconds",
        "training round 1: packs the update",
    ]
    assert {level for level, _ in training} == {logging.INFO}
    assert [level for level, _ in evaluation] == [logging.INFO] * 3 + [METRICS_LEVEL, logging.INFO]
    loss, _, count = oracle(START, None, reference.batches(VALID, 3, 1)[:1])
    assert f"'loss': '{loss / count:.4f}'" in evaluation[3][1] and "num_examples" not in evaluation[3][1]
    assert logging.INFO < METRICS_LEVEL < logging.WARNING


def test_a_progress_bar_shows_when_verbose(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    for manager, shown in ((make(), True), (make(verbose=False), False)):
        train(manager, n_epoch=2)
        steps = capsys.readouterr().err
        train(manager, timeout=1.0)
        open_end = capsys.readouterr().err
        evaluate(manager)
        batches = capsys.readouterr().err
        assert ("6/6 steps" in steps, "2 steps" in open_end, "3/3 batches" in batches) == (shown,) * 3
        assert (steps + open_end + batches == "") == (not shown)


def test_each_step_is_traced_once_over_many_rounds():
    traces = []

    def predict(weights, batch, key=None, training=False):
        traces.append(training)
        return MODEL.predict(weights, batch)

    manager = make(
        scaffold_optimizer(optax.chain(proximal(0.1), optax.adam(0.1))), MODEL._replace(predict=predict), key=KEY
    )
    del traces[:]
    for round_i in range(5):
        reply = train(manager, weights=None if round_i in (0, 3) else WEIGHTS, round_i=round_i)
        train(manager, aux_var={"scaffold": {"correction": reply.updates}}, round_i=round_i)
        evaluate(manager, WEIGHTS if round_i else None)
    assert traces == [True, False]
