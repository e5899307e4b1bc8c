"""Sums modulo a number, against the tables of TensorFlow Federated's tests."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.aggregators import as_process, secure_modular_sum

PLAIN = [(2, [0, 1, 1], 0), (8, [1, 2, 3], 6), (8, [1, 2, 3, 4], 2), (22, [22], 0), (22, [220], 0), (22, [-1, 7], 6)]
SYMMETRIC = [
    (2, [0, 1, 1], -1),
    (8, [1, 2, 3, 4], -5),
    (8, [-1, -2, -3, -4], 5),
    (22, [22], -21),
    (22, [-22], 21),
    (22, [43 * 5], 0),
    (22, [112, 123], 20),
]
CASES = [(*case, False) for case in PLAIN] + [(*case, True) for case in SYMMETRIC]


@pytest.mark.parametrize("modulus, values, expected, symmetric", CASES)
def test_entries_beyond_the_range_wrap_around(modulus, values, expected, symmetric):
    process = as_process(secure_modular_sum(modulus, symmetric_range=symmetric), "int32")
    output = process.next(process.initialize(), np.int32(values), np.ones(len(values), np.float32))
    assert output.result == expected and output.result.dtype == jnp.int32
    assert output.state == output.measurements == ()


def test_every_leaf_of_a_struct():
    process = as_process(secure_modular_sum(8), {"a": "int32[2]", "b": "uint8"})
    clients = [{"a": np.int32([1, 2]), "b": np.uint8(3)}, {"a": np.int32([4, 5]), "b": np.uint8(254)}]
    result = process.next(process.initialize(), clients, [1.0, 0.0]).result
    assert result["a"].tolist() == [5, 7] and result["b"] == 1 and result["b"].dtype == jnp.uint8


def test_the_ends_of_the_dtype_wrap_around():
    process = as_process(secure_modular_sum(64, symmetric_range=True), "int8")
    for value, expected in [(-128, -1), (127, 0), (64, -63)]:
        assert process.next(process.initialize(), np.int8([value]), [1.0]).result == expected


def test_wrong_arguments_are_refused():
    for wrong, error in [(8.0, TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)]:
        with pytest.raises(error, match=r"secure_modular_sum\(modulus=\.\.\.\) must be"):
            secure_modular_sum(wrong)
    with pytest.raises(TypeError, match=r"secure_modular_sum\(symmetric_range=\.\.\.\) must be"):
        secure_modular_sum(8, symmetric_range="True")
    with pytest.raises(TypeError, match="secure_modular_sum takes integers, got float32"):
        as_process(secure_modular_sum(8), "float32")
    with pytest.raises(TypeError, match="secure_modular_sum takes signed integers, got uint8"):
        as_process(secure_modular_sum(8, symmetric_range=True), "uint8")
    with pytest.raises(ValueError, match=r"positive, and 2 \* modulus - 1 must fit int8, got 65"):
        as_process(secure_modular_sum(65, symmetric_range=True), "int8")
    with pytest.raises(ValueError, match="positive and fit int8, got 200"):
        as_process(secure_modular_sum(200), "int8")
