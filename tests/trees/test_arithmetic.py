"""Arithmetic, norms and casts on pytrees: values, dtypes, gradients, empty trees."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import trees

TREE = {"w": jnp.array([[1.0, -2.0]]), "b": (jnp.array([3, 4]), jnp.array(0.5, "bfloat16")), "none": None}
KEY = jax.random.key(0)


def dtypes(tree):
    return [leaf.dtype.name for leaf in jax.tree.leaves(tree)]


def arrays():
    shapes = st.sampled_from([(), (0,), (3,), (2, 2)])
    return hnp.arrays(np.float32, shapes, elements=st.integers(-800, 800).map(lambda n: n / 8))


def float_trees():
    return st.recursive(arrays(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner) | st.lists(inner))


@hypothesis.given(float_trees())
@hypothesis.settings(max_examples=50)
def test_arithmetic_agrees_with_numpy(tree):
    def check(result, expected):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), result, expected)
        assert jax.tree.structure(result) == jax.tree.structure(tree)

    check(trees.add(tree, tree), jax.tree.map(lambda x: x + x, tree))
    check(trees.subtract(tree, tree), jax.tree.map(np.zeros_like, tree))
    check(trees.scale(tree, 3.0), jax.tree.map(lambda x: x * np.float32(3), tree))
    check(trees.divide(tree, 4.0), jax.tree.map(lambda x: x / np.float32(4), tree))
    check(trees.zeros_like(tree), jax.tree.map(np.zeros_like, tree))
    flat = np.concatenate([np.zeros(0), *(np.ravel(leaf) for leaf in jax.tree.leaves(tree))]).astype(np.float64)
    np.testing.assert_allclose(trees.norm(tree), np.linalg.norm(flat), rtol=1e-5)
    np.testing.assert_allclose(trees.squared_norm(tree), np.sum(flat**2), rtol=1e-5)
    assert trees.size(tree) == flat.size and trees.num_bytes(tree) == 4 * flat.size


def test_dtypes_are_kept():
    factor = jnp.array(2.0)
    assert dtypes(trees.add(TREE, TREE)) == dtypes(TREE) == ["int32", "bfloat16", "float32"]
    assert dtypes(trees.scale(TREE, factor)) == dtypes(TREE)
    assert dtypes(trees.zeros_like(TREE)) == dtypes(TREE)
    assert dtypes(trees.where(True, TREE, TREE)) == dtypes(TREE)
    assert dtypes(trees.clip_by_norm(1.0, TREE)) == dtypes(TREE)
    assert dtypes(trees.divide(TREE, factor)) == ["float32", "bfloat16", "float32"]
    assert dtypes(trees.cast(TREE, "float16")) == ["int32", "float16", "float16"]


def test_results_are_strongly_typed():
    for result in (trees.zeros_like(1.0), trees.scale(jnp.ones(2), 0.5), trees.norm({"w": 1.0}), trees.norm({})):
        assert not result.weak_type


def test_scale_and_divide_of_integers():
    assert trees.scale(jnp.array([3, -3]), 0.5).tolist() == [1, -1]
    assert trees.divide(jnp.array([3, -3]), 2).tolist() == [1.5, -1.5]
    assert np.isnan(trees.divide(jnp.array(0.0), 0.0))


@pytest.mark.parametrize("condition", [True, jnp.array(False), np.True_])
def test_where_takes_one_tree(condition):
    a, b = {"w": jnp.ones(2), "n": 1}, {"w": jnp.zeros(2), "n": 0}
    result = trees.where(condition, a, b)
    assert (result["w"] == float(bool(condition))).all() and result["n"] == int(bool(condition))


def test_where_takes_typed_keys():
    a, b = (jax.random.split(jax.random.key(seed), 3) for seed in (1, 2))
    for condition, expected in ((True, a), (False, b)):
        chosen = jax.jit(trees.where)(condition, {"k": a}, {"k": b})["k"]
        assert chosen.dtype == a.dtype
        assert (jax.random.key_data(chosen) == jax.random.key_data(expected)).all()


@pytest.mark.parametrize("call", [
    lambda factor: trees.scale(TREE, factor), lambda factor: trees.divide(TREE, factor),
    lambda factor: trees.where(factor > 0, TREE, TREE), lambda factor: trees.clip_by_norm(factor, TREE),
])  # fmt: skip
def test_one_scalar_for_all_leaves(call):
    with pytest.raises(ValueError, match=r"takes one scalar for all leaves, got the shape \(2,\)"):
        call(jnp.ones(2))


@pytest.mark.parametrize("name", ["add", "subtract", "where"])
def test_structures_must_agree(name):
    fn = getattr(trees, name)
    with pytest.raises(ValueError, match=f"`{name}` takes two trees of the same structure"):
        (functools.partial(fn, True) if name == "where" else fn)({"a": 1.0}, {"b": 1.0})


@pytest.mark.parametrize("fn", [trees.norm, trees.squared_norm, lambda x: trees.norm(trees.clip_by_norm(1.0, x))])
def test_gradient_of_norms_at_zero_is_zero(fn):
    gradient = jax.grad(fn)({"w": jnp.zeros(3), "b": jnp.zeros(())})
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_gradient_of_norm_is_the_direction():
    np.testing.assert_allclose(jax.grad(trees.norm)(jnp.array([3.0, -4.0])), [0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2, np.inf])
def test_orders_of_the_norm(order):
    tree = {"w": jnp.array([[3, -4], [0, 1]]), "h": jnp.array([1.5, -0.5], "bfloat16"), "z": jnp.array(3 - 4j)}
    flat = np.array([3, -4, 0, 1, 1.5, -0.5, 3 - 4j])
    found = trees.norm(tree, order)
    np.testing.assert_allclose(found, np.linalg.norm(flat, order), rtol=1e-6)
    assert found.dtype == jnp.float32 and trees.norm({}, order) == 0.0
    np.testing.assert_array_equal(jax.grad(trees.norm)(jnp.zeros(3), order), np.zeros(3))
    clipped = trees.clip_by_norm(0.5, {**tree, "w": tree["w"].astype("float32")}, order)
    np.testing.assert_allclose(trees.norm(clipped, order), 0.5, rtol=1e-2)  # bfloat16 has three digits
    with pytest.raises(ValueError, match=r"an order of 1, 2 or math\.inf, got 3"):
        trees.norm(tree, 3)


def test_norms_are_summed_in_float32():
    half = jnp.full(1000, 10.0, "float16")
    assert trees.squared_norm(half) == 100_000 and trees.squared_norm(half).dtype == jnp.float32
    assert trees.norm({"n": jnp.array([3, 4])}) == 5.0
    assert trees.norm(jnp.array(3 + 4j)) == 5.0
    assert np.isnan(trees.norm(jnp.array([1.0, jnp.nan]))) and np.isinf(trees.norm(jnp.array(jnp.inf)))


def test_clip_by_norm():
    clip = functools.partial(trees.clip_by_norm, 1.0)
    np.testing.assert_allclose(clip({"w": jnp.array([3.0, 4.0])})["w"], [0.6, 0.8], rtol=1e-6)
    assert clip(jnp.array([0.3, 0.4])).tolist() == jnp.array([0.3, 0.4]).tolist()
    assert clip(jnp.zeros(2)).tolist() == [0.0, 0.0]
    assert np.isnan(clip(jnp.array([1.0, jnp.nan]))).all()
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="needs a positive norm, got"):
            trees.clip_by_norm(wrong, jnp.ones(2))


@pytest.mark.parametrize("tree, finite", [
    ({}, True), (None, True), (3, True), (KEY, True), (0.5, True), (float("nan"), False),
    ({"n": jnp.array([1, 2]), "k": jax.random.split(KEY), "w": jnp.ones((2, 2))}, True),
    ({"a": jnp.ones(2), "w": jnp.array([1.0, jnp.nan])}, False), ((jnp.array(-jnp.inf),), False),
    (jnp.array([1.0, jnp.inf], "bfloat16"), False), (jnp.array(complex(1, np.nan)), False), (jnp.zeros((0, 3)), True),
])  # fmt: skip
def test_is_finite(tree, finite):
    for result in (trees.is_finite(tree), jax.jit(trees.is_finite)(tree)):
        assert result.dtype == bool and result.shape == () and bool(result) is finite


def test_cast_converts_floats_only():
    tree = {"w": jnp.ones(2), "n": jnp.array(3), "b": jnp.array(True), "c": jnp.array(1j), "k": KEY}
    result = trees.cast(tree, jnp.bfloat16)
    assert {name: str(leaf.dtype) for name, leaf in result.items()} == {
        "w": "bfloat16", "n": "int32", "b": "bool", "c": "complex64", "k": "key<fry>",
    }  # fmt: skip
    for wrong in ("int32", bool, jnp.complex64):
        with pytest.raises(TypeError, match="converts floats to floats"):
            trees.cast(tree, wrong)


@pytest.mark.parametrize("empty", [{}, (), None, {"a": None, "b": []}])
def test_empty_trees(empty):
    assert trees.add(empty, empty) == trees.scale(empty, 2.0) == trees.divide(empty, 2.0) == empty
    assert trees.zeros_like(empty) == trees.where(True, empty, empty) == trees.cast(empty, "float16") == empty
    assert trees.norm(empty) == trees.squared_norm(empty) == 0.0 and trees.norm(empty).dtype == jnp.float32
    assert trees.size(empty) == trees.num_bytes(empty) == 0
    assert trees.clip_by_norm(1.0, empty) == empty


def test_zeros_like_takes_shapes_and_keys():
    zeros = trees.zeros_like({"s": jax.ShapeDtypeStruct((2,), "int8"), "k": KEY})
    assert zeros["s"].shape == (2,) and zeros["s"].dtype == jnp.int8 and zeros["k"].dtype == KEY.dtype


def test_all_can_be_traced():
    def everything(tree, factor, key):
        total = trees.add(trees.scale(tree, factor), trees.divide(tree, factor))
        total = trees.where(trees.is_finite(total), trees.clip_by_norm(factor, total), trees.zeros_like(total))
        return trees.cast(trees.subtract(total, total), "float32"), trees.norm(total), trees.split_key(key, tree)

    tree = {"w": jnp.ones((4, 3))}
    zeros, norm, _ = jax.jit(everything)(tree, 2.0, KEY)
    assert (zeros["w"] == 0).all() and abs(norm - 2.0) < 1e-6
    mapped = jax.vmap(everything, (0, None, 0))(tree, jnp.array(2.0), jax.random.split(KEY, 4))
    assert mapped[0]["w"].shape == (4, 3) and mapped[1].shape == (4,)


@pytest.mark.parametrize("place", [0, 7, 39])
def test_is_finite_sees_every_one_of_many_small_leaves(place):
    leaves = [jnp.ones((2, 3), "bfloat16" if i % 2 else "float32") for i in range(40)]
    assert trees.is_finite([*leaves, jnp.ones(5000), 3])
    leaves[place] = leaves[place].at[1, 2].set(jnp.nan)
    assert not trees.is_finite([*leaves, jnp.ones(5000), 3])


def test_a_guard_over_many_leaves_compiles_to_a_program_that_grows_with_their_number_not_its_square():
    def guard(tree):
        return trees.where(trees.is_finite(tree), tree, trees.zeros_like(tree))

    def instructions(number):
        tree = {str(i): jax.ShapeDtypeStruct((3,), jnp.float32) for i in range(number)}
        return str(jax.jit(guard).lower(tree).compile().as_text()).count(" = ")

    assert instructions(80) < 2.5 * instructions(40)
