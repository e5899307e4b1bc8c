import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.contracts import ModelWeights


def test_weights_are_a_pytree_with_named_parts():
    weights = ModelWeights(trainable={"w": jnp.ones(3)}, non_trainable={"mean": jnp.zeros(2)})
    assert str(types.type_of(weights)) == "<trainable=<w=float32[3]>,non_trainable=<mean=float32[2]>>"
