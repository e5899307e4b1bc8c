"""Rounds with failures: the bits of `next` on the survivors alone."""

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import data as fd
from tests import learning_references as reference
from tests.test_traces import compilations

KEY = jax.random.key(5)
SIZES = np.random.default_rng(1).integers(1, 40, 20)
DATA = fd.FederatedData.from_clients(reference.make_clients(SIZES))
BATCHING = fd.Batching(4, None, shuffle=True)


@pytest.fixture(scope="module")
def process():
    return fc.algorithms.fed_avg(
        reference.linear_model(), optax.sgd(0.1, momentum=0.9), server_optimizer=optax.adam(0.05), key=KEY
    )


def participants(minimum=6):
    effort = fd.Effort(max_steps=12, max_seconds=10.0)
    return fd.participation(
        fd.uniform_sampler(DATA.client_ids, 14, key=KEY),
        fd.available(fd.diurnal(0.6, 1.0, rounds_per_day=6, key=KEY), key=KEY),
        fd.dropout(0.2, key=KEY),
        fd.local_effort(effort, DATA, BATCHING, steps_per_second=fd.lognormal_speeds(1.0, 0.6, key=KEY)),
        fd.deadline(10.5),
        fd.first_to_report(6),
        fd.minimum_reports(minimum),
    )


def run(process, state, ask, rounds):
    """The loop that a user would write: a skipped round does not run."""
    turnouts = []
    for round_num in rounds:
        present = ask(round_num)
        turnouts.append(present)
        if not present.skipped:
            key = jax.random.fold_in(KEY, round_num)
            cohort = DATA.cohort(present.ids, BATCHING, key=key, max_steps=present.max_steps)
            state, _ = process.next(state, cohort)
    return state, turnouts


def test_a_round_with_dropouts_is_that_of_the_survivors_alone(process):
    state, turnouts = run(process, process.initialize(), participants(), range(1, 9))
    skipped, lost = [t.skipped for t in turnouts], {}
    for present in turnouts:
        lost = {reason: lost.get(reason, 0) + n for reason, n in present.lost.items()}
    assert any(skipped) and not all(skipped) and all(lost.values())
    assert any(len(set(present.max_steps.tolist())) > 2 for present in turnouts)
    alone = process.initialize()
    for round_num, present in enumerate(turnouts, 1):
        if present.skipped:
            continue
        limits = dict(zip(present.ids, present.max_steps.tolist()))
        survivors = [i for i in sorted(DATA.client_ids, reverse=True) if i in limits]
        few = DATA.subset(survivors)
        key = jax.random.fold_in(KEY, round_num)
        cohort = few.cohort(survivors, BATCHING, key=key, max_steps=[limits[i] for i in survivors])
        alone, _ = process.next(alone, cohort)
    reference.assert_same_bits(state, alone)
    assert int(state.round_num) == len(turnouts) - sum(skipped)


def test_a_resumed_run_has_the_same_bits(process):
    whole, _ = run(process, process.initialize(), participants(), range(1, 7))
    state, _ = run(process, process.initialize(), participants(), range(1, 4))
    resumed, _ = run(process, state, participants(), range(4, 7))
    reference.assert_same_bits(whole, resumed)


def test_changing_survivors_do_not_compile_anew(process):
    with compilations() as seen:
        _, turnouts = run(process, process.initialize(), participants(0), range(1, 41))
    cohorts = {(present.reported, int(present.max_steps.sum())) for present in turnouts}
    assert len(cohorts) > 20 and seen.count("jit(run)") <= 4  # one for each class of sizes


def test_an_empty_poisson_cohort_leaves_all_but_the_round_number(process):
    state, _ = run(process, process.initialize(), participants(), range(1, 3))
    ids = fd.poisson_sampler(DATA.client_ids, 0.0, key=KEY)(3)
    new, metrics = process.next(state, DATA.cohort(ids, BATCHING, key=KEY, max_steps=5))
    assert ids == [] and int(new.round_num) == int(state.round_num) + 1
    reference.assert_same_bits(new, state._replace(round_num=new.round_num))
    assert np.isnan(metrics["client_work"]["train"]["loss"])
