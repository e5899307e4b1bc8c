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


def test_a_sampler_that_says_nothing_costs_as_much_as_everyone(arguments):
    """Those of the same clients in every round do not hide who takes part."""
    own = arguments | {"sampler": lambda round_num: arguments["train_data"].client_ids[:2], "rounds": 1}
    for sampling, repair in (
        (privacy.poisson(0.1), r"declare how your sampler draws: sampler.sampling = \('poisson', 0.1\)"),
        (privacy.fixed_size(2, 12), r"sampler.sampling = \('fixed_size', 2, 12\)"),
    ):
        with pytest.raises(ValueError, match=repair):
            Run(**own, accounting=_accounting(sampling))
    everyone = _accounting(privacy.everyone())
    assert train(**own, accounting=everyone).history.column("privacy/epsilon")[0] == everyone.epsilon_so_far(1)


def test_a_client_that_is_drawn_twice_is_refused(arguments):
    """It can move the sum by twice its norm."""
    drawn = uniform_sampler(arguments["train_data"].client_ids, 40, replace=True, key=KEY)
    with pytest.raises(ValueError, match=r"at most once, got the client .* twice in round 1; draw without replacement"):
        train(**arguments | {"sampler": drawn}, accounting=_accounting(privacy.everyone()))


def _noised(multiplier):
    return fc.aggregators.private_mean(1.0, multiplier, cohort_size=4, key=KEY)


def _process(aggregator):
    model = fc.models.logistic_regression(60, 10)
    return fc.algorithms.fed_sgd(model, server_optimizer=optax.sgd(0.1), aggregator=aggregator, key=KEY)


@pytest.mark.parametrize(
    "aggregator",
    [
        fc.aggregators.mean(),
        fc.aggregators.robust(_noised(1.0)),
        fc.aggregators.clip_by_norm(fc.aggregators.quantile_estimate(1.0, 0.5, 0.2), _noised(1.0)),
    ],
    ids=["mean", "robust", "estimated bound"],
)
def test_accounting_without_noise_is_refused(arguments, aggregator):
    """An epsilon of 8.74 was shown for a run that hid nobody."""
    message = (
        r"which is none, got noise_multiplier=1.0; build the process with aggregator=fc.aggregators.private_mean\("
    )
    with pytest.raises(ValueError, match=message):
        Run(**arguments | {"process": _process(aggregator)}, accounting=_accounting(privacy.fixed_size(4, 12)))


def test_accounting_for_another_noise_is_refused(arguments):
    """With noise 1, an accounting of 4 shows 0.16 for 0.50."""
    spent = privacy.accounting(noise_multiplier=4.0, delta=1e-3, sampling=privacy.fixed_size(4, 12))
    message = r"noise_multiplier=1.0, got one for noise_multiplier=4.0; use .*accounting\(noise_multiplier=1.0, ...\)"
    for process in (arguments["process"], arguments["process"].with_config(fc.EngineConfig(lanes=1))):
        with pytest.raises(ValueError, match=message):
            Run(**arguments | {"process": process}, accounting=spent)


def test_a_sensitivity_of_its_own_is_taken_into_account(arguments):
    """If one client replaces another, the sum moves by 2: noise 1 is half of the sensitivity."""
    for noise, refused in ((0.5, False), (1.0, True)):
        spent = privacy.accounting(
            noise_multiplier=noise, delta=1e-3, sampling=privacy.fixed_size(4, 12), sensitivity=1.0
        )
        assert spent.noise_multiplier == 2 * noise
        if refused:
            with pytest.raises(ValueError, match=r"got one for noise_multiplier=2.0"):
                Run(**arguments, accounting=spent)
        else:
            Run(**arguments, accounting=spent)
    own = _accounting(privacy.fixed_size(4, 12), sensitivity=2.0)
    assert own.noise_multiplier == 1.0
    assert _accounting(privacy.everyone()).noise_multiplier == 1.0


def test_an_accounting_of_another_mechanism_is_believed(arguments):
    own = privacy.Accounting(privacy.fixed_size(4, 12), 1e-3, lambda round_num: 0.5 * round_num)
    run = Run(**arguments | {"process": _process(fc.aggregators.mean())}, accounting=own)
    assert run.accounting is own


def test_wrapped_noise_is_accounted_for(arguments):
    aggregator = fc.aggregators.measure(fc.aggregators.clip_by_norm(2.0, _noised(1.0)))
    assert aggregator.noise_multiplier == 1.0
    Run(**arguments | {"process": _process(aggregator)}, accounting=_accounting(privacy.fixed_size(4, 12)))


def test_no_noise_costs_everything(arguments):
    spent = privacy.accounting(noise_multiplier=0.0, delta=1e-3, sampling=privacy.fixed_size(4, 12))
    Run(**arguments | {"process": _process(_noised(0.0))}, accounting=spent)
    assert spent.epsilon_so_far(1) == float("inf")


@pytest.mark.parametrize("said", ["weighted", ("weighted", 4), privacy.poisson(0.5)])
def test_a_sampler_that_says_something_else_is_refused(arguments, said):
    def sampler(round_num):
        pytest.fail("nothing is drawn")

    sampler.sampling = said
    with pytest.raises(TypeError, match=r"`sampling` must say how it samples, got .*; write sampler.sampling = \('poi"):
        Run(**arguments | {"sampler": sampler}, accounting=_accounting(privacy.poisson(0.5)))
