"""Lanes, devices and virtual shards."""

import jax
import pytest

import fedjax_core as fc


@pytest.mark.parametrize(("devices", "shards"), [(1, 8), (2, 8), (3, 9), (4, 8), (5, 10), (8, 8), (None, 8)])
def test_shards_are_a_multiple_of_the_devices(devices, shards):
    layout = fc.EngineConfig(devices=devices).resolve()
    assert layout.shards == shards and len(layout.devices) == (devices or 8) and layout.lanes == 1
    assert layout.devices == tuple(jax.devices()[: devices or 8])


@pytest.mark.parametrize("field", ["lanes", "devices", "memory_budget"])
def test_fields_are_positive_integers(field):
    for value in (1.0, "2", True):
        with pytest.raises(TypeError, match=rf"EngineConfig\({field}=...\) is an integer.* or None, got {value!r}"):
            fc.EngineConfig(**{field: value})
    for value in (0, -1):
        with pytest.raises(ValueError, match=rf"EngineConfig\({field}=...\) is positive, got {value}; leave it out"):
            fc.EngineConfig(**{field: value})


def test_more_devices_than_there_are():
    match = r"EngineConfig\(devices=99\) where JAX shows 8; on CPU call fc.use_all_cores\(99\)"
    with pytest.raises(ValueError, match=match):
        fc.EngineConfig(devices=99).resolve()


@pytest.mark.parametrize("devices", [3, 5])
def test_devices_that_do_not_divide_eight(devices):
    @fc.federated_computation(fc.at_clients("int32"))
    def run(values):
        return fc.federated_sum(values), fc.federated_collect(values)

    for lanes in (1, 2):
        total, values = run.with_config(fc.EngineConfig(lanes=lanes, devices=devices))(list(range(11)))
        assert int(total) == 55 and values.tolist() == list(range(11))
