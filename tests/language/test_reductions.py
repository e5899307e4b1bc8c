"""Sums of many leaves as sums of a few arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.language._reductions import joint_sums, summed

SHAPES = {"scalar": (), "many": (5, 1000), "few": (2, 3), "empty": (0, 4), "other": (7,)}


def values(lanes: int) -> dict:
    random = np.random.default_rng(lanes)
    floats = {name: random.normal(size=(lanes, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    return {**floats, "count": np.arange(lanes, dtype=np.int32), "half": np.ones((lanes, 2), np.float16)}


def abstract(lanes: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), lanes)


@pytest.mark.parametrize("lanes", [0, 1, 2, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_a_sum_of_leaves_is_the_sum_of_each(lanes, masked):
    given = values(lanes)
    operation = summed("sum", abstract(given))
    valid = np.arange(lanes) != 1 if masked else None
    running = operation.accumulate(operation.zero(abstract(given)), given, valid)
    result = operation.report(operation.merge(operation.close(running), operation.empty(abstract(given))))
    kept = slice(None) if valid is None else valid
    for name, array in given.items():
        assert result[name].shape == array.shape[1:] and result[name].dtype == array.dtype
        np.testing.assert_allclose(result[name], array[kept].sum(0, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_small_leaves_of_one_dtype_take_one_array_however_many_they_are():
    for number in (17, 200):
        leaves = {f"w{i}": jax.ShapeDtypeStruct((3, i % 4 + 1), jnp.float32) for i in range(number)}
        operation = summed("sum", leaves)
        assert [x.ndim for x in jax.tree.leaves(jax.eval_shape(operation.empty, leaves))] == [1, 1]
    large = {"w": jax.ShapeDtypeStruct((100, 100), jnp.float32), **leaves}
    empty = jax.eval_shape(summed("sum", large).empty, large)
    assert sorted(x.shape for x in jax.tree.leaves(empty)) == [(100, 100), (100, 100), (1500,), (1500,)]


def test_few_arrays_stay_alone_and_scalars_do_not():
    leaves = {"a": jax.ShapeDtypeStruct((3,), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.float32)}
    leaves |= {name: jax.ShapeDtypeStruct((), jnp.float32) for name in "cd"}
    empty = jax.eval_shape(summed("sum", leaves).zero, leaves)
    assert sorted(x.shape for x in jax.tree.leaves(empty)) == [(3,), (3,)]


def test_sums_of_one_pass_are_joined_and_reported_one_by_one():
    first, second = values(3), {"loss": np.array([1.0, 2.0, 4.0], np.float32)}
    operations = [summed("a", abstract(first)), summed("b", abstract(second))]
    joint = joint_sums(tuple(operations))
    empty = joint.zero((abstract(first), abstract(second)))
    assert len(jax.tree.leaves(empty)) == len(jax.tree.leaves(operations[0].zero(abstract(first))))
    results = joint.report(joint.close(joint.accumulate(empty, (first, second), None)))
    assert float(results[1]["loss"]) == 7.0 and int(results[0]["count"]) == 3
    np.testing.assert_allclose(results[0]["few"], first["few"].sum(0), rtol=1e-6)


def test_sums_over_sizes_that_only_the_clients_know():
    @fc.federated_computation(fc.at_clients("<x=float32[?],n=int32>"))
    def total(values):
        return fc.federated_sum(values)

    result = total([{"x": np.arange(4, dtype=np.float32), "n": 1}, {"x": np.ones(4, np.float32), "n": 2}])
    assert result["x"].tolist() == [1, 2, 3, 4] and int(result["n"]) == 3
