"""Virtual clients, and rounds over many of them."""

import json

import numpy as np
import pytest
import scale
import workloads

import fedjax_core as fc


def test_virtual_clients_share_the_stored_ones(data):
    workload = workloads.load("W1", data)
    clients = fc.data.FederatedData(range(30), scale.VirtualClients(workload, 30))
    stored = workloads.federated_data(workload)
    np.testing.assert_array_equal(clients[29]["x"], stored[29 % 12]["x"])
    assert clients.sizes[25] == stored.sizes[1]
    assert np.shares_memory(clients[29]["x"], workload.arrays["x"])


def test_virtual_clients_are_read_one_after_another(data):
    source = scale.VirtualClients(workloads.load("W1", data), 30)
    chosen = np.array([14, 2, 29])
    number = int(source.sizes[chosen].sum())
    out = {"x": np.zeros((number, 784), np.float32), "y": np.zeros(number, np.int32)}
    source.read(chosen, out)
    for name, array in out.items():
        np.testing.assert_array_equal(array, np.concatenate([source.examples(c)[name] for c in chosen.tolist()]))


def test_anonymous_memory_grows_by_what_is_filled():
    with scale.PeakMemory(seconds=0.001) as memory:
        before = scale.anonymous_memory()
        filled = np.ones(2**23)
    if before:
        assert memory.peak >= before + 0.9 * filled.nbytes


@pytest.mark.slow
def test_a_sweep_prints_what_it_measured(data, capsys):
    arguments = ["--data", str(data), "--sweeps", "clients", "--clients", "5,15", "--rounds", "1", "--devices", "1"]
    scale.main(arguments)
    printed = json.loads(capsys.readouterr().out)
    assert "cpu" in printed["machine"]
    measured = printed["clients"]
    assert [m["clients"] for m in measured] == [5, 15]
    assert all(m["anonymous_bytes_peak"] >= m["anonymous_bytes_before"] for m in measured)
