"""Arguments at CLIENTS become one cohort."""

import numpy as np
import pytest

import fedjax_core as fc
from tests import cohorts


@fc.federated_computation(fc.at_clients(cohorts.DATA), fc.at_clients("float32"))
def weighted_examples(data, weights):
    counts = fc.federated_map(lambda d, w: d.num_examples * w, data, weights)
    return fc.federated_sum(counts)


def test_a_list_beside_a_cohort_is_in_its_order():
    cohort = cohorts.make_cohort(cohorts.make_population([3, 5]))
    assert float(weighted_examples(cohort, [10.0, 1.0])) == 35.0
    assert float(weighted_examples(cohort, np.array([1.0, 10.0], np.float32))) == 53.0


def test_arguments_have_the_same_number_of_clients():
    cohort = cohorts.make_cohort(cohorts.make_population([3, 5]))
    with pytest.raises(ValueError, match="'data' has 2, 'weights' has 1"):
        weighted_examples(cohort, [1.0])


def test_two_cohorts_have_the_same_clients_in_the_same_order():
    @fc.federated_computation(fc.at_clients(cohorts.DATA), fc.at_clients(cohorts.DATA))
    def both(first, second):
        return fc.federated_sum(fc.federated_map(lambda a, b: a.num_examples * b.num_examples, first, second))

    clients = cohorts.make_population([3, 5])
    here, turned = cohorts.make_cohort(clients), cohorts.make_cohort(clients, list(clients)[::-1])
    assert int(both(here, here)) == 34
    with pytest.raises(ValueError, match="the same clients in the same order"):
        both(here, turned)


def test_stacked_arrays_have_a_row_per_client_in_every_field():
    @fc.federated_computation(fc.at_clients({"a": "float32", "b": "float32[2]"}))
    def total(values):
        return fc.federated_sum(values)

    good = {"a": np.ones(3, np.float32), "b": np.ones((3, 2), np.float32)}
    assert total(good)["b"].tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match=r"one row per client in every field, got \[3, 4\] rows"):
        total(good | {"a": np.ones(4, np.float32)})


def test_batches_are_padded_to_a_dimension_that_the_type_fixes():
    @fc.federated_computation(fc.at_clients("<x=float32[4,2],y=float32[4]>*"))
    def total(data):
        return fc.federated_sum(fc.federated_map(lambda d: d.sum()["y"], data))

    clients = cohorts.make_population([3, 5])
    expected = sum(client["y"].sum(dtype=np.float64) for client in clients.values())
    np.testing.assert_allclose(total(cohorts.make_cohort(clients, batch_size=4)), expected, rtol=1e-5)
    with pytest.raises(TypeError, match=r"float32\[4,2\]"):
        total(cohorts.make_cohort(clients, batch_size=3))
