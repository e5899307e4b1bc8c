"""The workloads' data and their models."""

import jax
import numpy as np
import pytest
import workloads


def test_the_data_are_those_of_every_machine(data):
    meta = np.load(data / "meta.npz")
    assert meta["off"].tolist()[:4] == [0, 209, 400, 650]
    assert np.load(data / "x.npy", mmap_mode="r").shape == (meta["off"][-1], 784)


@pytest.mark.parametrize("name", workloads.NAMES)
def test_a_workload_is_what_its_model_takes(data, name):
    workload = workloads.load(name, data)
    clients = workloads.federated_data(workload)
    model = workloads.model(workload)
    assert str(clients.element_type) == str(model.batch_type)
    assert clients.sizes.tolist() == workload.sizes.tolist()
    weights = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.structure(weights) == jax.tree.structure(workload.initial)
    jax.tree.map(lambda w, i: np.testing.assert_equal(w.shape, i.shape), weights, workload.initial)


def test_examples_stay_in_their_memory_map(data):
    workload = workloads.load("W1", data)
    clients = workloads.federated_data(workload)
    assert np.shares_memory(clients[3]["x"], workload.arrays["x"])


def test_an_unknown_workload_is_named(data):
    with pytest.raises(ValueError, match="W5"):
        workloads.load("W5", data)


def test_the_difference_is_relative_to_what_was_learned():
    initial, weights, other = {"w": np.ones(2)}, {"w": np.array([1.0, 2.5])}, {"w": np.array([1.0, 3.0])}
    assert workloads.difference(weights, other, initial) == 0.25
