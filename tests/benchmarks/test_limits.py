"""The hand-written programs compute what the models do."""

import json

import jax
import jax.numpy as jnp
import limits
import numpy as np
import pytest
import workloads


@pytest.mark.parametrize("name", ["W1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("W2", "W3"))])
def test_a_hand_written_step_is_a_step_of_the_model(data, name):
    workload = workloads.load(name, data)
    model, rate = workloads.model(workload), workload.learning_rate
    count = 3
    batch = {k: jnp.asarray(a[: workload.batch_size]) for k, a in workload.arrays.items()}
    scale = jnp.where(jnp.arange(workload.batch_size) < count, 1 / count, 0)
    initial = jax.tree.map(jnp.asarray, workload.initial)

    def loss(weights):
        return jnp.sum(model.loss(model.predict(weights, batch), batch) * scale)

    expected = jax.tree.map(lambda w, g: w - rate * g, initial, jax.grad(loss)(initial))
    turn = limits.TURNS.get(name, lambda weights: weights)
    step = jax.jit(limits.STEPS[name], static_argnums=4)
    written = turn(step(turn(initial), batch["x"], batch["y"], scale, rate))
    assert workloads.difference(written, expected, initial) < 1e-5


@pytest.mark.parametrize("ahead", [False, True])
def test_two_rounds_of_w1_are_the_reference(data, ahead):
    workload = workloads.load("W1", data)
    program = limits.HandWritten(workload, devices=1, buffers=1 + ahead)
    weights = jax.tree.map(jnp.asarray, workload.initial)
    for cohort in workload.cohorts[:2]:
        weights = program(weights, cohort)
    assert workloads.difference(weights, workloads.load_reference(data), workload.initial) < 1e-5


@pytest.mark.parametrize("ahead", [False, True])
def test_the_rounds_are_measured(data, ahead):
    measured = limits.measure(workloads.load("W1", data), rounds=3, devices=1, ahead=ahead)
    assert measured["rounds"] == 3
    assert 0 < measured["best_s"] <= measured["median_s"]


def test_buffers_are_aligned():
    array = limits._aligned_zeros((3, 5), np.int32)
    assert array.ctypes.data % 64 == 0
    assert array.shape == (3, 5)


@pytest.mark.slow
def test_the_rates_of_the_machine_are_printed(data, capsys, monkeypatch):
    monkeypatch.setattr(limits, "use_devices", lambda devices: devices)  # JAX is in use
    limits.main(["--data", str(data), "--workloads", "W1", "--rounds", "1", "--devices", "1"])
    printed = json.loads(capsys.readouterr().out)
    assert "cpu" in printed["machine"] and printed["W1"]["rounds"] == 1
    assert {"gemm_4096_gflops", "copy_read_and_written_gb_s"} <= set(printed["rates"])
    assert all(rate > 0 for rate in printed["rates"].values())
