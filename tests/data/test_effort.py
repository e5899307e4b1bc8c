"""Effort limits: the steps of a client that stops early, without a clock."""

from fractions import Fraction

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.data import Batching, Effort, FederatedData
from tests import learning_references as reference

KEY = jax.random.key(0)
limits = st.none() | st.integers(1, 30)


def steps_of(size, batch_size, num_epochs, max_steps, max_seconds, speed) -> int:
    """Trains batch by batch; steps and seconds are checked after every step."""
    steps, streamed = 0, 0
    while size and (num_epochs is None or streamed < size * num_epochs):
        steps, streamed = steps + 1, streamed + batch_size
        if max_steps is not None and steps >= max_steps:
            break
        if max_seconds is not None and Fraction(steps) / speed >= max_seconds:
            break
    return steps


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(1, 7), limits, limits, limits, st.data())
def test_whichever_limit_saturates_first_ends_it(sizes, batch_size, num_epochs, max_steps, tenths, draw):
    if num_epochs is max_steps is tenths is None:
        max_steps = 1
    speeds = [Fraction(draw.draw(st.integers(1, 200)), 10) for _ in sizes]
    seconds = None if tenths is None else Fraction(tenths, 10)
    effort = Effort(num_epochs, max_steps, None if tenths is None else tenths / 10)
    batching = Batching(batch_size, num_epochs)
    steps = effort.num_steps(sizes, batching, [float(s) for s in speeds])
    assert steps.dtype == np.int64
    assert steps.tolist() == [steps_of(n, batch_size, num_epochs, max_steps, seconds, s) for n, s in zip(sizes, speeds)]


def test_the_batching_may_have_an_end_of_its_own():
    effort = Effort(max_steps=5)
    assert effort.num_steps([10, 1000], Batching(10)).tolist() == [1, 5]
    assert effort.num_steps([10, 1000], Batching(10, num_epochs=None)).tolist() == [5, 5]
    assert Effort(max_seconds=1e30).num_steps([10], Batching(10, num_epochs=None), 1e30).tolist() == [2**31 - 1]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({}, ValueError, r"Effort\(\) sets no limit, .*for example Effort\(max_epochs=1\)"),
        ({"max_epochs": 0}, ValueError, r"max_epochs=...\) must be an integer of at least 1, got 0"),
        (
            {"max_steps": -1},
            ValueError,
            r"max_steps=...\) must be an integer of at least 1, got -1; write max_steps=100",
        ),
        ({"max_seconds": 0.0}, ValueError, r"max_seconds=...\) must be positive and finite, got 0.0"),
        ({"max_seconds": np.inf}, ValueError, "got inf; .* or leave it out if there is another limit"),
        ({"max_seconds": np.nan}, ValueError, "got nan"),
        ({"max_steps": 1.0}, TypeError, r"max_steps=...\) must be an integer of at least 1, got 1.0"),
        ({"max_epochs": True}, TypeError, r"max_epochs=...\) must be an integer of at least 1, got True"),
        ({"max_seconds": "1"}, TypeError, r"max_seconds=...\) must be positive and finite, got '1'"),
    ],
)
def test_wrong_limits_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Effort(**arguments)


def test_a_limit_of_another_number_type_is_a_python_number():
    effort = Effort(np.int32(2), np.int64(3), np.float32(0.5))
    assert effort == Effort(2, 3, 0.5) and type(effort.max_steps) is int and type(effort.max_seconds) is float


@pytest.mark.parametrize(
    "effort, batching, speed, error, message",
    [
        (Effort(max_epochs=5), Batching(20), None, ValueError, r"use Batching\(batch_size=20, num_epochs=5\)"),
        (Effort(max_seconds=5), Batching(20), None, ValueError, "needs the clients' speed, got none"),
        (Effort(max_seconds=5), Batching(20), [1.0, 0.0], ValueError, "steps_per_second must be positive and finite"),
        (Effort(max_steps=5), 20, None, TypeError, "an effort needs a Batching, got 20; use Batching"),
    ],
)
def test_what_does_not_fit_is_refused(effort, batching, speed, error, message):
    with pytest.raises(error, match=message):
        effort.num_steps([10, 20], batching, speed)


SIZES = (7, 4, 1, 0, 11)
CLIENTS = reference.make_clients(SIZES)
DATA = FederatedData.from_clients(CLIENTS)


def rows_of(cohort) -> list[np.ndarray]:
    sequences = cohort.value
    rows = sequences.batch_rows(np.arange(len(cohort)))
    return np.split(rows, np.cumsum(sequences.num_steps)[:-1])


@pytest.mark.parametrize(
    "batching",
    [Batching(3, 2), Batching(3, 2, shuffle=True), Batching(3, 2, shuffle=True, buffer_size=4)],
)
@pytest.mark.parametrize("max_steps", [0, 2, [1, 2, 0, 5, 100]])
def test_a_limited_client_takes_its_first_batches(batching, max_steps):
    whole = rows_of(DATA.cohort(DATA.client_ids, batching, key=KEY))
    limited = rows_of(DATA.cohort(DATA.client_ids, batching, key=KEY, max_steps=max_steps))
    for a, b, most in zip(whole, limited, np.broadcast_to(max_steps, 5), strict=True):
        np.testing.assert_array_equal(a[:most], b)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_without_epochs_only_the_limits_end(shuffle, drop_remainder):
    batching = Batching(3, None, shuffle, drop_remainder=drop_remainder)
    steps = [5, 1, 4, 2, 0]
    for size, most, rows in zip(
        SIZES, steps, rows_of(DATA.cohort(DATA.client_ids, batching, key=KEY, max_steps=steps)), strict=True
    ):
        assert rows.shape == (most if size else 0, 3) and (rows >= 0).all()
        counts = np.bincount(rows.ravel(), minlength=size)
        assert len(counts) == size and (counts <= -(-most * 3 // max(size, 1))).all()
        if not shuffle:
            np.testing.assert_array_equal(rows.ravel(), np.arange(rows.size) % max(size, 1))


def test_a_client_that_occurs_twice_has_two_limits():
    once, again = rows_of(DATA.cohort(["a", "a"], Batching(2), max_steps=np.array([1, 3], np.int32)))
    assert once.tolist() == [[0, 1]] and again.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "batching, max_steps, error, message",
    [
        (Batching(3), 1.5, TypeError, r"max_steps=...\) must be an integer or one integer per client, got 1.5"),
        (Batching(3), [1, 2], ValueError, r"got the shape \(2,\) for 5 clients"),
        (Batching(3), -1, ValueError, r"max_steps=...\) must be at least 0, got -1"),
        (Batching(3, None), None, ValueError, "endlessly and needs a step limit, .* or set num_epochs"),
    ],
)
def test_wrong_step_limits_are_refused(batching, max_steps, error, message):
    with pytest.raises(error, match=message):
        DATA.cohort(DATA.client_ids, batching, max_steps=max_steps)


@pytest.fixture(scope="module")
def process():
    return fc.algorithms.fed_avg(reference.linear_model(), optax.sgd(0.3, momentum=0.9), key=KEY)


@pytest.mark.slow
def test_a_limited_round_is_that_of_clients_with_as_many_examples(process):
    limits = np.array([2, 1, 3, 1, 0])
    limited = process.next(process.initialize(), DATA.cohort(DATA.client_ids, Batching(3), max_steps=limits))
    shorter = {i: jax.tree.map(lambda x, n=3 * n: x[:n], CLIENTS[i]) for i, n in zip(CLIENTS, limits.tolist())}
    reference.assert_same_bits(limited, process.next(process.initialize(), reference.cohort(shorter, batch_size=3)))


def test_weights_count_the_examples_processed(process):
    endless = Batching(3, None)
    cohort = DATA.cohort(DATA.client_ids, endless, max_steps=Effort(max_steps=3).num_steps(DATA.sizes, endless))
    state, metrics = process.next(process.initialize(), cohort)
    processed = {i: reference.batches(CLIENTS[i], 3, 20)[:3] for i, n in zip(CLIENTS, SIZES) if n}
    streams = {i: {f: np.concatenate([b[f] for b in bs]) for f in "xy"} for i, bs in processed.items()}
    weights = reference.as_float64(process.initialize().weights)
    update, expected = reference.fed_avg_update(weights, streams, reference.SGD(0.3, momentum=0.9), 3, 1)
    reference.assert_close(state.weights, jax.tree.map(np.subtract, weights, update))
    train = metrics["client_work"]["train"]
    reference.assert_close({name: train[name] for name in expected}, expected)
    assert metrics["aggregator"]["mean_weight"]["total"] == 4 * 9.0
