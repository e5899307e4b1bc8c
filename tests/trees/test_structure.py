"""The structure of pytrees: keys for the leaves, sizes, containers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import trees

TREE = {"w": jnp.array([[1.0, -2.0]]), "b": (jnp.array([3, 4]), jnp.array(0.5, "bfloat16")), "none": None}
KEY = jax.random.key(0)


def test_split_key_gives_each_leaf_its_own():
    keys = jax.jit(trees.split_key)(KEY, TREE)
    assert jax.tree.structure(keys) == jax.tree.structure(TREE)
    data = {tuple(jax.random.key_data(key).tolist()) for key in [KEY, *jax.tree.leaves(keys)]}
    assert len(data) == 4
    assert keys["b"][0] == jax.random.fold_in(KEY, 0)
    assert trees.split_key(KEY, {}) == {}


@pytest.mark.parametrize("key", [0, jax.random.PRNGKey(0), None])
def test_split_key_takes_a_typed_key(key):
    with pytest.raises(TypeError, match=r"takes a typed key, got .*; write jax\.random\.key\(seed\)"):
        trees.split_key(key, TREE)


def test_sizes():
    assert trees.size(TREE) == 5 and trees.num_bytes(TREE) == 8 + 8 + 2
    assert trees.size(jax.random.split(KEY, 3)) == 3 and trees.num_bytes(jax.random.split(KEY, 3)) == 24
    assert trees.num_bytes(jax.ShapeDtypeStruct((2, 3), "int8")) == 6
    assert trees.size(1.0) == 1 and trees.num_bytes(1.0) == 4


class Pair(NamedTuple):
    left: object
    right: object


def test_match_brings_back_the_containers():
    like = Pair({"w": jnp.zeros((1, 2)), "none": None}, [jnp.int32(0), (jnp.zeros(0), {})])
    plain = {"left": {"w": np.ones((1, 2), np.float32)}, "right": {0: 3, 1: [np.ones(0, np.float32)]}}
    matched = trees.match(plain, like)
    assert jax.tree.structure(matched) == jax.tree.structure(like)
    assert matched.right[0] == 3 and matched.left["w"] is plain["left"]["w"]
    assert trees.match(like, jax.eval_shape(lambda: like)) == like
    assert trees.match(2.0, jnp.float32(0)) == 2.0
    assert trees.match([], {}) == {}


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"w": np.ones(2, np.float32)}, r"same paths, got no leaf 'b'; `like` has \['b', 'w'\]"),
        ({"w": np.ones(2, np.float32), "b": 1, "c": 2}, "got an unknown leaf 'c'"),
        ({"w": np.ones(2, np.float32), "b": 1.5}, r"'b' must be int32\[\], got float32\[\]"),
        ({"w": np.ones(3, np.float32), "b": 1}, r"'w' must be float32\[2\], got float32\[3\]"),
        ({"w": "float32", "b": 1}, r"'w' must be float32\[2\], got 'float32'"),
        ({"w": {"w": 1}, "b": 1}, "got no leaf 'w'"),
        (None, "got no leaf 'b'"),
    ],
)
def test_match_refuses_other_leaves(tree, message):
    with pytest.raises(ValueError, match=message):
        trees.match(tree, {"w": jnp.zeros(2), "b": jnp.int32(0)})
