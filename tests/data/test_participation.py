"""Who reports is a function of the key, the round and the client alone, and every client is counted."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.data import (
    Batching,
    Effort,
    FederatedData,
    Participation,
    available,
    deadline,
    diurnal,
    dropout,
    first_to_report,
    fixed_cohorts,
    local_effort,
    lognormal_speeds,
    minimum_reports,
    participation,
    poisson_sampler,
    uniform_sampler,
)

KEY = jax.random.key(0)
IDS = tuple(f"client_{i}" for i in range(200))
SIZES = np.random.default_rng(0).integers(0, 60, 200)
DATA = FederatedData.from_clients({i: {"x": np.zeros(n, np.float32)} for i, n in zip(IDS, SIZES)})
BATCHING = Batching(10, 2)
EVERYONE = fixed_cohorts([IDS], first_round=0)


def stages(key=KEY) -> dict:
    """One stage of each kind that decides for every client independently."""
    speeds = lognormal_speeds(1.0, 0.7, key=key)
    return {
        "available": available(diurnal(0.3, 0.9, rounds_per_day=10, key=key), key=key),
        "dropout": dropout(0.3, key=key),
        "effort": local_effort(Effort(max_seconds=9.0), DATA, BATCHING, steps_per_second=speeds),
        "deadline": deadline(9.0),
    }


def test_a_fate_is_a_function_of_key_round_and_client():
    together = participation(EVERYONE, *stages().values())
    seconds = {}
    for round_num in range(3):
        present = together(round_num)
        assert 20 < present.reported < 150
        alone = [participation(lambda r, i=i: [i], *stages().values())(round_num) for i in reversed(IDS)]
        for i, fate in zip(reversed(IDS), alone, strict=True):
            assert (i in present.ids) == bool(fate.ids)
            if fate.ids:
                seconds[i] = fate.seconds[0], fate.max_steps[0]
        assert present.seconds.tolist() == [seconds[i][0] for i in present.ids]
        assert present.max_steps.tolist() == [seconds[i][1] for i in present.ids]


def test_rounds_and_keys_and_stages_differ():
    fates = set()
    for seed, name, round_num in itertools.product(range(3), ("available", "dropout"), range(5)):
        stage = {"available": available, "dropout": dropout}[name](0.5, key=jax.random.key(seed))
        fates.add(participation(EVERYONE, stage)(round_num).ids)
    assert len(fates) == 30


@pytest.mark.parametrize("make, share", [(available, 0.3), (dropout, 0.7)])
def test_clients_stay_with_their_probability_independently(make, share):
    present = participation(EVERYONE, make(0.3, key=KEY))
    here = np.array([[i in ids for i in IDS] for ids in (set(present(r).ids) for r in range(500))])
    deviation = np.sqrt(share * (1 - share))
    assert abs(here.mean() - share) < 4 * deviation / np.sqrt(here.size)
    assert (np.abs(here.mean(0) - share) < 4.5 * deviation / np.sqrt(500)).all()
    assert (np.abs(here.mean(1) - share) < 4.5 * deviation / np.sqrt(200)).all()
    assert abs(np.corrcoef(here[:-1].ravel(), here[1:].ravel())[0, 1]) < 4 / np.sqrt(here.size)


def test_certain_probabilities_are_certain():
    assert participation(EVERYONE, available(1, key=KEY), dropout(0.0, key=KEY))(0).ids == IDS
    for nobody in (available(0, key=KEY), dropout(1.0, key=KEY)):
        assert participation(EVERYONE, nobody)(0).ids == ()


def test_probabilities_by_client_and_by_function():
    by_client = dict(zip(IDS, np.linspace(0, 1, 200).tolist()))
    dict_, function, array = (
        participation(EVERYONE, dropout(p, key=KEY))(3).ids
        for p in (by_client, lambda r, ids: [by_client[i] for i in ids], lambda r, ids: jax.numpy.linspace(0, 1, 200))
    )
    assert dict_ == function and len(set(dict_) ^ set(array)) <= 1  # float32
    assert IDS[0] in dict_ and IDS[-1] not in dict_


def test_a_client_that_is_asked_twice_has_two_fates():
    twice = participation(lambda r: ["ada", "ada"], dropout(0.5, key=KEY))
    counts = np.bincount([len(twice(r).ids) for r in range(1000)])
    assert ((counts - [250, 500, 250]) ** 2 / [250, 500, 250]).sum() < 13.8  # 2 degrees of freedom
    first = participation(lambda r: ["ada"], dropout(0.5, key=KEY))
    assert all(first(r).ids == twice(r).ids[:1] for r in range(50) if first(r).ids)


@given(st.integers(0, 60), st.integers(0, 12), st.integers(0, 12), st.integers(0, 20))
def test_the_numbers_add_up(asked, needed, minimum, round_num):
    ask = participation(
        uniform_sampler(IDS, asked, key=KEY), *stages().values(), first_to_report(needed), minimum_reports(minimum)
    )
    present = ask(round_num)
    assert list(present.metrics()) == [
        "selected",
        "unavailable",
        "dropped",
        "late",
        "surplus",
        "reported",
        "skipped",
    ]
    assert present.selected == asked == sum(present.lost.values()) + present.reported
    assert present.reported <= needed and present.skipped == (present.reported < minimum)
    assert len(present.ids) == len(present.max_steps) == len(present.seconds) == len(present.identity)
    assert len(present.ids) == (0 if present.skipped else present.reported)


def test_nobody_is_asked():
    present = participation(poisson_sampler(IDS, 0.0, key=KEY), *stages().values(), first_to_report(3))(1)
    assert present.ids == () and not present.skipped and present.metrics()["selected"] == 0
    assert len(DATA.cohort(present.ids, BATCHING, max_steps=present.max_steps)) == 0


def test_stages_are_functions_that_keep_clients():
    def even(round_num, present):
        return present.keep([int(i[7:]) % 2 == round_num for i in present.ids], "odd")

    present = participation(EVERYONE, even, even)(0)
    assert present.ids == IDS[::2] and present.lost["odd"] == 100 and present.max_steps is None
    for wrong in ([True], [1] * 200, None):
        with pytest.raises(ValueError, match=r"takes one bool per client, got .* for 200 clients"):
            participation(EVERYONE, lambda r, present, wrong=wrong: present.keep(wrong, "odd"))(0)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: participation(IDS), TypeError, "takes functions, got .*client_0"),
        (lambda: participation(EVERYONE, 0.1), TypeError, "takes functions, got 0.1; for example"),
        (
            lambda: participation(EVERYONE)(-1),
            ValueError,
            r"participation\(round_num=...\) must be an integer of at least 0",
        ),
        (lambda: participation(lambda r: "ada")(0), TypeError, r"got the string 'ada'; use \['ada'\]"),
        (
            lambda: participation(EVERYONE, lambda r, present: None)(0),
            TypeError,
            "must return a Participation, got None from <func",
        ),
        (lambda: dropout({"a": "often"}, key=KEY), TypeError, r"must be numbers, got \['often'\]; for example \{'ada'"),
        (lambda: dropout(-0.1, key=KEY), ValueError, r"dropout\(probability=...\) must be from 0 to 1, got -0.1"),
        (lambda: dropout({"a": 0.5, "b": 2}, key=KEY), ValueError, "must be from 0 to 1, got 2.0"),
        (
            lambda: dropout([0.5], key=KEY),
            TypeError,
            r"must be a number, a dict by client id or a function .*got \[0.5\]",
        ),
        (lambda: dropout(0.1, key=0), TypeError, "dropout draws on the host and needs one typed key"),
        (lambda: available("often", key=KEY), TypeError, "must be a number, a dict by client id or a function"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "probability, message",
    [
        ({"client_0": 0.5}, "must have a value for every client, got none for client 'client_1'"),
        (lambda r, ids: 1.5, "must be from 0 to 1, got 1.5"),
        (lambda r, ids: [0.5], r"one value per client, got the shape \(1,\) for 200 clients"),
    ],
)
def test_wrong_values_are_refused_when_they_are_known(probability, message):
    ask = participation(EVERYONE, available(probability, key=KEY))
    with pytest.raises(ValueError, match=message):
        ask(0)


def test_golden_values():
    ask = participation(uniform_sampler(IDS, 12, key=KEY), *stages().values())
    present = ask(7)
    assert present.ids == ("client_100", "client_73", "client_113") and present.max_steps.tolist() == [5, 6, 6]
    np.testing.assert_allclose(present.seconds, [4.63626696, 3.71203218, 5.85618573], rtol=1e-8)
    assert isinstance(present, Participation)
