"""Counts of more than 32 bits, over clients and over rounds, against NumPy's int64 and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.contracts import Metric, Model
from fedjax_core.language import sums
from fedjax_core.metrics import _totals

BILLION, LARGEST = 10**9, 2**31 - 1
STATISTICS = fc.types.to_type({"accuracy": ("int32", "int32"), "loss": ("float32", "int32"), "number": "int32"})
FINALIZERS = {
    "accuracy": lambda s: s[0] / s[1],
    "loss": lambda s: s[0] / s[1].astype("float32"),
    "number": lambda n: n,
}
CLIENT = {
    "accuracy": (np.int32(9 * BILLION // 10), np.int32(BILLION)),
    "loss": (np.float32(BILLION / 4), np.int32(BILLION)),
    "number": np.int32(BILLION),
}
RIGHT = {"accuracy": np.float32(0.9), "loss": np.float32(0.25), "number": LARGEST}
CONFIGS = [{"lanes": 1}, {"lanes": 3}, {"lanes": 1, "devices": 2}]

PLAIN = fc.metrics.sum_then_finalize().create(FINALIZERS, STATISTICS)
WIDE = ((0, LARGEST), (0, LARGEST))
SECURE = fc.metrics.secure_sum_then_finalize(
    {"accuracy": WIDE, "loss": ((0, BILLION), (0, LARGEST)), "number": (0, LARGEST)}
).create(FINALIZERS, STATISTICS)


def check(metrics, expected=RIGHT):
    jax.tree.map(lambda found, right: np.testing.assert_allclose(found, right, rtol=3e-7), metrics, expected)


@fc.federated_computation(fc.at_clients(STATISTICS))
def finalize_clients(statistics):
    return fc.metrics.finalize_sum(FINALIZERS, statistics)[0]


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_three_clients_of_a_billion_examples(options):
    check(finalize_clients.with_config(fc.EngineConfig(**options))([CLIENT] * 3))


def test_a_traced_round_of_a_billion_examples():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), CLIENT)
    check(jax.jit(finalize_clients.as_function())(stacked))


@pytest.mark.parametrize("process", [PLAIN, SECURE], ids=["plain", "secure"])
def test_totals_over_rounds(process):
    state = process.initialize()
    for number in range(1, 6):
        state, (current, total), _ = process.next(state, [CLIENT])
        check(current, RIGHT | {"number": BILLION})
        check(total, RIGHT | {"number": min(number * BILLION, LARGEST)})
    low, high = state["number"]
    assert int(low) + 2**32 * int(high) == 5 * BILLION


def model():
    """A model whose clients have billions of examples in one: it measures counts that are in the data."""

    def count(predictions, batch, mask):
        return tuple(jnp.sum(jnp.where(mask, batch[name], 0), dtype=jnp.int32) for name in ("right", "all"))

    return Model(
        init=lambda key: jnp.zeros(()),
        predict=lambda weights, batch, key=None, training=False: weights + jnp.zeros_like(batch["all"], jnp.float32),
        loss=lambda predictions, batch: predictions,
        metrics={"accuracy": Metric(count, FINALIZERS["accuracy"]), "all": Metric(count, lambda s: s[1])},
        batch_type=fc.types.to_type({"right": "int32[?]", "all": "int32[?]"}),
    )


def test_evaluation_of_clients_with_billions_of_examples():
    clients = [{"right": np.array([9 * BILLION // 10]), "all": np.array([BILLION])}] * 3
    found = fc.algorithms.federated_evaluation(model())(np.float32(0), clients)["eval"]
    assert (float(found["accuracy"]), int(found["all"])) == (np.float32(0.9), LARGEST)
    process = fc.algorithms.fed_eval(model())
    state, _ = process.next(process.initialize(), clients)
    _, metrics = process.next(state, [{"right": np.array([0]), "all": np.array([3])}])
    total = metrics["client_work"]["eval"]["total_rounds_metrics"]
    np.testing.assert_allclose(total["accuracy"], 2.7e9 / (3e9 + 3), rtol=2e-7)
    assert int(total["all"]) == LARGEST and int(metrics["client_work"]["eval"]["current_round_metrics"]["all"]) == 3


def in_words(value: int) -> sums.Words:
    return sums.Words(jnp.uint32(value % 2**32), jnp.int32(value >> 32))


PAIR = (fc.types.to_type("int32"),) * 2


@given(st.integers(0, 2**62), st.integers(1, 2**62))
@example(2**31 - 1, 2**31 - 1)
@example(2**31 - 4, 2**31 - 1)
@example(2**31, 2**31)
def test_values_of_totals_of_any_size(right, number):
    def finalize(s):
        return {"ratio": s[0] / s[1], "wrong": (s[1] - s[0]).astype("float32"), "number": s[1], "any": s[0] > 0}

    found = _totals.finalize_totals(finalize, PAIR, (in_words(right), in_words(number)))
    np.testing.assert_allclose(found["ratio"], np.float64(right) / np.float64(number), rtol=3e-7)
    # Beyond 32 bits both counts are rounded; within them their difference is exact.
    rounding = 2.0**-22 * max(right, number) if max(right, number) > LARGEST else 0
    np.testing.assert_allclose(found["wrong"], float(number - right), rtol=2.0**-23, atol=rounding)
    assert found["number"].dtype == jnp.int32 and int(found["number"]) == min(number, LARGEST)
    assert bool(found["any"]) == (right > 0)


def test_small_and_unsigned_integers():
    tensors = fc.types.tree_of_types(fc.types.to_type({"small": "int8", "large": "uint32", "half": "bfloat16"}))
    process = fc.metrics.sum_then_finalize().create(lambda s: s, fc.types.to_type(tensors))
    clients = [{"small": np.int8(100), "large": np.uint32(2**31), "half": jnp.bfloat16(0.5)}]
    state, (_, total), _ = process.next(process.initialize(), clients)
    assert (int(total["small"]), int(total["large"]), float(total["half"])) == (100, 2**31, 0.5)
    _, (_, total), _ = process.next(state, clients * 3)
    assert (int(total["small"]), int(total["large"]), float(total["half"])) == (400, 2**32 - 1, 2.0)
    assert [total[name].dtype for name in ("small", "large", "half")] == ["int32", "uint32", "bfloat16"]


def test_floats_do_not_drift_over_rounds():
    tensors = {"loss": fc.types.to_type("float32")}
    values = np.random.default_rng(0).exponential(size=200_000).astype(np.float32)
    total, _ = jax.lax.scan(
        lambda total, value: (_totals.add_round(total, {"loss": value}), None), _totals.zero_totals(tensors), values
    )
    found = _totals.finalize_totals(lambda s: s["loss"], tensors, total)
    np.testing.assert_allclose(found, values.sum(dtype=np.float64), rtol=1e-7)


def test_a_finalizer_of_integers_alone_is_refused():
    table = jnp.arange(3)
    with pytest.raises(TypeError, match=r"must take floats in place of integers.*convert .*astype\(\"int32\"\)"):
        fc.metrics.sum_then_finalize().create({"n": lambda n: table[n]}, fc.types.to_type({"n": "int32"}))
    process = fc.metrics.sum_then_finalize().create(
        {"n": lambda n: table[n.astype("int32")]}, fc.types.to_type({"n": "int32"})
    )
    _, (current, _), _ = process.next(process.initialize(), [{"n": 1}, {"n": 1}])
    assert int(current["n"]) == 2


def test_integers_of_64_bits():
    with jax.enable_x64(True):
        statistics = fc.types.to_type({"n": "int64"})
        for made in (fc.metrics.sum_then_finalize(), fc.metrics.secure_sum_then_finalize({"n": (0, 2**32 - 1)})):
            process = made.create({"n": lambda n: n}, statistics)
            _, (current, _), _ = process.next(process.initialize(), [{"n": np.int64(2**32 - 1)}] * 3)
            assert int(current["n"]) == 3 * (2**32 - 1)


def test_area_under_the_curve_of_billions():
    """Each bin fits 32 bits, but not their sum."""
    metric = fc.metrics.roc_auc(4)
    positive, negative = np.array([1, 5, 6, 9]), np.array([8, 5, 4, 1])
    small, large = (metric.finalize([jnp.asarray(n * k, jnp.int32) for n in (positive, negative)]) for k in (1, 2**27))
    np.testing.assert_allclose(large, small, rtol=1e-6)
