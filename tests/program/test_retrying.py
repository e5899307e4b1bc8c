"""Rounds that are tried again, as TensorFlow Federated's training program does."""

import jax
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.data import Batching, participation, sample_clients, uniform_sampler
from fedjax_core.program import Checkpoints, Run
from fedjax_core.templates import LearningProcessOutput

KEY = jax.random.key(7)
NAME = "program_metrics/num_retries"


@pytest.fixture
def run(softmax_process, twelve_clients):
    """A run of some rounds: `run(rounds, sampler=..., ...)`."""

    def run(rounds, *, sampler=4, **others):
        batching = Batching(batch_size=20, shuffle=True)
        return Run(
            softmax_process, twelve_clients, sampler=sampler, batching=batching, rounds=rounds, key=KEY, **others
        )

    return run


@pytest.fixture
def by_hand(softmax_process, twelve_clients):
    """The state after rounds with these numbers of draws."""

    def state(draws):
        state = softmax_process.initialize()
        for number in draws:
            ids = sample_clients(number, twelve_clients.client_ids, 4, key=KEY)
            batching = Batching(batch_size=20, shuffle=True)
            state, _ = softmax_process.next(
                state, twelve_clients.cohort(ids, batching, key=jax.random.fold_in(KEY, number))
            )
        return state

    return state


def retries(*tries):
    """Asks for another try where `tries`, the answers in order, says so."""
    answers, outputs = list(tries), []

    def should_retry_round(output):
        outputs.append(output)
        return answers.pop(0) if answers else False

    return should_retry_round, outputs


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.weights, b.weights)


def test_one_retry_then_the_round_counts(run, by_hand):
    """As in TFF's test: two tries, one round, one retry in its metrics."""
    should_retry_round, outputs = retries(True, False)
    told = []
    result = run(1, should_retry_round=should_retry_round, on_round=lambda round_: told.append(round_.number)).train()
    assert [record.metrics[NAME] for record in result.history.records] == [1]
    assert told == [1] and len(outputs) == 2 and result.state.round_num == 1
    assert all(isinstance(output, LearningProcessOutput) for output in outputs)
    assert_same_bits(result.state, by_hand([2]))


def test_a_retry_takes_the_next_clients_and_later_rounds_those_after_them(run, by_hand):
    should_retry_round, _ = retries(False, True, True, False, False, False)
    result = run(4, should_retry_round=should_retry_round, max_retries=2).train()
    assert [record.metrics[NAME] for record in result.history.records] == [0, 2, 0, 0]
    assert_same_bits(result.state, by_hand([1, 4, 5, 6]))


def test_a_round_that_is_always_asked_for_again_counts_with_a_warning(run, by_hand):
    with pytest.warns(UserWarning, match="round 1 counts although .* tried again 1 times, and max_retries=1") as warned:
        result = run(1, should_retry_round=lambda output: True).train()
    assert result.history.records[0].metrics[NAME] == 1 and warned[0].filename == __file__
    assert_same_bits(result.state, by_hand([2]))


def test_a_run_that_resumes_knows_the_retries_before(run, by_hand, tmp_path):
    checkpoints = Checkpoints(tmp_path, every=1)
    run(2, should_retry_round=retries(True)[0], checkpoints=checkpoints).train()
    state = run(3, checkpoints=checkpoints).train().state
    assert_same_bits(state, by_hand([2, 3, 4]))


def test_skipped_rounds_are_not_asked_about(run, twelve_clients):
    participants = participation(uniform_sampler(twelve_clients.client_ids, 4, key=KEY))

    def ask(number):
        return participants(number)._replace(ids=(), skipped=True) if number == 2 else participants(number)

    should_retry_round, outputs = retries()
    history = run(3, sampler=ask, should_retry_round=should_retry_round).train().history
    assert len(outputs) == 2 and [record.metrics[NAME] for record in history.records] == [0, 0, 0]


def test_without_the_function_there_is_no_metric(run):
    assert NAME not in run(1).train().history.records[0].metrics


def test_wrong_arguments_are_refused(run):
    with pytest.raises(TypeError, match=r"Run\(should_retry_round=\.\.\.\) must be a function .*; write lambda output"):
        run(1, should_retry_round=True)
    for wrong, error in [(-1, ValueError), (1.5, TypeError)]:
        with pytest.raises(error, match=r"Run\(max_retries=\.\.\.\) must be"):
            run(1, max_retries=wrong)
    spent = fc.privacy.accounting(noise_multiplier=1.0, delta=1e-3, sampling=fc.privacy.fixed_size(4, 12))
    with pytest.raises(ValueError, match="must not come with an accounting: a round that is given up"):
        run(1, should_retry_round=lambda output: False, accounting=spent)
    with pytest.raises(TypeError, match=r"must be a function that returns a bool, got None; write lambda"):
        run(1, should_retry_round=lambda output: None).train()
