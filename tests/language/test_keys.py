"""One key per client, from its identity."""

import jax
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine import client_digests


@fc.federated_computation(fc.at_server("key<fry>"), fc.at_clients("float32"))
def split(key, values):
    return fc.federated_collect(fc.federated_split_key(key))


def test_a_clients_key_is_folded_from_the_halves_of_its_digest():
    key = jax.random.key(3)
    halves = client_digests(range(4)).view(np.uint32).reshape(-1, 2)
    expected = [jax.random.fold_in(jax.random.fold_in(key, a), b) for a, b in halves]
    for found in (split(key, [0.0] * 4), split.as_function()(key, np.zeros(4, np.float32))):
        np.testing.assert_array_equal(jax.random.key_data(found), [jax.random.key_data(k) for k in expected])


def test_keys_do_not_depend_on_who_else_takes_part():
    key = jax.random.key(3)
    few, many = (jax.random.key_data(split(key, [0.0] * n)) for n in (2, 9))
    np.testing.assert_array_equal(few, many[:2])
    assert len({tuple(k) for k in many.tolist()}) == 9


@pytest.mark.parametrize("type_", [fc.at_clients("key<fry>"), fc.at_server("uint32[2]"), fc.at_server("key<fry>[2]")])
def test_only_one_key_at_the_server(type_):
    with pytest.raises(TypeError, match=r"federated_split_key takes .*test_keys.py:\d+"):
        fc.federated_computation(fc.federated_split_key, type_)


def test_a_raw_key_is_refused_with_the_repair():
    with pytest.raises(TypeError, match=r"expected key<fry>, got uint32\[2\]; .* jax.random.key\(seed\)"):
        split(jax.random.PRNGKey(0), [0.0])
