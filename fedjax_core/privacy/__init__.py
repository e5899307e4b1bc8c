"""Privacy: the cost of rounds of `aggregators.private_mean`, in floats on the host.

  epsilon                       the cost of a run, from its noise, rounds and delta
  noise_multiplier              the noise that a budget needs, from its rounds
  rounds                        the rounds that a budget allows, from its noise
  accounting, Accounting        the cost after each round, for a training loop
  everyone, poisson, fixed_size how the clients of a round are drawn: a `Sampling`

A guarantee protects each client with all of its data. dp-accounting does the computation; it comes with
`pip install 'fedjax_core[privacy]'` and is imported when something is computed.

Plan a run, then train it: the history and the progress line show the epsilon of each round.

>>> import jax, optax, fedjax_core as fc
>>> data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0))
>>> drawn = fc.privacy.fixed_size(5, len(data))
>>> rounds = fc.privacy.rounds(noise_multiplier=4.0, epsilon=2.0, delta=1e-3, sampling=drawn)
>>> process = fc.algorithms.fed_avg(
...     fc.models.logistic_regression(60, 10),
...     optax.sgd(0.1),
...     aggregator=fc.aggregators.private_mean(1.0, noise_multiplier=4.0, cohort_size=5, key=jax.random.key(1)),
...     key=jax.random.key(2),
... )
>>> spent = fc.privacy.accounting(noise_multiplier=4.0, delta=1e-3, sampling=drawn)
>>> result = fc.program.train(
...     process, data, sampler=5, rounds=rounds, batching=fc.data.Batching(20), accounting=spent, key=jax.random.key(3)
... )
>>> print(" ".join(f"{epsilon:.2f}" for epsilon in result.history.column("privacy/epsilon")))
0.71 1.04 1.33 1.60 1.86
"""

from fedjax_core._signposts import signpost
from fedjax_core.privacy._accounting import Accounting, accounting, epsilon, noise_multiplier, rounds
from fedjax_core.privacy._sampling import Sampling, everyone, fixed_size, poisson

__all__ = [
    "Accounting",
    "Sampling",
    "accounting",
    "epsilon",
    "everyone",
    "fixed_size",
    "noise_multiplier",
    "poisson",
    "rounds",
]

signpost(__name__)
