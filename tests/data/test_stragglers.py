"""Fast and slow clients: their steps, their reporting times, and the clients that a round waits for."""

import jax
import numpy as np
import pytest

from fedjax_core.data import (
    Batching,
    Effort,
    FederatedData,
    deadline,
    first_to_report,
    fixed_cohorts,
    local_effort,
    lognormal_speeds,
    minimum_reports,
    participation,
)

KEY = jax.random.key(0)
SIZES = {"ada": 100, "bob": 40, "eve": 0, "kim": 95}
DATA = FederatedData.from_clients({i: {"x": np.zeros(n, np.float32)} for i, n in SIZES.items()})
EVERYONE = fixed_cohorts([DATA.client_ids])
ONCE = Batching(10)


def of_round(*stages, round_num=1, sampler=EVERYONE):
    return participation(sampler, *stages)(round_num)


def test_a_slow_client_takes_fewer_steps():
    speeds = {"ada": 0.5, "bob": 3.0, "eve": 1.0, "kim": 0.01}
    present = of_round(local_effort(Effort(max_seconds=5.0), DATA, ONCE, steps_per_second=speeds))
    assert present.max_steps.tolist() == [3, 4, 0, 1]
    np.testing.assert_allclose(present.seconds, [6.0, 4 / 3, 0.0, 100.0])


def test_speeds_in_examples_are_speeds_in_batches():
    efforts = Effort(max_seconds=4.0, max_steps=5), DATA, ONCE
    steps = of_round(local_effort(*efforts, steps_per_second=0.9))
    examples = of_round(local_effort(*efforts, examples_per_second=9.0))
    assert steps.max_steps.tolist() == examples.max_steps.tolist() == [4, 4, 0, 4]
    np.testing.assert_allclose(steps.seconds, examples.seconds)


def test_without_a_speed_everyone_reports_at_once():
    present = of_round(local_effort(Effort(max_steps=3), DATA, Batching(10, None)))
    assert present.max_steps.tolist() == [3, 3, 0, 3] and present.seconds is None
    assert of_round(first_to_report(2), minimum_reports(2)).ids == ("ada", "bob")


def test_a_speed_may_change_with_the_round():
    effort = local_effort(Effort(max_epochs=1), DATA, ONCE, steps_per_second=lambda r, ids: r + np.arange(len(ids)))
    assert of_round(effort, round_num=2, sampler=lambda r: ["kim", "ada"]).seconds.tolist() == [10 / 2, 10 / 3]


def test_who_is_late_is_lost():
    effort = local_effort(Effort(max_epochs=1), DATA, ONCE, steps_per_second=1.0)
    present = of_round(effort, deadline(9.9))
    assert present.ids == ("bob", "eve") and present.lost["late"] == 2 and present.max_steps.tolist() == [4, 0]
    assert of_round(effort, deadline(10)).lost["late"] == 0


def test_a_deadline_without_a_speed_is_refused_in_the_first_round():
    """Without a speed nobody would ever be late."""
    timed = local_effort(Effort(max_epochs=1), DATA, ONCE, steps_per_second=1.0)
    untimed = local_effort(Effort(max_epochs=1), DATA, ONCE)
    for stages in ([deadline(9)], [untimed, deadline(9)], [deadline(9), timed]):
        with pytest.raises(ValueError, match=r"deadline\(9\) needs to know when clients report.*; put local_effort"):
            of_round(*stages)


def test_the_first_to_report_are_kept_in_the_order_asked():
    effort = local_effort(Effort(max_epochs=1), DATA, ONCE, steps_per_second={"ada": 9, "bob": 1, "eve": 1, "kim": 9})
    for number, kept in ((0, ()), (1, ("eve",)), (2, ("ada", "eve")), (3, ("ada", "eve", "kim")), (9, tuple(SIZES))):
        present = of_round(effort, first_to_report(number))
        assert present.ids == kept and present.lost["surplus"] == 4 - len(kept)
    assert of_round(first_to_report(2)).ids == ("ada", "bob")


def test_too_few_reports_skip_the_round():
    assert of_round(minimum_reports(4)).ids == tuple(SIZES) and not of_round(minimum_reports(4)).skipped
    present = of_round(first_to_report(3), minimum_reports(4))
    assert present.skipped and present.ids == () and present.reported == 3
    assert present.metrics()["skipped"] == 1 and present.lost["surplus"] == 1


def test_speeds_are_lognormal_and_lasting():
    ids = tuple(range(20_000))
    speeds = lognormal_speeds(4.0, 0.5, key=KEY)
    logarithm = (np.log(speeds(1, ids)) - np.log(4.0)) / 0.5
    ordered = np.sort(logarithm)
    expected = np.array([-2.3263, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 2.3263])
    shares = np.searchsorted(ordered, expected) / 20_000
    np.testing.assert_allclose(shares, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99], atol=4 * 0.5 / np.sqrt(20_000))
    np.testing.assert_array_equal(speeds(7, ids[5:9]), speeds(1, ids)[5:9])
    assert (speeds(1, ids[:9]) != lognormal_speeds(4.0, 0.5, key=jax.random.key(1))(1, ids[:9])).all()


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: local_effort(5, DATA, ONCE), TypeError, r"takes an Effort, got 5; for example Effort\(max_seconds"),
        (lambda: local_effort(Effort(1), {}, ONCE), TypeError, "takes the FederatedData of the clients, got dict"),
        (lambda: local_effort(Effort(2), DATA, ONCE), ValueError, r"use Batching\(batch_size=10, num_epochs=2\)"),
        (lambda: local_effort(Effort(max_seconds=1), DATA, ONCE), ValueError, "needs the clients' speed, got none"),
        (
            lambda: local_effort(Effort(1), DATA, ONCE, steps_per_second=1, examples_per_second=1),
            ValueError,
            "takes one speed, got steps_per_second and examples_per_second",
        ),
        (lambda: local_effort(Effort(1), DATA, ONCE, steps_per_second=0), ValueError, "must be positive and finite"),
        (lambda: lognormal_speeds(0, 0.5, key=KEY), ValueError, r"median=...\) must be positive and finite, got 0"),
        (lambda: lognormal_speeds(1, -0.5, key=KEY), ValueError, r"sigma=...\) must be at least 0 and finite"),
        (
            lambda: lognormal_speeds("fast", 0.5, key=KEY),
            TypeError,
            r"median=...\) must be positive and finite, got 'fast'",
        ),
        (lambda: lognormal_speeds(1, None, key=KEY), TypeError, r"sigma=...\) must be at least 0 and finite, got None"),
        (lambda: deadline("60"), TypeError, r"deadline\(seconds=...\) must be positive and finite, got '60'"),
        (lambda: deadline(0), ValueError, r"deadline\(seconds=...\) must be positive and finite, got 0"),
        (
            lambda: first_to_report(-1),
            ValueError,
            r"first_to_report\(num_clients=...\) must be an integer of at least 0",
        ),
        (
            lambda: minimum_reports(1.5),
            TypeError,
            r"minimum_reports\(num_clients=...\) must be an integer of at least 0, got 1.5",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
