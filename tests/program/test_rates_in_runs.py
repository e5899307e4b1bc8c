"""Client learning rates in runs: from a function of the round number and from the state, across a resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from tests import learning_references as reference

KEY = jax.random.key(12)
MODEL = reference.linear_model()
DATA = fc.data.from_clients(reference.make_clients((7, 5, 4)))
BATCHING = fc.data.Batching(3)


def by_the_round(round_num):
    return optax.sgd(jnp.float32(0.5) * 0.5**round_num)


def in_the_state():
    return optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)


def run(optimizer, rounds, folder=None, **options):
    """Everybody takes part in every round."""
    process = fc.algorithms.fed_avg(MODEL, optimizer, key=KEY)
    start = options.pop("rate", None)
    if start is not None:
        options["initial_state"] = process.set_hparams(process.initialize(), {"client_work": {"learning_rate": start}})
    return fc.program.Run(
        process, DATA, sampler=3, batching=BATCHING, rounds=rounds, folder=folder, progress=False, key=KEY, **options
    ).train()


def oracle(rates):
    weights = reference.as_float64(MODEL.init(jax.random.split(KEY)[0]))
    clients = reference.make_clients((7, 5, 4))
    for rate in rates:
        update, _ = reference.fed_avg_update(weights, clients, reference.SGD(rate), 3, 1)
        weights = jax.tree.map(np.subtract, weights, update)
    return weights


@pytest.mark.parametrize(
    ("optimizer", "options", "rates"),
    [(by_the_round, {}, [0.5, 0.25, 0.125]), (in_the_state(), {"rate": 0.125}, [0.125] * 3)],
    ids=["round", "state"],
)
def test_rates_go_on_after_a_resume(optimizer, options, rates, tmp_path):
    whole = run(optimizer, 3, **options)
    reference.assert_close(whole.state.weights, oracle(rates))
    run(optimizer, 1, tmp_path, **options)
    resumed = run(optimizer, 3, tmp_path, **options)
    reference.assert_same_bits(resumed.state, whole.state)
