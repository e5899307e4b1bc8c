"""Lanes, devices and virtual shards."""

import re

import jax
import numpy as np
import pytest

import fedjax_core as fc


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 5, 8, None])
def test_a_layout_has_as_many_virtual_shards_for_any_devices(devices):
    layout = fc.EngineConfig(devices=devices).resolve()
    assert layout.leaves == 16 and len(layout.devices) == (devices or 8) and layout.lanes == 1
    assert layout.devices == tuple(jax.devices()[: devices or 8])


@pytest.mark.parametrize(
    ("num_bytes", "devices", "leaves", "direct", "nodes"),
    [
        (4 * 2**20, 1, 16, False, 7),
        (4 * 2**20, 4, 16, False, 5),
        (4 * 2**20 + 1, 1, 8, False, 6),
        (4 * 2**20 + 1, 3, 8, False, 7),
        (256 * 2**20, 8, 8, False, 3),
        (256 * 2**20 + 1, 1, 1, True, 1),
        (256 * 2**20 + 1, 2, 2, True, 1),
        (256 * 2**20 + 1, 3, 4, False, 5),
    ],
)
def test_large_accumulators_have_fewer_virtual_shards(num_bytes, devices, leaves, direct, nodes):
    layout = fc.EngineConfig(devices=devices).resolve(num_bytes)
    assert (layout.leaves, layout.direct, layout.accumulator_bytes) == (leaves, direct, nodes * num_bytes)


@pytest.mark.parametrize("field", ["lanes", "devices", "memory_budget"])
def test_fields_are_positive_integers(field):
    for value in (1.0, "2", True):
        with pytest.raises(
            TypeError, match=rf"EngineConfig\({field}=...\) must be an integer of at least 1, got {value!r}"
        ):
            fc.EngineConfig(**{field: value})
    for value in (0, -1):
        with pytest.raises(
            ValueError,
            match=rf"EngineConfig\({field}=...\) must be an integer of at least 1, got {value}; leave it out",
        ):
            fc.EngineConfig(**{field: value})


def test_more_devices_than_there_are():
    match = r"EngineConfig\(devices=99\) asks for more devices than the 8 .*; on CPU call fc.use_all_cores\(99\)"
    with pytest.raises(ValueError, match=match):
        fc.EngineConfig(devices=99).resolve()


def mesh(devices, axes=("clients",)):
    return jax.sharding.Mesh(np.array(devices), axes)


def test_a_mesh_of_clients_says_which_devices_and_in_which_order():
    chosen = [jax.devices()[i] for i in (5, 2, 7)]
    config = fc.EngineConfig(devices=mesh(chosen))
    assert config.resolve().devices == tuple(chosen) and config.resolve().leaves == 16
    assert fc.EngineConfig(devices=jax.make_mesh((8,), ("clients",))).resolve() == fc.EngineConfig().resolve()
    assert hash(config) == hash(fc.EngineConfig(devices=mesh(chosen))) and config == fc.EngineConfig(
        devices=mesh(chosen)
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (6, 1, 3, 4)])
def test_a_mesh_gives_the_bits_of_as_many_devices(order):
    @fc.federated_computation(fc.at_server("float32"), fc.at_clients("float32"))
    def run(by, values):
        moved = fc.federated_map(lambda b, v: v / b, fc.federated_broadcast(by), values)
        return fc.federated_mean(moved), moved

    values = np.random.default_rng(0).normal(size=41).astype(np.float32)
    on_mesh = fc.EngineConfig(devices=mesh([jax.devices()[i] for i in order]))
    found, expected = (run.with_config(c)(3.0, values) for c in (on_mesh, fc.EngineConfig(devices=4)))
    assert found[0].devices() == {jax.devices()[order[0]]}
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_other_axes_are_refused():
    devices = jax.devices()
    for axes, of in [(("clients", "model"), np.reshape(devices[:4], (2, 2))), (("data",), devices), ((), devices[0])]:
        match = (
            rf"a mesh with the single axis 'clients', got the axes {re.escape(str(axes))}: .*mesh.devices.flatten\(\)"
        )
        with pytest.raises(ValueError, match=match):
            fc.EngineConfig(devices=mesh(of, axes))


@pytest.mark.parametrize("devices", [3, 5])
def test_devices_that_do_not_divide_eight(devices):
    @fc.federated_computation(fc.at_clients("int32"))
    def run(values):
        return fc.federated_sum(values), fc.federated_collect(values)

    for lanes in (1, 2):
        total, values = run.with_config(fc.EngineConfig(lanes=lanes, devices=devices))(list(range(11)))
        assert int(total) == 55 and values.tolist() == list(range(11))
