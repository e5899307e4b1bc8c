"""Sums of clipped integers against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.language.sums import Words
from fedjax_core.metrics import secure_sum_then_finalize, sum_then_finalize
from fedjax_core.metrics._secure_sum import secure_sum

STATISTICS = fc.types.to_type({"accuracy": ("int32", "int32"), "loss": ("float32", "int32"), "classes": "float32[3]"})
FINALIZERS = {
    "accuracy": lambda s: s[0] / s[1],
    "loss": lambda s: s[0] / s[1].astype("float32"),
    "classes": lambda s: s,
}
STEP = 2.0**-11


def _number(total):
    """The number of a total in a state."""
    return total.low.item() + 2**32 * total.high.item() if isinstance(total, Words) else total.high


def _clients(number, seed=0):
    random = np.random.default_rng(seed)
    return [
        {
            "accuracy": (random.integers(0, 50), random.integers(50, 99)),
            "loss": (np.float32(random.exponential(30)), random.integers(50, 99)),
            "classes": random.normal(size=3).astype(np.float32) * 1000,
        }
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def process():
    return secure_sum_then_finalize().create(FINALIZERS, STATISTICS)


@pytest.fixture(scope="module")
def plain():
    return sum_then_finalize().create(FINALIZERS, STATISTICS)


def test_has_the_types_of_the_plain_sum(process, plain):
    for part in ("state", "result"):
        expected = plain.next.type_signature.result[part]
        assert str(process.next.type_signature.result[part]) == str(expected)
    clipped = "num_clipped=<accuracy=int32,classes=int32,loss=int32>"
    assert str(process.next.type_signature.result["measurements"]) == f"<{clipped},num_non_finite=int32>@SERVER"


@pytest.mark.parametrize("number", [0, 1, 30])
def test_integers_are_exact_and_numbers_within_half_a_step_a_client(process, plain, number):
    clients = _clients(number)
    state, (current, total), measured = process.next(process.initialize(), clients)
    expected, (of_plain, _), _ = plain.next(plain.initialize(), clients)
    for found, right in ((state["accuracy"], expected["accuracy"]), (state["loss"][1:], expected["loss"][1:])):
        assert list(map(_number, found)) == list(map(_number, right))
    losses, classes = (
        [np.float64(pick(c)) for c in clients] for pick in (lambda c: c["loss"][0], lambda c: c["classes"])
    )
    for values, found in ((losses, state["loss"][0].high), (classes, state["classes"].high)):
        exact = np.sum(values, axis=0)
        assert np.all(np.abs(found - exact) <= number * STEP / 2 + 1e-7 * np.abs(exact))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2), current, of_plain)
    jax.tree.map(np.testing.assert_array_equal, current, total)
    assert not any(map(np.any, jax.tree.leaves(measured)))


def test_rounds_add_up(process):
    state, (first, _), _ = process.next(process.initialize(), _clients(4, 1))
    state, (second, total), _ = process.next(state, _clients(5, 2))
    counted = [sum(c["accuracy"][i] for c in [*_clients(4, 1), *_clients(5, 2)]) for i in (0, 1)]
    assert list(map(_number, state["accuracy"])) == counted
    np.testing.assert_allclose(total["accuracy"], counted[0] / counted[1], rtol=1e-6)
    np.testing.assert_allclose(total["classes"], first["classes"] + second["classes"], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_client_that_is_not_finite_is_left_out_and_counted(process, value):
    clients = _clients(3)
    spoiled = {**clients[0], "loss": (value, 7)}
    expected = process.next(process.initialize(), clients)
    found = process.next(process.initialize(), [*clients, spoiled])
    jax.tree.map(np.testing.assert_array_equal, found[:2], expected[:2])
    assert found.measurements["num_non_finite"] == 1


def test_bits_do_not_depend_on_the_order_of_clients(process):
    clients = _clients(20)
    expected = process.next(process.initialize(), clients)
    found = process.next(process.initialize(), clients[7:] + clients[:7])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_sums_of_both_signs_that_cancel(process):
    values = np.array([[1000.0, -0.5, 0.0], [-1000.0, 0.5, -7.0], [0.25, 2**-11, 1e6]], np.float32)
    clients = [{"accuracy": (0, 1), "loss": (0.0, 1), "classes": row} for row in values]
    state, _, _ = process.next(process.initialize(), clients)
    assert np.asarray(state["classes"].high).tolist() == [0.25, 2**-11, 999993.0]


RANGES = {"accuracy": (-5, 10), "loss": ((-1.0, 3.0), None), "classes": (0, 1e-3)}


def test_values_are_clipped_to_their_ranges_and_the_clients_counted():
    process = secure_sum_then_finalize(RANGES).create(FINALIZERS, STATISTICS)
    clients = [
        {"accuracy": (-9, 3), "loss": (2.5, 2**20), "classes": np.array([5, -5, 5e-4], np.float32)},
        {"accuracy": (11, 10), "loss": (-4.0, 8), "classes": np.zeros(3, np.float32)},
        {"accuracy": (10, -5), "loss": (3.0, 8), "classes": np.zeros(3, np.float32)},
    ]
    state, _, measured = process.next(process.initialize(), clients)
    assert list(map(_number, state["accuracy"])) == [-5 + 10 + 10, 3 + 10 - 5]
    assert list(map(_number, state["loss"])) == [2.5 - 1.0 + 3.0, 2**20 - 1 + 16]
    np.testing.assert_allclose(state["classes"].high, [1e-3, 0, 5e-4], rtol=1e-6)
    assert measured == {"num_clipped": {"accuracy": 2, "loss": 2, "classes": 1}, "num_non_finite": 0}


DTYPES = {
    "int8": ((-128, 127), [-128, 127, -1]),
    "uint8": (None, [127, 0, 1]),
    "int16": (None, [2**15 - 1, 0, -0]),
    "int32": ((-(2**31), 2**31 - 1), [-(2**31), 2**31 - 1, 5]),
    "uint32": ((0, 2**32 - 1), [2**31, 2**31 - 1, 0]),
    "float16": (None, [0.5, -3, 100]),
    "bfloat16": ((-1, 4), [0.5, -1, 3]),
    "float32": ((-9e37, 0), [-(2.0**125), 0, -(2.0**120)]),
}


@pytest.mark.slow
def test_dtypes():
    type_ = fc.types.to_type({dtype: dtype for dtype in DTYPES})
    ranges = {dtype: range for dtype, (range, _) in DTYPES.items()}
    process = secure_sum_then_finalize(ranges).create(lambda s: s, type_)
    clients = [{dtype: jnp.array(values[i], dtype) for dtype, (_, values) in DTYPES.items()} for i in range(3)]
    state, _, measured = process.next(process.initialize(), clients)
    for dtype, (_, values) in DTYPES.items():
        assert _number(state[dtype]) == (sum(values) if "int" in dtype else jnp.array(sum(values), dtype)), dtype
        assert measured["num_clipped"][dtype] == 0, dtype


@pytest.mark.parametrize(
    ("ranges", "error", "message"),
    [
        ({"acc": (0, 1)}, ValueError, r"must name metrics, got \['acc'\]; the metrics are \['accuracy', 'classes'"),
        (
            {"accuracy": (1, 5)},
            ValueError,
            r"ranges=\{'accuracy': ...\}\) must be finite and contain zero, .*got \(1, 5\)",
        ),
        ({"accuracy": (0, 0)}, ValueError, "must be finite and contain zero"),
        ({"classes": (0, np.inf)}, ValueError, "must be finite and contain zero"),
        ({"classes": (0, 1e39)}, ValueError, "between 1e-25 and 1e38, for float32"),
        ({"classes": (0, 1e-30)}, ValueError, "between 1e-25 and 1e38, for float32"),
        ({"accuracy": (0, 1.5)}, ValueError, "must be two integers of int32 less than"),
        ({"accuracy": (0, 2**31)}, ValueError, "must be two integers of int32 less than"),
        ({"accuracy": 7}, TypeError, "must be two numbers such as"),
        ({"loss": ((0, 1), (0, 1), (0, 1))}, TypeError, r"in the form of the statistic <float32,int32>, got"),
    ],
)
def test_ranges_that_do_not_suit_are_refused(ranges, error, message):
    with pytest.raises(error, match=message):
        secure_sum_then_finalize(ranges).create(FINALIZERS, STATISTICS)


def test_refuses_ranges_that_are_no_dict():
    with pytest.raises(
        TypeError, match=r"secure_sum_then_finalize\(ranges=...\) must be a dict from metric name to range"
    ):
        secure_sum_then_finalize((0, 1))


def test_refuses_statistics_that_have_no_range():
    with pytest.raises(TypeError, match="summed as integers or floating point numbers, got complex64"):
        secure_sum_then_finalize().create(lambda s: s, fc.types.to_type({"phase": "complex64"}))


def test_of_many_clients_no_sum_overflows():
    """The sum of the offsets alone would need 50 bits."""
    number = 2**18

    @fc.federated_computation(fc.at_clients("float32"))
    def total(values):
        statistics = fc.federated_map(lambda v: {"loss": v}, values)
        left_out = fc.federated_map(lambda v: 0, values)
        summed, _ = secure_sum({"loss": (-1.0, 1.0)}, statistics, left_out)
        return summed["loss"]

    values = np.random.default_rng(0).uniform(-1, 1, number).astype(np.float32)
    np.testing.assert_allclose(total(values), values.astype(np.float64).sum(), rtol=1e-6, atol=number * 2**-31)
