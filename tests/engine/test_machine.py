"""One CPU device per core, and the warning where there is one for many."""

import os
import subprocess
import sys
import types
import warnings

import jax
import pytest

import fedjax_core as fc
from fedjax_core.engine import _machine
from fedjax_core.engine._machine import available_cores, warn_if_cores_idle


@pytest.fixture
def nothing_chosen(monkeypatch):
    """JAX is in use with the eight devices of the tests, and nobody has set their number."""
    assert len(jax.devices()) == 8
    monkeypatch.delenv("XLA_FLAGS")


def _in_a_new_process(program: str, **environment) -> str:
    """What a program prints in the environment of a user, who has set no number of devices."""
    mine = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    program = "import os, warnings, jax, fedjax_core as fc\nwarnings.simplefilter('error')\n" + program
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env={**mine, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_one_device_per_core():
    program = "n = fc.use_all_cores(); print(n, len(jax.devices()), fc.use_all_cores())"
    assert _in_a_new_process(program) == f"{available_cores()} {available_cores()} {available_cores()}"


def test_as_many_as_asked_for_and_then_nothing_to_warn_of():
    program = """
from fedjax_core.engine import _machine
n = fc.use_all_cores(1)
_machine.available_cores = lambda: 3
_machine.warn_if_cores_idle(tuple(jax.devices()))
print(n, len(jax.devices()), fc.use_all_cores())
"""
    assert _in_a_new_process(program) == "1 1 1"


@pytest.mark.parametrize(
    ("before", "config", "warned"),
    [("", "", 1), ("", "devices=1", 0), ("fc.use_all_cores()", "", 0)],
)
def test_a_program_on_one_of_several_cores_warns_once(before, config, warned):
    program = f"""
from fedjax_core.engine import _machine
_machine.available_cores = lambda: 3
{before}
@fc.federated_computation(fc.at_clients("float32"))
def total(values):
    return fc.federated_sum(values)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for run in (total.with_config(fc.EngineConfig({config})), total.with_config(fc.EngineConfig(lanes=3, {config}))):
        assert [float(run([1.0] * n)) for n in (2, 3, 40)] == [2, 3, 40]
print([str(w.message)[:28] for w in caught])
"""
    assert _in_a_new_process(program) == str(warned * ["the clients run on 1 CPU dev"])


@pytest.mark.parametrize(
    "environment", [{"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, {"JAX_NUM_CPU_DEVICES": "5"}]
)
def test_a_number_that_was_set_stays(environment):
    assert _in_a_new_process("print(fc.use_all_cores(3), len(jax.devices()))", **environment) == "5 5"


def test_it_does_not_put_jax_to_use():
    program = "fc.use_all_cores(3); jax.config.update('jax_num_cpu_devices', 2); print(len(jax.devices()))"
    assert _in_a_new_process(program) == "2"


def test_the_last_flag_counts_as_it_does_in_xla(monkeypatch):
    flag = "--xla_force_host_platform_device_count"
    monkeypatch.setenv("XLA_FLAGS", f"{flag}=3 --xla_dump_to=/tmp {flag}=4")
    assert fc.use_all_cores() == 4


@pytest.mark.usefixtures("nothing_chosen")
def test_too_late():
    message = r"in use with 8 CPU devices, not 9; write fc.use_all_cores\(9\) right after the imports"
    with pytest.raises(RuntimeError, match=message):
        fc.use_all_cores(9)


@pytest.mark.usefixtures("nothing_chosen")
def test_too_late_for_one_per_core(monkeypatch):
    monkeypatch.setattr(_machine, "available_cores", lambda: 96)
    with pytest.raises(RuntimeError, match=r"write fc.use_all_cores\(\) right"):
        fc.use_all_cores()


@pytest.mark.usefixtures("nothing_chosen")
def test_late_but_there_are_enough():
    assert fc.use_all_cores(8) == 8
    assert fc.use_all_cores(2) == 8


@pytest.mark.usefixtures("nothing_chosen")
def test_nothing_changes_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform="gpu")])
    assert fc.use_all_cores(4) == 1


@pytest.mark.parametrize("value", [1.0, "2", True])
def test_devices_is_an_integer(value):
    with pytest.raises(
        TypeError, match=rf"use_all_cores\(devices=...\) must be an integer of at least 1, got {value!r}"
    ):
        fc.use_all_cores(value)


@pytest.mark.parametrize("value", [0, -1])
def test_devices_is_positive(value):
    with pytest.raises(
        ValueError, match=rf"must be an integer of at least 1, got {value}; leave it out for one per core"
    ):
        fc.use_all_cores(value)


@pytest.fixture
def one_of_many_cores(monkeypatch, nothing_chosen):
    """JAX shows one CPU device of a machine with four cores; returns where the clients run."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(_machine, "available_cores", lambda: 4)
    _machine._warn_once.cache_clear()
    yield tuple(devices)
    _machine._warn_once.cache_clear()


def warned(devices: tuple) -> list[str]:
    """The warnings about clients that run on these devices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_cores_idle(devices)
    return [str(warning.message) for warning in caught]


def test_warns_once(one_of_many_cores):
    (message,) = warned(one_of_many_cores)
    assert "1 CPU device of a machine with 4 cores; " in message and "write fc.use_all_cores() right" in message
    assert warned(one_of_many_cores) == []


def test_silent_on_a_machine_with_one_core(monkeypatch, one_of_many_cores):
    monkeypatch.setattr(_machine, "available_cores", lambda: 1)
    assert warned(one_of_many_cores) == []


def test_silent_where_the_number_was_set(monkeypatch, one_of_many_cores):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    assert warned(one_of_many_cores) == []


def test_silent_where_more_devices_are_shown(monkeypatch, one_of_many_cores):
    monkeypatch.setattr(jax, "devices", lambda: 2 * list(one_of_many_cores))
    assert warned(one_of_many_cores) == []
    assert warned(2 * one_of_many_cores) == []


def test_silent_on_an_accelerator(one_of_many_cores):
    assert warned((types.SimpleNamespace(platform="gpu"),)) == []


def test_silent_in_one_of_several_processes(monkeypatch, one_of_many_cores):
    monkeypatch.setattr(jax, "devices", lambda: [one_of_many_cores[0], types.SimpleNamespace(platform="cpu")])
    assert warned(one_of_many_cores) == []
