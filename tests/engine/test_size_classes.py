"""Cohorts of one kind share a few compiled programs."""

import numpy as np
import pytest

import fedjax_core as fc

POPULATION, CLIENTS, COHORTS, MOST = 3400, 100, 1000, 5


@pytest.fixture(scope="module")
def data():
    """As ragged as the clients of W1 (benchmarks/workloads.py), with examples of four bytes."""
    random = np.random.RandomState(0)
    sizes = np.clip(np.rint(200 * np.exp(0.35 * random.standard_normal(POPULATION))), 20, 500).astype(int)
    return fc.data.from_clients({i: {"x": np.zeros(n, np.int32)} for i, n in enumerate(sizes)})


@pytest.mark.parametrize("devices", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_thousand_cohorts_compile_at_most_five_times(data, devices):
    traced = []

    @fc.federated_computation(fc.at_clients("<x=int32[?]>*"))
    def count(clients):
        def examples(batches):
            traced.append(None)
            return batches.num_examples

        return fc.federated_sum(fc.federated_map(examples, clients))

    run = count.with_config(fc.EngineConfig(lanes=1, devices=devices))
    random, size_of = np.random.default_rng(1), dict(zip(data.client_ids, data.sizes))
    classes = 0
    for round_num in range(COHORTS):
        ids = random.choice(data.client_ids, CLIENTS, replace=False)
        before = len(traced)
        total = run(data.cohort(ids, fc.data.Batching(batch_size=20)))
        classes += len(traced) > before
        if round_num % 100 == 0:
            assert int(total) == sum(size_of[i] for i in ids)
    assert 1 <= classes <= MOST
