"""Integers out of range are refused where a cohort is read, with the client and the value."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.engine import _ranges
from fedjax_core.language.graph import IntegerRange, in_ranges

BATCHING = fc.data.Batching(batch_size=2)
BATCHES = fc.at_clients("<x=float32[?],y=int32[?]>*")
DIGITS = (IntegerRange("y", 0, 9),)


def data(**labels) -> fc.data.FederatedData:
    return fc.data.from_clients(
        {i: {"x": np.ones(len(y), np.float32), "y": np.array(y, int)} for i, y in labels.items()}
    )


GOOD = data(ada=[0, 9], bob=[3], eve=[])
BAD = data(ada=[0, 9, 1], bob=[3, 10], eve=[5])


def counted(ranges):
    @fc.federated_computation(BATCHES)
    def count(data):
        return fc.federated_sum(fc.federated_map(lambda d: d.num_examples, in_ranges(data, ranges)))

    return count


COUNT = counted(DIGITS)
OTHERS = {"num_examples": counted(())}


def cohort(data):
    return data.cohort(data.client_ids, BATCHING)


def test_integers_in_range_are_taken():
    assert int(COUNT(cohort(GOOD))) == 3
    assert int(COUNT(cohort(GOOD.subset(["eve"])))) == 0


@pytest.mark.parametrize(("label", "shown"), [(10, "10"), (-1, "-1"), (2**31 - 1, "2147483647")])
def test_the_client_and_the_value_are_named(label, shown):
    found = cohort(data(ada=[0, 9, 1], bob=[3, label], eve=[5]))
    message = rf"client 'bob' has {shown} in field 'y', which must be from 0 to 9, .*check_ranges=False"
    with pytest.raises(ValueError, match=message):
        COUNT(found)
    with pytest.raises(ValueError, match="client 'bob'"):
        COUNT.prefetch(found)


def test_clients_of_a_dict_and_of_a_list_are_checked():
    batch = {"x": np.ones(2, np.float32), "y": np.array([1, 12], np.int32)}
    with pytest.raises(ValueError, match="client 'ada' has 12"):
        COUNT({"ada": [batch]})
    with pytest.raises(ValueError, match="client 0 has 12"):
        COUNT([[batch]])


def test_several_waves_and_devices_are_checked():
    wide = {f"client{i}": [0] for i in range(40)}
    for config in (fc.EngineConfig(memory_budget=1), fc.EngineConfig(devices=2)):
        with pytest.raises(ValueError, match="client 'client37' has 99"):
            COUNT.with_config(config)(cohort(data(**wide | {"client37": [99]})))


def test_the_check_can_be_switched_off():
    assert int(COUNT.with_config(fc.EngineConfig(check_ranges=False))(cohort(BAD))) == 6
    with pytest.raises(TypeError, match="must be True or False, got 1"):
        fc.EngineConfig(check_ranges=1)


def test_what_another_computation_has_read_is_checked_all_the_same():
    read = cohort(BAD)
    assert int(OTHERS["num_examples"](read)) == 6
    with pytest.raises(ValueError, match="client 'bob' has 10"):
        COUNT(read)


def test_a_cohort_is_read_once_by_computations_with_the_same_ranges_or_none():
    read = cohort(GOOD)
    COUNT(read)
    (packing,) = read.packed.values()
    counted(DIGITS)(read)
    OTHERS["num_examples"](read)
    assert list(read.packed.values()) == [packing]


def test_a_computation_inside_another_checks_its_argument():
    @fc.federated_computation(BATCHES)
    def twice(data):
        return fc.federated_map(lambda n: 2 * n, COUNT(data))

    with pytest.raises(ValueError, match="client 'bob' has 10"):
        twice(cohort(BAD))


def test_one_of_two_arguments_is_checked():
    @fc.federated_computation(BATCHES, BATCHES)
    def both(one, other):
        return COUNT(other)

    assert int(both(cohort(BAD), cohort(BAD.map(lambda e: e | {"y": e["y"] % 10})))) == 6
    with pytest.raises(ValueError, match="client 'bob' has 10"):
        both(cohort(GOOD), cohort(BAD.subset(GOOD.client_ids)))


def test_padding_of_a_sequence_is_another_integer():
    tokens = fc.data.from_clients([{"y": np.array([[1, 2, -1], [0, -1, -1]])}])
    for also, message in ((-1, None), (None, "client 0 has -1"), (7, "which must be from 0 to 3, or 7,")):

        @fc.federated_computation(fc.at_clients("<y=int32[?,3]>*"))
        def count(data, also=also):
            checked = in_ranges(data, (IntegerRange("y", 0, 3, also),))
            return fc.federated_sum(fc.federated_map(lambda d: d.num_examples, checked))

        if message is None:
            assert int(count(cohort(tokens))) == 2
        else:
            with pytest.raises(ValueError, match=message):
                count(cohort(tokens))


def test_ranges_are_merged_for_each_argument():
    classes = (IntegerRange("y", 0, 4),)
    assert _ranges.merged((DIGITS, ()), (classes, classes)) == (DIGITS + classes, classes)


def labelled(shift: int) -> fc.data.FederatedData:
    random = np.random.default_rng(0)
    return fc.data.from_clients(
        [{"x": random.normal(size=(3, 2)).astype(np.float32), "y": random.integers(0, 10, 3) + shift} for _ in range(3)]
    )


MODEL = fc.models.logistic_regression(2, 10, metrics={"accuracy": fc.metrics.accuracy()})
PROCESSES = {
    "fed_avg": lambda: fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), key=jax.random.key(0)),
    "fed_eval": lambda: fc.algorithms.fed_eval(MODEL),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_labels_that_are_no_class_of_the_model_are_refused_by_rounds(name):
    process = PROCESSES[name]()
    state = process.initialize()
    with pytest.raises(ValueError, match=r"client \d has 1\d in field 'y', which must be from 0 to 9, the classes"):
        process.next(state, cohort(labelled(10)))
    process.next(state, cohort(labelled(0)))


def test_labels_that_are_no_class_are_refused_in_evaluations_and_otherwise_left_out_and_counted():
    evaluation = fc.algorithms.federated_evaluation(MODEL)
    weights = MODEL.init(jax.random.key(0))
    with pytest.raises(ValueError, match="which must be from 0 to 9"):
        evaluation(weights, cohort(labelled(10)))
    unchecked = evaluation.with_config(fc.EngineConfig(check_ranges=False))
    assert int(unchecked(weights, cohort(labelled(10)))["eval"]["num_non_finite"]) == 3


def test_tokens_beyond_the_vocabulary_are_refused():
    """JAX takes the last row of an embedding for a token beyond it."""
    model = fc.models.character_model(vocab_size=5, hidden_size=2, sequence_length=3)
    tokens = np.array([[1, 4, 5]], np.int32)
    right = np.array([[1, 4, 2]], np.int32)
    evaluation, weights = fc.algorithms.federated_evaluation(model), model.init(jax.random.key(0))
    for x, y, field in ((tokens, right, "x"), (right, tokens, "y")):
        with pytest.raises(ValueError, match=f"client 0 has 5 in field '{field}', which must be from 0 to 4"):
            evaluation(weights, cohort(fc.data.from_clients([{"x": x, "y": y}])))


def test_a_loss_of_ones_own_has_no_range():
    model = MODEL._replace(loss=lambda predictions, batch: jnp.mean(predictions, 1))
    assert fc.clients.integer_ranges(model) == ()
