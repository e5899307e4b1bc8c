"""Sums of integers: exact or refused, whatever the lanes, devices and waves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.computations import CheckedResult
from fedjax_core.language import sums

LARGEST = 2**31 - 1


def computation(operator, type_="int32"):
    return fc.federated_computation(operator, fc.at_clients(type_))


SUM = computation(fc.federated_sum, "int32[2]")
UNSIGNED = computation(fc.federated_sum, "uint32")
WORDS = computation(sums.word_sum, "int32")
entries = st.integers(-(2**31), LARGEST)
CONFIGS = [{"lanes": 1}, {"lanes": 8}, {"lanes": 2, "devices": 2}, {"lanes": 2, "memory_budget": 200}]


@settings(max_examples=25)
@given(st.lists(st.tuples(entries, st.integers(-9, 9)), min_size=7, max_size=7))
@example([(LARGEST, 0)] + [(0, 0)] * 6)
@example([(LARGEST, 0)] * 7)
@example([(-(2**31), 0)] + [(0, 0)] * 6)
@example([(-(2**30), -(2**30))] * 4 + [(0, 0)] * 3)
@example([(LARGEST, 0), (-LARGEST, 0)] * 3 + [(5, 1)])
def test_a_sum_is_exact_or_refused(clients):
    exact = np.array(clients, np.int64).sum(0)
    values = np.array(clients, np.int32)
    np.testing.assert_array_equal(SUM.as_function()(values), exact.astype(np.int32))
    if (np.abs(exact + 0.5) < 2**31).all():
        np.testing.assert_array_equal(SUM(values), exact)
    else:
        with pytest.raises(ValueError, match=r"federated_sum at .*_sums.py:\d+: the sum of 1 fields does not fit"):
            SUM(values)


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_lanes_devices_and_waves_change_nothing(options):
    config = fc.EngineConfig(**options)
    values = np.random.default_rng(0).integers(-(2**31), LARGEST, 101, np.int32)
    words = WORDS.with_config(config)(values)
    assert int(words.high) * 2**32 + int(words.low) == values.sum(dtype=np.int64)
    assert int(UNSIGNED.with_config(config)(np.full(100, 42_949_672, np.uint32))) == 4_294_967_200
    with pytest.raises(ValueError, match="does not fit"):
        UNSIGNED.with_config(config)(np.full(101, 42_949_672, np.uint32))


@pytest.mark.parametrize(("dtype", "wide"), [("int8", "int32"), ("uint16", "uint32"), ("int16", "int32")])
def test_small_integers_are_summed_in_32_bits(dtype, wide):
    run = computation(fc.federated_sum, dtype)
    for found in (run(np.ones(300, dtype)), run.as_function()(np.full(300, 1, dtype))):
        assert int(found) == 300 and found.dtype == wide
    assert str(run.type_signature) == f"({{{dtype}}}@CLIENTS -> {wide}@SERVER)"


def test_only_the_integers_of_a_struct_are_checked():
    run = computation(fc.federated_sum, {"a": "int32", "b": "float32", "c": "int32[2]"})
    fine = {"a": np.int32(1), "b": np.float32(2**31), "c": np.ones(2, np.int32)}
    assert float(run([fine] * 3)["b"]) == 3.0 * 2**31
    with pytest.raises(ValueError, match=r"the sum of 2 fields does not fit their dtype; convert .*astype\("):
        run([{"a": LARGEST, "b": 0.0, "c": [LARGEST, LARGEST]}] * 2)


def test_the_type_of_as_function_does_not_change_with_integers():
    run = computation(fc.federated_sum)
    assert int(run.as_function()(jnp.array([LARGEST, 1]))) == -(2**31)
    both = computation(lambda v: (fc.federated_sum(v), fc.federated_secure_sum(v, LARGEST)))
    found = both.as_function()(jnp.array([LARGEST, 1]))
    assert isinstance(found, CheckedResult) and int(found.num_refused) == 2


def test_no_call_waits_for_a_sum_of_floats_or_of_counts():
    @fc.federated_computation(fc.at_clients("float32"))
    def program(values):
        flags = fc.federated_map(lambda v: (v > 0).astype("int32"), values)
        return fc.federated_sum(values), sums.count_sum((flags, values)), sums.word_sum(flags)

    assert not program._body._executable.plan.checks  # what makes a call wait
    total, (count, _), words = program([1.0, -1.0, 2.0])
    assert (float(total), int(count), int(words.low)) == (2.0, 2, 2)


def test_counts_have_at_least_32_bits():
    with pytest.raises(TypeError, match="count_sum takes floats, and integers of 32 or 64 bits, got"):
        computation(sums.count_sum, "int8")


def test_a_check_survives_inlining():
    inner = computation(fc.federated_sum, "int32[?]")
    outer = computation(lambda v: fc.federated_map(jnp.sum, inner(v)), "int32[2]")
    assert int(outer([[1, 2], [3, 4]])) == 10
    with pytest.raises(ValueError, match=r"federated_sum at .* does not fit"):
        outer([[LARGEST, 0], [1, 0]])


def test_gradients_pass_by_the_sums_of_integers():
    @fc.federated_computation(fc.at_server("float32"), fc.at_clients({"x": "float32", "n": "int32"}))
    def mean(scale, clients):
        total = fc.federated_sum(clients)
        return fc.federated_map(lambda s, t: s * t["x"] / t["n"], scale, total)

    clients = {"x": jnp.array([1.0, 5.0]), "n": jnp.array([1, 2], jnp.int32)}
    assert float(jax.grad(mean.as_function())(2.0, clients)) == 2.0
    slope = jax.grad(lambda x: mean.as_function()(2.0, clients | {"x": x}))(clients["x"])
    np.testing.assert_allclose(slope, 2 / 3)


def test_integers_of_64_bits():
    with jax.enable_x64(True):
        run = computation(fc.federated_sum, "int64")
        assert int(run(np.array([2**62, 2**62 - 1, -5]))) == 2**63 - 6
        with pytest.raises(ValueError, match="does not fit"):
            run(np.array([2**62, 2**62]))
