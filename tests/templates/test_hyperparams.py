"""Hyperparameters in states: found where optax keeps them, set by name."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_core.templates import hyperparams, with_hyperparams

WEIGHTS = {"w": jnp.ones(2), "hyperparams": jnp.zeros(3)}  # a dict's key of that name holds no hyperparameter


class State(NamedTuple):
    weights: dict
    client_work: object
    finalizer: object


def injected(rate):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate)


def state_of(client, server):
    return State(WEIGHTS, client.init(WEIGHTS), (server.init(WEIGHTS), jnp.int32(0)))


def test_they_are_found_by_the_first_entry_of_their_path():
    found = hyperparams(state_of(injected(0.5), optax.inject_hyperparams(optax.adam)(0.25, b1=0.5)))
    assert found["client_work"] == {"learning_rate": 0.5}
    assert {name: float(found["finalizer"][name]) for name in ("learning_rate", "b1")} == {
        "learning_rate": 0.25,
        "b1": 0.5,
    }


def test_several_under_one_entry_are_told_apart_by_the_rest_of_the_path():
    chained = optax.chain(optax.inject_hyperparams(optax.clip_by_global_norm)(max_norm=2.0), injected(0.5))
    found = hyperparams({"finalizer": chained.init(WEIGHTS)})
    assert found == {"finalizer": {"0": {"max_norm": 2.0}, "1": {"learning_rate": 0.5}}}
    moved = with_hyperparams({"finalizer": chained.init(WEIGHTS)}, {"finalizer": {"1": {"learning_rate": 0.125}}})
    assert hyperparams(moved) == {"finalizer": {"0": {"max_norm": 2.0}, "1": {"learning_rate": 0.125}}}


def test_of_an_optimizer_s_own_state_they_have_no_entry_before_them():
    assert hyperparams(injected(0.5).init(WEIGHTS)) == {"learning_rate": 0.5}
    nested = hyperparams(optax.masked(injected(0.5), {"w": True, "hyperparams": False}).init(WEIGHTS))
    assert nested == {"inner_state": {"learning_rate": 0.5}}


def test_what_a_schedule_sets_anew_is_none():
    scheduled = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.0, 10), momentum=0.5)
    assert hyperparams({"finalizer": scheduled.init(WEIGHTS)}) == {"finalizer": {"momentum": 0.5}}


def test_a_state_without_any():
    state = state_of(optax.sgd(0.1), optax.adam(0.1))
    assert hyperparams(state) == {}
    assert with_hyperparams(state, {}) == state


def test_they_are_set_in_the_dtype_that_they_have_and_the_rest_stays():
    state = state_of(injected(0.5), injected(1.0))
    moved = with_hyperparams(state, {"finalizer": {"learning_rate": np.float64(0.25)}})
    assert moved.finalizer[0].hyperparams["learning_rate"].dtype == jnp.float32
    assert hyperparams(moved) == {"client_work": {"learning_rate": 0.5}, "finalizer": {"learning_rate": 0.25}}
    assert moved.weights == state.weights and type(moved) is State


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"finalizer": {"rate": 0.1}}, r"no hyperparameter 'finalizer.rate'; it has \['client_work.learning_rate', "),
        ({"learning_rate": 0.1}, "no hyperparameter 'learning_rate'"),
        ({"finalizer": {"learning_rate": np.ones(2)}}, r"has the shape \(\), got \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        with_hyperparams(state_of(injected(0.5), injected(1.0)), values)


def test_a_fraction_for_an_integer_is_refused():
    state = {"finalizer": injected(1).init(WEIGHTS)}
    with pytest.raises(ValueError, match=r"'finalizer.learning_rate' is int32, got 0.1; .* learning_rate=1.0 in place"):
        with_hyperparams(state, {"finalizer": {"learning_rate": 0.1}})
    assert hyperparams(with_hyperparams(state, {"finalizer": {"learning_rate": 2}})) == {
        "finalizer": {"learning_rate": 2}
    }
