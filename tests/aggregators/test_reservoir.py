"""Reservoir sampling: the largest tags, whoever holds them and in whatever order they come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.aggregators import _reservoir
from tests import cohorts
from tests import learning_references as reference

SIZE = 5
KEY = jax.random.key(3)
VALUE = {"number": "int32", "pair": ("float32[2]", "bool")}
CONFIGS = [
    {"lanes": 1, "devices": 2},
    {"lanes": 3, "devices": 4},
    {"lanes": 1, "devices": 1, "memory_budget": 100},
    {"lanes": 2, "devices": 2, "memory_budget": 100},
]


@pytest.fixture(scope="module")
def process():
    return fc.aggregators.as_process(fc.aggregators.reservoir_sample(SIZE, key=KEY), VALUE)


@pytest.fixture(scope="module")
def tags_of():
    """The tags of a cohort's clients as Python integers, computed from the definition rather than by the aggregator."""

    @fc.federated_computation(fc.at_server("key<fry>"), fc.at_clients("int32"))
    def tags(key, numbers):
        draw = lambda key: jax.random.bits(key, (2,), "uint32")  # noqa: E731
        return fc.federated_collect(fc.federated_map(draw, fc.federated_split_key(key)))

    def find(key, round_num, numbers):
        words = np.asarray(tags(jax.random.fold_in(key, round_num), np.asarray(numbers, np.int32)), np.uint64)
        return (words[:, 0] << np.uint64(32) | words[:, 1]).tolist()

    return find


def clients(numbers):
    numbers = np.asarray(numbers)
    pairs = np.stack([numbers, -numbers], -1).astype(np.float32).reshape(-1, 2)
    return {"number": numbers.astype(np.int32), "pair": (pairs, numbers % 2 == 0)}


def run(process, state, numbers, next=None):
    return (next or process.next)(state, clients(numbers), np.ones(len(numbers), np.float32))


def largest(tagged):
    """The oracle: the numbers with the largest tags, in the order of the tags."""
    return [number for _, number in sorted(tagged)[-SIZE:]]


def test_type_signature(process):
    state = (
        "<count=int32,key=key<fry>,round_num=int32,"
        "samples=<number=int32[5],pair=<float32[5,2],bool[5]>>,tags=uint32[5,2]>@SERVER"
    )
    sample = "<number=int32[?],pair=<float32[?,2],bool[?]>>"
    assert str(process.next.type_signature) == (
        f"(<state={state},value={{<number=int32,pair=<float32[2],bool>>}}@CLIENTS,weight={{float32}}@CLIENTS> -> "
        f"<state={state},result=<{sample},{sample}>@SERVER,measurements=<number=int32,pair=<int32,int32>>@SERVER>)"
    )


@pytest.mark.parametrize("number", [0, 1, SIZE - 1, SIZE, SIZE + 1, 40])
def test_sample_is_that_of_the_oracle(process, tags_of, number):
    state, (current, total), _ = run(process, process.initialize(), np.arange(number))
    expected = largest(zip(tags_of(KEY, 0, np.arange(number)), range(number)))
    assert current["number"].tolist() == total["number"].tolist() == expected
    assert state["count"] == len(expected) and state["round_num"] == 1
    assert sorted(state["samples"]["number"][: len(expected)].tolist()) == sorted(expected)
    assert not np.any(state["tags"][len(expected) :])


def test_rows_of_all_leaves_are_of_one_client(process):
    _, (current, total), _ = run(process, process.initialize(), np.arange(30))
    for sample in (current, total):
        jax.tree.map(np.testing.assert_array_equal, sample, clients(sample["number"]))


def test_many_rounds(process, tags_of):
    random, state, tagged = np.random.default_rng(0), process.initialize(), []
    for round_num, number in enumerate([2, 0, 9, 1, 30, 3, 7]):
        numbers = random.integers(0, 1000, number)
        state, (current, total), _ = run(process, state, numbers)
        new = list(zip(tags_of(KEY, round_num, numbers), numbers.tolist()))
        tagged += new
        assert current["number"].tolist() == largest(new)
        assert total["number"].tolist() == largest(tagged)
    assert jax.random.key_data(state["key"]).tolist() == jax.random.key_data(KEY).tolist()


@pytest.fixture(scope="module")
def two_rounds(process):
    state, *_ = run(process, process.initialize(), np.arange(40))
    return state, run(process, state, np.arange(100, 117))


@pytest.mark.parametrize("config", CONFIGS)
def test_lanes_devices_and_waves_change_nothing(process, two_rounds, config):
    first, expected = two_rounds
    next = process.next.with_config(fc.EngineConfig(**config))
    state, *_ = run(process, process.initialize(), np.arange(40), next)
    reference.assert_same_bits(state, first)
    reference.assert_same_bits(run(process, state, np.arange(100, 117), next), expected)


@pytest.fixture(scope="module")
def of_cohorts():
    @fc.federated_computation(fc.at_clients(cohorts.DATA))
    def sample(data):
        aggregator = fc.aggregators.reservoir_sample(SIZE, key=KEY)
        sizes = fc.federated_map(lambda d: d.num_examples, data)
        return aggregator.next(aggregator.init(fc.types.to_type("int32")), sizes, None).result[0]

    return sample.with_config(fc.EngineConfig(lanes=2, devices=2))


def test_order_of_the_clients_changes_nothing(of_cohorts):
    clients = cohorts.make_population(range(1, 20))
    expected = of_cohorts(cohorts.make_cohort(clients))
    assert len(set(expected.tolist())) == SIZE
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(list(clients)).tolist()
        np.testing.assert_array_equal(of_cohorts(cohorts.make_cohort(clients, order)), expected)


def test_client_that_occurs_twice_is_sampled_independently(of_cohorts):
    clients = cohorts.make_population([7, 9])
    twice = of_cohorts(cohorts.make_cohort(clients, ["client0", "client0", "client1"]))
    assert sorted(twice.tolist()) == [7, 7, 9]
    many = of_cohorts(cohorts.make_cohort(clients, ["client0", "client1"] * 40))
    assert set(many.tolist()) == {7, 9}


def test_every_client_has_the_same_chance(process):
    """Each of `n` clients is in a sample of `k` with probability `k / n`, the first, middle and last alike."""
    number, draws = 20, 200
    state, counts = process.initialize(), np.zeros(number)
    for seed in range(draws):
        _, (current, _), _ = run(process, {**state, "key": jax.random.key(seed)}, np.arange(number))
        counts[current["number"]] += 1
    share = SIZE / number
    deviations = (counts - draws * share) ** 2 / (draws * share * (1 - share))
    assert scipy.stats.chi2.sf(deviations.sum() * (number - 1) / number, number - 1) > 0.001
    for client in (0, number // 2, number - 1):
        assert scipy.stats.chi2.sf(deviations[client], 1) > 0.001


def test_same_key_gives_the_same_sample_and_another_key_or_round_another(process):
    state = process.initialize()
    draw = lambda **changes: run(process, state | changes, np.arange(40))[1][0]["number"].tolist()  # noqa: E731
    assert draw() == draw()
    assert len({tuple(draw()), tuple(draw(key=jax.random.key(4))), tuple(draw(round_num=1))}) == 3


def test_weights_change_nothing(process):
    _, expected, _ = run(process, process.initialize(), np.arange(30))
    weights = np.zeros(30, np.float32)
    _, found, _ = process.next(process.initialize(), clients(np.arange(30)), weights)
    reference.assert_same_bits(found, expected)


def test_clients_that_are_not_finite_are_counted_once_a_leaf_and_stay(process):
    values = clients(np.arange(4))
    values["pair"][0][[1, 3]] = [[np.nan, np.inf], [0.0, -np.inf]]
    _, (current, _), measured = process.next(process.initialize(), values, np.ones(4, np.float32))
    assert measured == {"number": 0, "pair": (2, 0)}
    assert np.isfinite(current["pair"][0]).all(1).sum() == 2 and len(current["number"]) == 4


def test_capacity_of_one_and_a_single_tensor():
    process = fc.aggregators.as_process(fc.aggregators.reservoir_sample(np.int64(1), key=KEY), "float32")
    _, (current, total), measured = process.next(process.initialize(), np.arange(9, dtype=np.float32), np.ones(9, "f"))
    assert current.shape == (1,) and measured == 0
    np.testing.assert_array_equal(current, total)


def test_keys_can_be_sampled():
    process = fc.aggregators.as_process(fc.aggregators.reservoir_sample(2, key=KEY), "key<fry>")
    keys = jax.random.split(jax.random.key(0), 5)
    _, (current, _), measured = process.next(process.initialize(), keys, np.ones(5, np.float32))
    everyone = jax.random.key_data(keys).tolist()
    assert all(key in everyone for key in jax.random.key_data(current).tolist()) and measured == 0


def test_as_function_returns_all_rows_with_the_count(process):
    function = jax.jit(process.next.as_function())
    expected = run(process, process.initialize(), np.arange(3))
    found = function(process.initialize(), clients(np.arange(3)), np.ones(3, np.float32))
    rows = found.result[0]["number"]
    assert isinstance(rows, fc.language.TrimmedRows) and rows.values.shape == (SIZE,) and rows.count == 3
    np.testing.assert_array_equal(rows.values[:3], expected.result[0]["number"])
    reference.assert_same_bits(found.state, expected.state)


def test_one_trace_for_thirty_rounds(process):
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(kwargs.get("fun_name"))

    state, *_ = run(process, process.initialize(), np.arange(1))
    structure = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    run(process, state, np.arange(1))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(30):
            state, *_ = run(process, state, np.arange(1))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == structure
    assert state["round_num"] == 31 and state["count"] == SIZE


def reservoir_of(tags, capacity=SIZE):
    """A reservoir that holds these tags, with the tags themselves as samples."""
    words = np.zeros((capacity, 2), np.uint32)
    words[: len(tags)] = [(tag >> 32, tag & 0xFFFFFFFF) for tag in tags] if tags else np.zeros((0, 2))
    return {"tags": jnp.asarray(words), "count": jnp.int32(len(tags)), "samples": jnp.asarray(words[:, ::-1])}


def tags_in(reservoir):
    words = np.asarray(reservoir["tags"], np.uint64)[: int(reservoir["count"])]
    np.testing.assert_array_equal(reservoir["samples"], np.asarray(reservoir["tags"])[:, ::-1])
    return (words[:, 0] << np.uint64(32) | words[:, 1]).tolist()


ANY_TAG = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1])
merge = jax.jit(_reservoir._merge)
by_tags = jax.jit(_reservoir._by_tags)
accumulate = jax.jit(_reservoir._accumulate)


@settings(max_examples=60)
@given(st.lists(ANY_TAG, max_size=SIZE), st.lists(ANY_TAG, max_size=SIZE))
def test_merge_keeps_the_largest_tags_in_their_order_and_the_first_of_equal_ones(first, second):
    both = first + second
    ranked = sorted(range(len(both)), key=lambda i: (-both[i], i))[:SIZE]
    merged = merge(reservoir_of(first), reservoir_of(second))
    assert tags_in(merged) == [both[i] for i in sorted(ranked)]
    assert tags_in(by_tags(merged)) == sorted(both[i] for i in ranked)


def test_the_first_of_equal_tags_wins():
    first, second = reservoir_of([9] * SIZE), reservoir_of([9] * SIZE)
    second["samples"] = second["samples"] + jnp.uint32(1)
    np.testing.assert_array_equal(merge(first, second)["samples"], first["samples"])
    same_tag = (first["tags"][0], second["samples"][0])
    np.testing.assert_array_equal(accumulate(first, same_tag)["samples"], first["samples"])


@settings(max_examples=30)
@given(st.lists(ANY_TAG, max_size=3 * SIZE, unique=True), st.integers(0, 3 * SIZE))
def test_any_grouping_gives_the_same_reservoir(tags, cut):
    def fill(part):
        reservoir = reservoir_of([])
        for tag in part:
            one = reservoir_of([tag])
            reservoir = accumulate(reservoir, (one["tags"][0], one["samples"][0]))
        return reservoir

    expected = sorted(tags)[-SIZE:]
    assert tags_in(by_tags(fill(tags))) == expected
    assert tags_in(by_tags(merge(fill(tags[:cut]), fill(tags[cut:])))) == expected
    reference.assert_same_bits(merge(reservoir_of([]), fill(tags)), fill(tags))


@pytest.mark.parametrize("wrong", [2.0, "2", None, True, np.bool_(True), jnp.int32(2)])
def test_sample_size_that_is_no_integer_is_refused(wrong):
    with pytest.raises(
        TypeError, match=r"reservoir_sample\(sample_size=\.\.\.\) must be an integer of at least 1, got .*100"
    ):
        fc.aggregators.reservoir_sample(wrong, key=KEY)


@pytest.mark.parametrize("wrong", [0, -3])
def test_sample_size_that_is_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"must be an integer of at least 1, got {wrong}; write sample_size=100"):
        fc.aggregators.reservoir_sample(wrong, key=KEY)


@pytest.mark.parametrize("wrong", [0, None, jax.random.PRNGKey(0), jax.random.split(KEY)])
def test_what_is_no_key_is_refused(wrong):
    with pytest.raises(TypeError, match=r"reservoir_sample\(key=\.\.\.\) must be one JAX key"):
        fc.aggregators.reservoir_sample(2, key=wrong)


@pytest.mark.parametrize("type_", ["float32[?]", "float32[?]*", {"a": "int32", "b": "float32[2,?]"}])
def test_values_of_unknown_size_are_refused(type_):
    with pytest.raises(TypeError, match=r"reservoir_sample keeps tensors of known shapes, got .*; fix the dimensions"):
        fc.aggregators.as_process(fc.aggregators.reservoir_sample(2, key=KEY), type_)
