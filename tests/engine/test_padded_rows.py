"""Values with a row a client: the same whatever the padding, and compiled for a few sizes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from tests.test_traces import compilations


@fc.federated_computation(fc.at_clients("float32[3]"))
def rows(values):
    keys = fc.federated_map(lambda v: jax.random.key(v[0].astype("int32")), values)
    padded, is_client = fc.federated_collect((values, keys), padded=True)
    range_ = fc.federated_map(
        lambda rows, is_client: jnp.ptp(jnp.where(is_client[:, None], rows, rows[0]), axis=0), padded[0], is_client
    )
    return fc.federated_collect(values), values, padded[0], is_client, range_, padded[1]


def values_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(1, 99, (number, 3)).astype("float32")


@pytest.mark.parametrize(
    "config", [{"devices": 1}, {"devices": 3, "lanes": 2}, {"devices": 2, "memory_budget": 3000}], ids=str
)
def test_padding_follows_the_rows_of_the_clients(config):
    run = rows.with_config(fc.EngineConfig(**config))
    for number, padded in {1: 8, 8: 8, 9: 18, 30: 41, 70: 93}.items():
        values = values_of(number)
        collected, kept, with_padding, is_client, spread, keys = run(values)
        np.testing.assert_array_equal(collected, values)
        np.testing.assert_array_equal(kept, values)
        np.testing.assert_array_equal(with_padding, np.concatenate([values, np.zeros((padded - number, 3))]))
        np.testing.assert_array_equal(is_client, np.arange(padded) < number)
        np.testing.assert_array_equal(spread, np.ptp(values, axis=0))
        expected = jax.vmap(jax.random.key)(values[:, 0].astype("int32"))
        np.testing.assert_array_equal(jax.random.key_data(keys[:number]), jax.random.key_data(expected))


def test_without_clients_all_rows_are_padding():
    collected, kept, with_padding, is_client, *_ = rows(values_of(0))
    assert collected.shape == kept.shape == (0, 3)
    assert with_padding.shape == (8, 3) and not np.any(with_padding) and not np.any(is_client)


def test_padding_counts_in_the_budget_where_somebody_sees_it():
    @fc.federated_computation(fc.at_clients("float32[3]"))
    def exact(values):
        return fc.federated_collect(values)

    @fc.federated_computation(fc.at_clients("float32[3]"))
    def padded(values):
        return fc.federated_collect(values, padded=True)

    fits, too_small = (fc.EngineConfig(devices=1, memory_budget=budget) for budget in (41 * 12, 41 * 12 - 1))
    assert padded.with_config(fits)(values_of(20))[0].shape == (41, 3)
    with pytest.raises(ValueError, match="each of 20 clients in 41 rows, 492 bytes in all, but the memory"):
        padded.with_config(too_small)(values_of(20))
    for budget in (20 * 12, 41 * 12):
        np.testing.assert_array_equal(exact.with_config(fc.EngineConfig(1, 1, budget))(values_of(20)), values_of(20))


def test_a_traced_program_has_no_padding():
    values = values_of(5)
    collected, _, with_padding, is_client, spread, _ = jax.jit(rows.as_function())(values)
    np.testing.assert_array_equal(with_padding, collected)
    np.testing.assert_array_equal(is_client, np.ones(5, bool))
    np.testing.assert_array_equal(spread, np.ptp(values, axis=0))


def test_keys_may_be_vectors_where_rows_are_scattered():
    @fc.federated_computation(fc.at_server("float32[9]"), fc.at_clients("int32[2]"), fc.at_clients("float32[2]"))
    def write(table, keys, values):
        return fc.federated_scatter(table, keys, values)

    # Padding is of zeros, and there is a row 0 in the table.
    table = write(np.full(9, 7, "f4"), np.array([[0, 3], [5, -1]], "i4"), np.array([[1, 2], [3, 4]], "f4"))
    assert table.tolist() == [1, 7, 7, 2, 7, 3, 7, 7, 7]


def poisson(rate: float) -> list[int]:
    return np.random.default_rng(0).poisson(rate, 36).tolist()


@pytest.mark.parametrize("name", ["collect", "median", "trimmed_mean"])
def test_poisson_rounds_share_four_sizes(name):
    """No program is compiled more than four times, where there are more than twelve numbers of clients."""
    collect = fc.federated_computation(lambda v: fc.federated_collect(v), fc.at_clients("float32[2]"))
    aggregators = {"median": fc.aggregators.median, "trimmed_mean": lambda: fc.aggregators.trimmed_mean(0.1)}
    if name != "collect":
        process = fc.aggregators.as_process(aggregators[name](), "float32[2]")
        state = process.initialize()
    with compilations() as seen:
        for number in poisson(20):
            values = np.ones((number, 2), "f4")
            if name == "collect":
                assert collect(values).shape == (number, 2)
            else:
                process.next(state, values, np.ones(number, "f4"))
    assert len(set(poisson(20))) > 12
    assert {p: seen.count(p) for p in set(seen) if seen.count(p) > 4} == {}
    assert seen.count("jit(run)") <= (1 if name == "collect" else 3)  # one before the clients


def test_a_program_that_is_compiled_for_each_number_of_clients_warns_once():
    @fc.federated_computation(fc.at_clients("float32[2]"))
    def middle(values):
        return fc.federated_map(lambda rows: rows.mean(0), fc.federated_collect(values))

    for number in (1, 2, 3, 4, 4, 3):
        middle(np.ones((number, 2), "f4"))
    with pytest.warns(UserWarning, match=r"federated_collect at .*test_padded_rows.*for 5 numbers of clients") as seen:
        for number in (5, 6, 7):
            middle(np.ones((number, 2), "f4"))
    assert len(seen) == 1
    text = str(seen[0].message)
    masked, first = (eval(f"lambda rows, is_client, n=1: {code}") for code in re.findall(r"`(jnp[^`]*)`", text))

    @fc.federated_computation(fc.at_clients("float32[2]"))
    def repaired(values):
        rows = fc.federated_collect(values, padded=True)
        return fc.federated_map(masked, *rows), fc.federated_map(first, *rows)

    mean, row = repaired(np.array([[1, 2], [3, 4]], "f4"))
    assert mean.tolist() == [2.0, 3.0]
    assert row.tolist() == [[1.0, 2.0], *[[0.0, 0.0]] * 7]
