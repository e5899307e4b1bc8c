"""Metrics that every client finalizes, for a sample of the clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.metrics import MetricFinalizersMismatchError, finalize_then_sample
from fedjax_core.templates import AggregationProcess

SIZE = 3
KEY = jax.random.key(5)
STATISTICS = fc.types.to_type({"accuracy": ("int32", "float32"), "counts": {"per_class": "int32[2]", "total": "int32"}})
FINALIZERS = {
    "accuracy": lambda s: s[0] / s[1],
    "counts": lambda s: {"share": s["per_class"] / s["total"], "total": s["total"], "any": s["total"] > 0},
}
FINALIZED = "<accuracy=float32{0},counts=<any=bool{0},share=float32[{1}2],total=int32{0}>>"


def clients(numbers, seen=4.0):
    """Statistics from which every metric gives the client's number."""
    return [
        {"accuracy": (n, np.float32(seen)), "counts": {"per_class": np.array([n, 2 * n], np.int32), "total": n}}
        for n in numbers
    ]


def assert_aligned(sample):
    """Every row is one client in all metrics."""
    numbers = np.asarray(sample["counts"]["total"])
    np.testing.assert_allclose(sample["accuracy"], numbers / 4)
    np.testing.assert_allclose(sample["counts"]["share"], np.tile([1.0, 2.0], (len(numbers), 1)))
    np.testing.assert_array_equal(sample["counts"]["any"], numbers > 0)
    return numbers.tolist()


@pytest.fixture(scope="module")
def aggregation():
    return finalize_then_sample(SIZE, key=KEY)


@pytest.fixture(scope="module")
def process(aggregation):
    return aggregation.create(FINALIZERS, STATISTICS)


def test_is_an_aggregation_process_without_a_weight(process):
    assert isinstance(process, AggregationProcess) and not process.is_weighted
    state = (
        "<count=int32,key=key<fry>,round_num=int32,"
        "samples=<accuracy=float32[3],counts=<any=bool[3],share=float32[3,2],total=int32[3]>>,tags=uint32[3,2]>@SERVER"
    )
    sample = FINALIZED.format("[?]", "?,")
    measured = "<accuracy=int32,counts=<any=int32,share=int32,total=int32>>"
    assert str(process.initialize.type_signature) == f"( -> {state})"
    assert str(process.next.type_signature) == (
        f"(<state={state},unfinalized={{{STATISTICS}}}@CLIENTS> -> "
        f"<state={state},result=<{sample},{sample}>@SERVER,measurements={measured}@SERVER>)"
    )


def test_default_size_is_100():
    process = finalize_then_sample(key=KEY).create({"n": lambda n: n}, fc.types.to_type({"n": "int32"}))
    _, (current, _), _ = process.next(process.initialize(), {"n": np.arange(120, dtype=np.int32)})
    assert len(set(current["n"].tolist())) == 100


def test_rows_are_aligned_over_rounds(process):
    state, seen = process.initialize(), set()
    for round_num, numbers in enumerate(([1, 2], [], [3], range(10, 20), [4, 5])):
        state, (current, total), _ = process.next(state, clients(numbers))
        seen |= set(numbers)
        assert set(assert_aligned(current)) <= set(numbers) and len(current["accuracy"]) == min(len(numbers), SIZE)
        assert set(assert_aligned(total)) <= seen and len(total["accuracy"]) == min(len(seen), SIZE)
        assert state["round_num"] == round_num + 1 and state["count"] == min(len(seen), SIZE)
        assert state["samples"]["accuracy"].shape == (SIZE,)


def test_fewer_clients_than_the_sample_are_all_in_it(process):
    _, (current, total), measured = process.next(process.initialize(), clients([7, 8]))
    assert sorted(assert_aligned(current)) == sorted(assert_aligned(total)) == [7, 8]
    assert not any(jax.tree.leaves(measured))


def test_empty_cohort_gives_no_rows(process):
    state, *_ = process.next(process.initialize(), clients([7, 8]))
    state, (current, total), measured = process.next(state, [])
    assert assert_aligned(current) == [] and sorted(assert_aligned(total)) == [7, 8]
    assert jax.tree.leaves(measured) == [0] * 4 and state["round_num"] == 2


def test_sample_is_that_of_the_aggregator(process):
    aggregator = fc.aggregators.as_process(fc.aggregators.reservoir_sample(SIZE, key=KEY), "int32")
    numbers = np.arange(30, dtype=np.int32)
    _, (expected, _), _ = aggregator.next(aggregator.initialize(), numbers, np.ones(30, np.float32))
    _, (current, _), _ = process.next(process.initialize(), clients(numbers))
    np.testing.assert_array_equal(current["counts"]["total"], expected)


def test_one_function_may_finalize_all_metrics(aggregation, process):
    whole = aggregation.create(lambda s: {name: FINALIZERS[name](s[name]) for name in s}, STATISTICS)
    assert str(whole.next.type_signature) == str(process.next.type_signature)
    both = [p.next(p.initialize(), clients(range(9))).result for p in (whole, process)]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_notation_is_a_type_too(aggregation):
    process = aggregation.create({"n": lambda n: n}, "<n=int32>")
    assert process.next(process.initialize(), [{"n": 3}]).result[0]["n"].tolist() == [3]


def test_clients_that_are_not_finite_are_counted_on_finalized_values_before_sampling(process):
    values = [*clients(range(1, 8)), *clients([0, 0]), *clients([1, 2], seen=0.0), *clients([5], seen=np.nan)]
    _, _, measured = process.next(process.initialize(), values)
    # 0/0 twice in `share`, where both entries of one client count once; 1/0, 2/0 and 5/nan in `accuracy`.
    assert measured == {"accuracy": 3, "counts": {"any": 0, "share": 2, "total": 0}}
    _, (current, _), _ = process.next(process.initialize(), clients([1, 2], seen=0.0))
    assert np.isinf(current["accuracy"]).all() and len(current["accuracy"]) == 2


def test_unfinalized_values_that_are_not_finite_do_not_count(aggregation):
    process = aggregation.create({"n": lambda s: s[0]}, fc.types.to_type({"n": ("float32", "float32")}))
    assert process.next(process.initialize(), [{"n": (1.0, np.nan)}]).measurements == {"n": 0}


def test_statistics_before_the_first_round(aggregation):
    first = clients([40])[0]
    process = aggregation.create(FINALIZERS, STATISTICS, first)
    state = process.initialize()
    assert state["count"] == 1 and state["round_num"] == 0 and np.any(state["tags"][0])
    state, (current, total), _ = process.next(state, clients([7]))
    assert assert_aligned(current) == [7] and sorted(assert_aligned(total)) == [7, 40]


@pytest.mark.parametrize(
    "initial", [{"accuracy": (1, 2.0)}, {"n": 1.0}, {"n": np.zeros(2, np.int32)}, {"m": 1}, 1, {"n": "one"}]
)
def test_first_statistics_of_another_type_are_refused(aggregation, initial):
    with pytest.raises(TypeError, match=r"initial metrics must have the type of a client's, <n=int32>, got|got 'one'"):
        aggregation.create({"n": lambda n: n}, fc.types.to_type({"n": "int32"}), initial)


@pytest.mark.parametrize("wrong", [None, [len], {"n": 1}, {1: len}, {"n": None}])
def test_finalizers_of_a_wrong_kind_are_refused(aggregation, wrong):
    with pytest.raises(
        TypeError, match="the finalizers must be a function of all metrics or a dict of functions"
    ) as raised:
        aggregation.create(wrong, fc.types.to_type({"n": "int32"}))
    assert not isinstance(raised.value, MetricFinalizersMismatchError)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "c"], []])
@pytest.mark.parametrize("error", [TypeError, ValueError, MetricFinalizersMismatchError])
def test_finalizers_of_other_names_list_both(aggregation, names, error):
    with pytest.raises(error, match=rf"finalizers \[{', '.join(map(repr, names))}\].*names.*\['a', 'b'\]"):
        aggregation.create(dict.fromkeys(names, lambda n: n), fc.types.to_type({"a": "int32", "b": "int32"}))


@pytest.mark.parametrize(
    "type_", ["float32", "<int32,float32>", "<a=int32,b=int32*>", "<a=int32@SERVER>", "<a=int32,float32>"]
)
def test_metrics_that_are_no_named_struct_of_tensors_are_refused(aggregation, type_):
    with pytest.raises(
        TypeError, match="the type of unfinalized metrics must be a struct of tensors with a name for every"
    ):
        aggregation.create(lambda metrics: metrics, fc.types.parse_type(type_))


def test_finalizer_that_fails_is_refused_when_built(aggregation):
    with pytest.raises(TypeError, match="cannot be applied"):
        aggregation.create({"n": lambda n: n["total"]}, fc.types.to_type({"n": "int32"}))


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_sizes_are_checked_by_its_own_name(size, error):
    with pytest.raises(
        error, match=r"finalize_then_sample\(sample_size=\.\.\.\) must be an integer of at least 1, got"
    ):
        finalize_then_sample(size, key=KEY)


def test_key_is_checked_and_required():
    with pytest.raises(TypeError, match=r"finalize_then_sample\(key=\.\.\.\) must be one JAX key"):
        finalize_then_sample(key=jnp.uint32(0))
    with pytest.raises(TypeError, match="key"):
        finalize_then_sample(10)
