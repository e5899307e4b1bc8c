"""Secure sums: exact in integers, or refused and counted."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fedjax_core as fc

LARGEST = 2**31 - 1


def computation(operator, type_="int32"):
    return fc.federated_computation(operator, fc.at_clients(type_))


SUM = computation(lambda v: fc.federated_secure_sum(v, LARGEST), "int32[2]")
SMALL = computation(lambda v: fc.federated_secure_sum(v, 9))
MODULAR = computation(lambda v: fc.federated_secure_modular_sum(v, LARGEST))
entries = st.integers(0, LARGEST)


def as_int32(values, shape=()):
    return np.array(values, np.int32).reshape(-1, *shape)


@settings(max_examples=25)
@given(st.lists(st.tuples(entries, st.integers(0, 2**27)), min_size=7, max_size=7))
@example([(LARGEST, 0)] + [(0, 0)] * 6)
@example([(LARGEST, 0)] * 7)
@example([(2**30, 2**30)] * 4 + [(0, 0)] * 3)
def test_a_sum_is_exact_or_refused(clients):
    exact = np.array(clients, np.int64).sum(0)
    values = as_int32(clients, (2,))
    checked = SUM.as_function()(values)
    if (exact <= LARGEST).all():
        np.testing.assert_array_equal(SUM(values), exact)
        np.testing.assert_array_equal(checked.result, exact)
        assert checked.num_refused == 0
    else:
        with pytest.raises(ValueError, match=r"federated_secure_sum at .*test_secure.py:\d+: the sum .* does not fit"):
            SUM(values)
        assert checked.num_refused == 1


@settings(max_examples=25)
@given(st.lists(st.integers(0, LARGEST - 1), min_size=7, max_size=7))
@example([LARGEST - 1] * 7)
@example([0] * 7)
@example([1, LARGEST - 1, 0, 0, 0, 0, 0])
def test_a_modular_sum_is_exact(values):
    assert int(MODULAR(as_int32(values))) == sum(values) % LARGEST
    assert int(MODULAR.as_function()(as_int32(values)).result) == sum(values) % LARGEST


@pytest.mark.parametrize("lanes", [1, 8])
def test_a_modular_sum_over_many_clients_near_the_modulus(lanes):
    run = MODULAR.with_config(fc.EngineConfig(lanes=lanes))
    assert int(run(as_int32([LARGEST - 1] * 3000))) == (LARGEST - 1) * 3000 % LARGEST


@pytest.mark.parametrize(("dtype", "modulus"), [("uint8", 255), ("int8", 127), ("uint32", 2**32 - 1), ("int32", 1)])
def test_a_modular_sum_up_to_the_largest_modulus(dtype, modulus):
    run = computation(lambda v: fc.federated_secure_modular_sum(v, modulus), dtype)
    values = np.array([modulus - 1] * 9 + [0], dtype)
    result = run(values)
    assert int(result) == (modulus - 1) * 9 % modulus and result.dtype == dtype


# The table of TensorFlow Federated's test of a symmetric modular sum, where no entry is beyond the range.
SYMMETRIC = [
    (2, [0, 1], 1),
    (2, [0, 1, 1], -1),
    (2, [0, 1, 1, 1], 0),
    (2, [0, -1], -1),
    (2, [0, -1, -1], 1),
    (2, [0, -1, -1, -1], 0),
    (8, [1, 2, 3], 6),
    (8, [1, 2, 3, 4], -5),
    (8, [-1, -2, -3, -4], 5),
    (1, [0, 0], 0),
    (5, [], 0),
]


@pytest.mark.parametrize(("modulus", "values", "expected"), SYMMETRIC)
def test_a_symmetric_modular_sum(modulus, values, expected):
    run = computation(lambda v: fc.federated_secure_modular_sum(v, modulus, symmetric_range=True))
    assert int(run(as_int32(values))) == expected


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_a_symmetric_modular_sum_up_to_the_largest_modulus(dtype):
    modulus = (int(np.iinfo(dtype).max) + 1) // 2
    run = computation(
        lambda v: fc.federated_secure_modular_sum(v, {"a": modulus, "b": 3}, symmetric_range=True),
        {"a": dtype, "b": dtype},
    )
    for sign in (1, -1):
        result = run({"a": np.full(9, sign * (modulus - 1), dtype), "b": np.full(9, sign, dtype)})
        exact = sign * 9 * (modulus - 1)
        assert int(result["a"]) == (exact + modulus - 1) % (2 * modulus - 1) - (modulus - 1)
        assert int(result["b"]) == sign * -1 and result["a"].dtype == dtype
    with pytest.raises(
        ValueError, match=rf"1 clients hold an entry outside -{modulus - 1}\.\.{modulus - 1}, -2\.\.2; .*-limit"
    ):
        run([{"a": -modulus, "b": 0}])
    rule = rf"must be positive, and 2 \* modulus - 1 must fit {dtype}, got {modulus + 1}"
    with pytest.raises(ValueError, match=rule):
        computation(lambda v: fc.federated_secure_modular_sum(v, modulus + 1, symmetric_range=True), dtype)


def test_a_symmetric_range_needs_signed_integers():
    with pytest.raises(TypeError, match=r"takes signed integers, got \{uint8\}@CLIENTS"):
        computation(lambda v: fc.federated_secure_modular_sum(v, 3, symmetric_range=True), "uint8")
    with pytest.raises(TypeError, match=r"symmetric_range=\.\.\.\) must be .* write federated_secure_modular_sum"):
        computation(lambda v: fc.federated_secure_modular_sum(v, 3, symmetric_range="yes"))


@settings(max_examples=25)
@given(st.lists(st.integers(-(2**31), LARGEST) | st.integers(-1, 10), min_size=7, max_size=7))
@example([9] * 7)
@example([10, -1, 9, 0, 0, 0, 0])
def test_clients_out_of_range_are_counted(values):
    refused = sum(not 0 <= v <= 9 for v in values)
    checked = SMALL.as_function()(as_int32(values))
    assert int(checked.num_refused) == refused
    if refused:
        with pytest.raises(ValueError, match=rf": {refused} clients hold an entry outside 0..9; clip it"):
            SMALL(as_int32(values))
    else:
        assert int(SMALL(as_int32(values))) == int(checked.result) == sum(values)


def test_bitwidth():
    run = computation(lambda v: fc.federated_secure_sum_bitwidth(v, 8))
    assert int(run([255, 255])) == 510
    with pytest.raises(ValueError, match=r"federated_secure_sum_bitwidth at .*: 1 clients .* outside 0..255"):
        run([256, 0])
    widest = computation(lambda v: fc.federated_secure_sum_bitwidth(v, 31))
    assert int(widest([LARGEST, 0])) == LARGEST


@pytest.mark.parametrize("operator", ["sum", "sum_bitwidth", "modular_sum"])
def test_nobody_sums_to_zero(operator):
    run = computation(lambda v: getattr(fc, f"federated_secure_{operator}")(v, 5))
    assert int(run([])) == 0 and int(run.as_function()(as_int32([])).result) == 0


def test_one_bound_for_each_field():
    type_ = {"a": "int32[2]", "b": "uint8"}
    run = computation(lambda v: fc.federated_secure_sum(v, {"a": 3, "b": 200}), type_)
    result = run([{"a": [1, 3], "b": 200}, {"a": [0, 1], "b": 1}])
    np.testing.assert_array_equal(result["a"], [1, 4])
    assert int(result["b"]) == 201 and result["b"].dtype == jnp.uint8
    with pytest.raises(ValueError, match=r"1 clients hold an entry outside 0..3, 0..200"):
        run([{"a": [4, 0], "b": 0}, {"a": [0, 0], "b": 0}])
    with pytest.raises(ValueError, match=r"the sum of 1 fields does not fit"):
        run([{"a": [0, 0], "b": 200}, {"a": [0, 0], "b": 56}])


@pytest.mark.parametrize("bound", [0, -1, 2**31, 10**12])
@pytest.mark.parametrize("operator", ["sum", "sum_bitwidth", "modular_sum"])
def test_bounds_that_do_not_fit(operator, bound):
    rule = r"must be (an integer of at least 1|positive and fit int32), got .* at .*test_secure.py:\d+"
    with pytest.raises(ValueError, match=rule):
        computation(lambda v: getattr(fc, f"federated_secure_{operator}")(v, bound))


def test_a_bitwidth_that_the_dtype_does_not_have():
    for bits in (32, 64, 2**30):
        with pytest.raises(ValueError, match=r"must be positive and fit int32"):
            computation(lambda v, bits=bits: fc.federated_secure_sum_bitwidth(v, bits))


@pytest.mark.parametrize("bound", [1.0, True, "1", None, {"a": 1}, [1, 2]])
def test_bounds_that_are_no_integers(bound):
    with pytest.raises(TypeError, match=r"max_input"):
        computation(lambda v: fc.federated_secure_sum(v, bound))


def test_only_integers_at_the_clients():
    with pytest.raises(TypeError, match=r"federated_secure_sum takes integers, got \{float32\}@CLIENTS"):
        computation(lambda v: fc.federated_secure_sum(v, 1), "float32")
    with pytest.raises(TypeError, match=r"federated_secure_sum takes a value at CLIENTS, got int32@SERVER"):
        fc.federated_computation(lambda v: fc.federated_secure_sum(v, 1), fc.at_server("int32"))


def test_checks_survive_inlining_and_narrowing():
    inner = computation(lambda v: fc.federated_secure_sum(v, 9), "int32[?]")

    @fc.federated_computation(fc.at_clients("int32[2]"), fc.at_clients("int32[3]"))
    def outer(a, b):
        total = fc.federated_map(lambda x, y: jnp.sum(x) + jnp.sum(y), inner(a), inner(b))
        return total, fc.federated_sum(fc.federated_map(jnp.sum, a))

    assert [int(x) for x in outer([[1, 2]], [[3, 4, 5]])] == [15, 3]
    with pytest.raises(ValueError, match=r"1 clients hold an entry outside 0..9"):
        outer([[1, 2]], [[3, 4, 10]])
    assert int(outer.as_function()(as_int32([[1, 20]], (2,)), as_int32([[3, 4, 10]], (3,))).num_refused) == 2


def test_bounds_that_are_a_dict_are_those_of_the_fields_of_their_names():
    def program(bounds):
        return computation(lambda v: fc.federated_secure_sum(v, bounds), "<y=int32,x=int32>")

    clients = [{"x": 3, "y": 90}, {"y": 10, "x": 4}]
    summed = program({"x": 4, "y": 90})(clients)
    assert int(summed["x"]) == 7 and int(summed["y"]) == 100
    with pytest.raises(ValueError, match="1 clients hold an entry outside"):
        program({"x": 3, "y": 90})(clients)
    with pytest.raises(TypeError, match=r"federated_secure_sum\(.*=...\) at .* missing \['y'\]; not expected \['z'\]"):
        program({"x": 4, "z": 90})
