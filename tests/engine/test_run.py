"""Where values are, and what a refused call leaves behind."""

import jax
import jax.numpy as jnp
import pytest

import fedjax_core as fc


@fc.federated_computation(fc.at_server("float32"), fc.at_clients("float32"))
def shift(by, values):
    moved = fc.federated_map(lambda b, v: v + b, fc.federated_broadcast(by), values)
    return fc.federated_sum(moved), moved


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_results_are_on_the_first_device(devices):
    total, moved = shift.with_config(fc.EngineConfig(devices=devices))(1.0, [1.0, 2.0, 3.0])
    assert total.devices() == moved.devices() == {jax.devices()[0]}
    assert float(total) == 9.0
    assert moved.tolist() == [2.0, 3.0, 4.0]


def test_arguments_may_be_on_another_device():
    by = jax.device_put(jnp.float32(1), jax.devices()[3])
    assert float(shift.with_config(fc.EngineConfig(devices=2))(by, [1.0])[0]) == 2.0


def test_results_can_be_arguments_again():
    total, moved = shift(1.0, [1.0, 2.0])
    assert float(shift(total, moved)[0]) == 5.0 + 2 * 5.0


def test_a_refused_call_says_how_many_clients_broke_the_rule_and_the_next_one_runs():
    @fc.federated_computation(fc.at_clients("int32"))
    def votes(ballots):
        return fc.federated_secure_sum(ballots, 1)

    with pytest.raises(ValueError, match=r"2 clients hold an entry outside 0\.\.1"):
        votes([1, 2, 0, -1])
    assert int(votes([1, 1, 0])) == 2
