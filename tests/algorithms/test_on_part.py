"""A finalizer of a part of the weights: what it takes, and what it refuses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc


class Layers(NamedTuple):
    """A container whose fields cannot be left out."""

    body: dict
    head: jax.Array


WEIGHTS = Layers({"bias": np.ones(2, np.float32), "kernel": np.full((2, 2), 3.0, np.float32)}, np.zeros(2, np.float32))
UPDATE = {"body": {"bias": np.array([1.0, 2.0], np.float32), "kernel": np.eye(2, dtype=np.float32)}}
SGD = fc.algorithms.apply_optimizer(optax.sgd(1.0))


def is_body(path):
    return path.startswith("body.")


def moved(finalizer, update):
    """One round of the finalizer from `WEIGHTS`."""
    types = fc.at_server(fc.types.type_of(WEIGHTS)), fc.at_server(fc.types.type_of(update))

    @fc.federated_computation(*types)
    def step(weights, update):
        return finalizer.next(finalizer.init(weights), weights, update).result

    return step(WEIGHTS, update)


@pytest.mark.parametrize("update", [UPDATE, fc.trees.part(is_body, Layers(UPDATE["body"], np.zeros(2)))])
def test_the_part_moves_and_the_others_stay(update):
    found = moved(fc.algorithms.on_part(is_body, SGD), update)
    assert isinstance(found, Layers)
    expected = Layers(jax.tree.map(np.subtract, WEIGHTS.body, UPDATE["body"]), WEIGHTS.head)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_part_of_a_part():
    inner = fc.algorithms.on_part(lambda path: path.endswith("bias"), SGD)
    found = moved(fc.algorithms.on_part(is_body, of_the_bias(inner)), {"body": UPDATE["body"]})
    np.testing.assert_array_equal(found.body["bias"], WEIGHTS.body["bias"] - UPDATE["body"]["bias"])
    np.testing.assert_array_equal(found.body["kernel"], WEIGHTS.body["kernel"])


def of_the_bias(inner):
    """Passes only the bias of the update to `inner`."""

    def next(state, weights, update):
        return inner.next(state, weights, fc.federated_map(lambda u: {"body": {"bias": u.body["bias"]}}, update))

    return inner._replace(next=next)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"body": {"bias": UPDATE["body"]["bias"]}}, "no leaf 'body.kernel'"),
        ({**UPDATE, "head": np.zeros(2, np.float32)}, "an unknown leaf 'head'"),
        ({"body": {**UPDATE["body"], "bias": np.ones(3, np.float32)}}, r"'body.bias' must be float32\[2\]"),
    ],
    ids=["missing", "in excess", "shape"],
)
def test_update_with_other_leaves_than_the_part_is_refused(update, message):
    with pytest.raises(TypeError, match=message):
        moved(fc.algorithms.on_part(is_body, SGD), update)


def test_predicate_that_chooses_nothing_is_refused():
    with pytest.raises(TypeError, match=r"choose some of the paths \['body.bias', 'body.kernel', 'head'\], got none"):
        moved(fc.algorithms.on_part(lambda path: path == "tail", SGD), UPDATE)


def test_arguments_of_a_wrong_kind_are_refused():
    with pytest.raises(TypeError, match="must be a function of a leaf's path, got 'body'"):
        fc.algorithms.on_part("body", SGD)
    with pytest.raises(TypeError, match=r"on_part\(finalizer=...\) must be a fc.contracts.Finalizer"):
        fc.algorithms.on_part(is_body, optax.sgd(1.0))


def test_part_and_with_part_are_inverse():
    part = fc.trees.part(is_body, WEIGHTS)
    assert part.head is None
    back = fc.trees.with_part(WEIGHTS, part)
    jax.tree.map(np.testing.assert_array_equal, back, WEIGHTS)
    with pytest.raises(ValueError, match=r"takes leaves at paths of the tree, .*got 'tail'"):
        fc.trees.with_part(WEIGHTS, {"tail": 1.0})


@pytest.mark.parametrize(
    ("prefix", "shapes"),
    [
        (2.0, [(), ()]),
        (np.ones(3), [(3, 1), (3,)]),
        ({"a": np.ones((3, 4)), "b": 1.0}, [(3, 4), ()]),
    ],
)
def test_expand_gives_an_entry_for_every_leaf(prefix, shapes):
    tree = {"a": jnp.ones((3, 4)), "b": jnp.ones(3)}
    found = fc.trees.expand(prefix, tree)
    assert [jnp.shape(leaf) for leaf in jax.tree.leaves(found)] == shapes
    jax.tree.map(lambda f, leaf: jnp.broadcast_shapes(jnp.shape(f), leaf.shape), found, tree)


@pytest.mark.parametrize("prefix", [np.ones(4), {"a": 1.0}, {"a": 1.0, "b": np.ones(2)}, (1.0, 2.0)])
def test_expand_refuses_what_is_no_beginning(prefix):
    with pytest.raises(ValueError, match="takes one entry for all leaves, for the rows of each, or for each field"):
        fc.trees.expand(prefix, {"a": jnp.ones((3, 4)), "b": jnp.ones(3)})
