"""The epsilon spent so far, among the metrics of every round."""

import jax
import optax
import pytest

import fedjax_core as fc
from fedjax_core import privacy
from fedjax_core.data import Batching, dropout, participation, poisson_sampler, synthetic_iid, uniform_sampler
from fedjax_core.program import Record, Run, train

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def arguments():
    aggregator = fc.aggregators.private_mean(1.0, 1.0, cohort_size=4, key=KEY)
    model = fc.models.logistic_regression(60, 10)
    return {
        "process": fc.algorithms.fed_avg(model, optax.sgd(0.05), aggregator=aggregator, key=KEY),
        "train_data": synthetic_iid(num_clients=12, key=jax.random.key(0)),
        "sampler": 4,
        "rounds": 3,
        "batching": Batching(batch_size=20),
        "key": KEY,
    }


def _accounting(sampling, **settings):
    return privacy.accounting(noise_multiplier=1.0, delta=1e-3, sampling=sampling, **settings)


@pytest.mark.slow
def test_every_round_records_what_has_been_spent(arguments):
    spent = _accounting(privacy.fixed_size(4, 12))
    history = train(**arguments, accounting=spent).history
    assert history.column("privacy/epsilon").tolist() == [spent.epsilon_so_far(number) for number in (1, 2, 3)]
    assert f"epsilon {spent.epsilon_so_far(3):.3g}" in history.records[-1].summary()


def test_without_accounting_there_is_none(arguments):
    history = train(**arguments | {"rounds": 1}).history
    assert not any("epsilon" in name for name in history.columns)
    assert "epsilon" not in history.records[-1].summary()


def test_summary_says_loss_and_epsilon():
    record = Record(1, 1.0, 1.0, 4, {"train/loss": 0.5, "privacy/epsilon": 2.4367}, {"eval/loss": 0.25})
    assert record.summary() == "loss 0.500 · held-out loss 0.250 · epsilon 2.44"


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (privacy.fixed_size(4, 100), r"got sampling=fixed_size\(4, 100\); use sampling=fc.privacy.fixed_size\(4, 12\)"),
        (privacy.poisson(1 / 3), r"must be for the cohorts that the run draws, got sampling=poisson\("),
        (privacy.everyone(), r"got sampling=everyone\(\)"),
    ],
)
def test_accounting_for_other_cohorts_is_refused(arguments, sampling, message):
    with pytest.raises(ValueError, match=message):
        train(**arguments, accounting=_accounting(sampling), on_round=pytest.fail)


def test_cohorts_of_everyone_are_accounted_for_either_way(arguments):
    for sampling in (privacy.everyone(), privacy.fixed_size(12, 12)):
        run = train(**arguments | {"sampler": 12, "rounds": 1}, accounting=_accounting(sampling))
        assert run.history.column("privacy/epsilon")[0] > 0


def test_what_is_no_accounting_is_refused(arguments):
    with pytest.raises(TypeError, match=r"Run\(accounting=...\) must be an Accounting, got 2.0; use fc.privacy.acc"):
        train(**arguments, accounting=2.0)


def test_a_sampler_says_what_it_is(arguments):
    """An accounting for other cohorts is then refused, even if clients may fail."""
    ids = arguments["train_data"].client_ids
    poisson, uniform = poisson_sampler(ids, 0.25, key=KEY), uniform_sampler(ids, 4, key=KEY)
    for sampler in (poisson, participation(poisson, dropout(0.1, key=KEY))):
        Run(**arguments | {"sampler": sampler}, accounting=_accounting(privacy.poisson(0.25)))
        with pytest.raises(ValueError, match=r"got sampling=poisson\(0.1\); use sampling=fc.privacy.poisson\(0.25\)"):
            Run(**arguments | {"sampler": sampler}, accounting=_accounting(privacy.poisson(0.1)))
    with pytest.raises(ValueError, match=r"use sampling=fc.privacy.fixed_size\(4, 12\)"):
        Run(**arguments | {"sampler": uniform}, accounting=_accounting(privacy.poisson(0.25)))
    Run(**arguments | {"sampler": lambda round_num: ids[:1]}, accounting=_accounting(privacy.poisson(0.1)))  # believed


@pytest.mark.parametrize("said", ["weighted", ("weighted", 4), privacy.poisson(0.5)])
def test_a_sampler_that_says_something_else_is_refused(arguments, said):
    def sampler(round_num):
        pytest.fail("nothing is drawn")

    sampler.sampling = said
    with pytest.raises(TypeError, match=r"`sampling` must say how it samples, got .*; write sampler.sampling = \('poi"):
        Run(**arguments | {"sampler": sampler}, accounting=_accounting(privacy.poisson(0.5)))
