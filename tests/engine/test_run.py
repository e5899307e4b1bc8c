"""Where values are placed, and what a refused call leaves unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
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


def test_an_array_that_is_written_to_after_the_call_changes_no_result():
    """On CPU an aligned NumPy array is a device array's memory, unless it is copied."""
    memory = np.zeros(64 + 16 * 4, np.uint8)
    start = -memory.ctypes.data % 64
    weights = memory[start : start + 64].view(np.float32)
    given = fc.federated_computation(lambda w: (w, fc.federated_map(lambda w: w + 1, w)), fc.at_server("float32[16]"))
    kept, moved = given(weights)
    weights[:] = 7
    assert kept.tolist() == [0.0] * 16 and moved.tolist() == [1.0] * 16


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


def split(value, *axes, axis_types=None):
    mesh = jax.make_mesh((2, 2), ("clients", "model"), axis_types=axis_types)
    return jax.device_put(value, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))


@fc.federated_computation(fc.at_server({"w": "float32[4,2]", "b": "float32"}), fc.at_clients("float32"))
def scale(state, values):
    products = fc.federated_map(lambda s, v: s["w"] * v + s["b"], fc.federated_broadcast(state), values)
    return fc.federated_sum(products)


AXIS_TYPES = [(jax.sharding.AxisType.Auto,) * 2, (jax.sharding.AxisType.Explicit,) * 2]


@pytest.mark.parametrize("axis_types", AXIS_TYPES)
@pytest.mark.parametrize("axes", [("model",), (None, "clients"), (("clients", "model"),)])
def test_a_value_that_is_split_over_devices_is_refused(axes, axis_types):
    state = {"w": split(jnp.ones((4, 2)), *axes, axis_types=axis_types), "b": jnp.float32(1)}
    match = (
        r"argument 'state'\['w'\]: a value at SERVER must be whole on one device, got float32\[4,2\] split over 4 "
        r"devices \(NamedSharding.*\).*jax.device_put\(value, .*PartitionSpec\(\)\)"
    )
    with pytest.raises(ValueError, match=match):
        scale(state, [1.0, 2.0])
    assert scale(split(state, axis_types=axis_types), [1.0, 2.0]).tolist() == [[5.0, 5.0]] * 4


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("axis_types", AXIS_TYPES)
def test_a_value_that_is_whole_on_several_devices_is_taken(axis_types, devices):
    whole = split(jnp.ones((4, 2)), axis_types=axis_types)
    state = {"w": whole, "b": jax.device_put(jnp.float32(1), jax.devices()[5])}
    result = scale.with_config(fc.EngineConfig(devices=devices))(state, [1.0, 2.0])
    assert result.tolist() == [[5.0, 5.0]] * 4 and result.devices() == {jax.devices()[0]}


def test_a_function_keeps_the_sharding_of_its_arguments():
    state = {"w": split(jnp.ones((4, 2)), "model"), "b": jnp.float32(1)}
    result = jax.jit(scale.as_function())(state, jnp.array([1.0, 2.0]))
    assert result.tolist() == [[5.0, 5.0]] * 4 and result.sharding.is_equivalent_to(state["w"].sharding, 2)
