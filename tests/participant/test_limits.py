"""How a participant's effort is counted, with an injected clock."""

import pytest

from fedjax_core.participant._limits import EffortMeter, check_some_limit
from tests.clock import Clock


@pytest.mark.parametrize(
    "limits, steps",
    [({"n_steps": 1}, 1), ({"n_steps": 3}, 3), ({"timeout": 1.0}, 2), ({"timeout": 0.1}, 1), ({"timeout": 2}, 4)],
)
def test_the_step_that_reaches_a_limit_is_the_last(limits, steps):
    clock = Clock()
    meter = EffortMeter(clock, **limits)
    for _ in range(steps):
        assert not meter.is_spent
        clock.now += 0.5
        meter.count_step(7, None)
    assert meter.is_spent and meter.n_steps == steps and meter.n_examples == 7 * steps


def test_the_first_of_several_limits_counts():
    clock = Clock()
    meter = EffortMeter(clock, n_steps=10, timeout=1.0)
    meter.count_step(1, None)
    assert not meter.is_spent
    clock.now += 1
    meter.count_step(1, None)
    assert meter.is_spent and meter.t_spent == 1.0


def test_epochs_are_counted_where_they_begin():
    meter = EffortMeter(Clock(), n_epoch=2)
    for _ in range(2):
        assert meter.has_epochs_left
        meter.count_epoch()
    assert not meter.has_epochs_left and not meter.is_spent and meter.n_epoch == 2


def test_without_limits_it_only_counts():
    meter = EffortMeter(Clock())
    for _ in range(5):
        meter.count_epoch()
        meter.count_step(2, None)
    assert meter.has_epochs_left and not meter.is_spent and (meter.n_epoch, meter.n_steps) == (5, 5)


@pytest.mark.parametrize("name", ["n_epoch", "n_steps", "timeout"])
@pytest.mark.parametrize("limit", [0, -1])
def test_limits_are_positive(name, limit):
    with pytest.raises(ValueError, match=rf"the limit {name} must be .*, got {limit}; for no limit write {name}=None"):
        EffortMeter(Clock(), **{name: limit})


@pytest.mark.parametrize(
    "name, limit", [("n_epoch", 1.0), ("n_steps", True), ("n_steps", "3"), ("timeout", "3"), ("timeout", False)]
)
def test_limits_are_numbers(name, limit):
    with pytest.raises(TypeError, match=rf"the limit {name} must be .*got {limit!r}"):
        EffortMeter(Clock(), **{name: limit})


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -0.5])
def test_a_timeout_is_finite(timeout):
    with pytest.raises(ValueError, match="must be positive and finite"):
        EffortMeter(Clock(), timeout=timeout)


def test_no_limit_at_all_is_refused():
    check_some_limit(n_epoch=None, n_steps=None, timeout=0.5)
    with pytest.raises(ValueError, match="training needs a limit, got none of n_epoch, n_steps, timeout; for example"):
        check_some_limit(n_epoch=None, n_steps=None, timeout=None)
