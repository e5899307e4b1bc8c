"""Rows of clients in a population: subsets and splits keep them, and those of another population are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc

KEY = jax.random.key(0)
NAMES = [f"client {i}" for i in range(12)]
EXAMPLES = {"x": np.arange(24, dtype=np.float32)}
BATCHES = fc.at_clients("<x=float32[?]>*")


def population(names=NAMES) -> fc.data.FederatedData:
    """Two examples for each client: its number and that plus 12."""
    return fc.data.from_arrays({"x": np.tile(np.arange(len(names), dtype=np.float32), 2)}, list(names) * 2)


def step(rows: int):
    """Adds the sum of a client's examples to its row of a table."""

    @fc.federated_computation(fc.at_server(f"float32[{rows}]"), BATCHES)
    def write(table, data):
        def total(data):
            return data.reduce(jnp.float32(0), lambda total, batch, mask: total + jnp.sum(batch["x"] * mask))

        index = fc.federated_client_index()
        mine = fc.federated_select(index, table)
        return fc.federated_scatter(table, index, fc.federated_map(lambda m, d: m + total(d), mine, data))

    return write


def cohort(data, ids=None):
    return data.cohort(data.client_ids if ids is None else ids, fc.data.Batching(batch_size=2))


def test_state_by_row_goes_to_the_same_client_through_subsets_and_splits():
    data = population()
    expected, table = np.zeros(12, np.float32), jnp.zeros(12)
    train, test = data.split_clients(0.5, key=KEY)
    early, late = data.split_examples(0.5)
    for part in (train, test, early.subset(["client 7", "client 3"]), late.split_clients(0.3, key=KEY)[1]):
        table = step(12)(table, cohort(part))
        for client_id, held in part.items():
            expected[data.client_ids.index(client_id)] += held["x"].sum()
    np.testing.assert_array_equal(table, expected)
    assert len(set(expected.tolist())) == 12


def test_state_by_row_goes_to_the_same_client_in_data_of_another_order():
    data = population()
    order = np.random.default_rng(0).permutation(24)
    names = np.array(NAMES * 2)
    columns = {"x": np.tile(np.arange(12, dtype=np.float32), 2), "writer": names}
    other = fc.data.partition(
        {name: column[order] for name, column in columns.items()}, None, fc.data.by_column("writer")
    )
    np.testing.assert_array_equal(step(12)(jnp.zeros(12), cohort(data)), step(12)(jnp.zeros(12), cohort(other)))


@pytest.mark.parametrize("names", [NAMES[:11], [*NAMES, "client 99"]])
def test_a_table_of_another_population_is_refused(names):
    other = population(names)
    with pytest.raises(ValueError, match=rf"has 12 rows, but the cohort's population has {len(names)} clients"):
        step(12)(jnp.zeros(12), cohort(other, ["client 3"]))
    with pytest.raises(ValueError, match="has 12 rows"):
        step(12).as_function()(jnp.zeros(12), cohort(other))


def test_stacked_cohorts_are_of_one_population():
    with pytest.raises(ValueError, match=r"one population, .* populations of 12 and 11 clients"):
        fc.stack_cohorts([cohort(population(), NAMES[:3]), cohort(population(NAMES[:11]), NAMES[:3])])
    train = population().split_clients(0.5, key=KEY)[0]
    rounds = fc.stack_cohorts([cohort(train, train.client_ids[:3]), cohort(population(), NAMES[:3])])
    expected = [train.client_ids[:3].rows, population().client_ids.find(NAMES[:3])]
    np.testing.assert_array_equal(rounds.client_index, expected)


def test_a_table_of_a_part_is_refused_with_the_right_size():
    train = population().split_clients(0.5, key=KEY)[0]
    with pytest.raises(ValueError, match=r"has 6 rows, .* population has 12 .* len\(data.client_ids.population\) rows"):
        step(len(train))(jnp.zeros(6), cohort(train))


def test_cohorts_of_two_populations_are_refused_where_rows_are_read():
    one = fc.data.from_clients({"a": EXAMPLES, "b": EXAMPLES, "c": EXAMPLES})
    other = fc.data.from_clients({"c": EXAMPLES, "b": EXAMPLES, "a": EXAMPLES})
    cohorts = cohort(one, ["a", "b"]), cohort(other, ["a", "b"])

    @fc.federated_computation(BATCHES, BATCHES)
    def count(one, other):
        return fc.federated_sum(fc.federated_map(lambda a, b: a.num_batches + b.num_batches, one, other))

    @fc.federated_computation(BATCHES, BATCHES)
    def rows(one, other):
        both = fc.federated_map(lambda a, b, i: i + 0 * (a.num_batches + b.num_batches), one, other, index())
        return fc.federated_collect(both)

    assert int(count(*cohorts)) == 48
    with pytest.raises(ValueError, match=r"number their clients differently, .*federated_client_index at .*py:"):
        rows(*cohorts)
    assert rows(cohorts[0], cohort(one.split_examples(0.5)[0], ["a", "b"])).tolist() == [0, 1]


def index():
    return fc.federated_client_index()


def test_left_out_clients_are_named_in_a_split():
    data = population()
    train = data.split_clients(0.5, key=KEY)[0]
    bad = train.client_ids[2]
    listed = {"client": np.array([train.client_ids.rows[2], -1]), "reason": np.array([0, -1])}
    metrics = {"client_work": {"train": {"non_finite_clients": listed}}}
    for ids in (train.client_ids, data.client_ids, data.subset([bad]).client_ids):
        assert fc.algorithms.left_out_clients(metrics, ids) == {bad: "update"}


@fc.federated_computation(fc.at_server("float32[3]"), fc.at_clients("float32"))
def add(table, values):
    index = fc.federated_client_index()
    held = fc.federated_select(index, table)
    return fc.federated_scatter(table, index, fc.federated_map(jnp.add, held, values))


def test_clients_by_id_are_refused_in_a_table_by_row():
    """A dict says who its clients are and not in which rows: `bob` is in the second, and then in the first."""
    assert add(add(jnp.zeros(3), [1.0, 2.0]), {0: 4.0, 1: 8.0}).tolist() == [5.0, 10.0, 0.0]
    for run in (add, add.as_function()):
        for clients in ({"ada": 1.0, "bob": 2.0}, {1: 1.0, 0: 1.0}, {7: 1.0}):
            with pytest.raises(ValueError, match=r"not say which row is .*'s; give data.cohort\(ids, batching\)"):
                run(jnp.zeros(3), clients)


def test_clients_by_id_beside_a_cohort_have_its_rows():
    @fc.federated_computation(fc.at_server("float32[12]"), BATCHES, fc.at_clients("float32"))
    def write(table, data, values):
        both = fc.federated_map(lambda d, v: v + 0 * d.num_batches, data, values)
        return fc.federated_scatter(table, fc.federated_client_index(), both)

    chosen = cohort(population(), ["client 5", "client 2"])
    written = write(jnp.zeros(12), chosen, {"client 2": 2.0, "client 5": 5.0})
    five, two = chosen.client_index
    assert np.flatnonzero(written).tolist() == [two, five] and (written[two], written[five]) == (2.0, 5.0)


def test_more_clients_than_a_table_has_rows_are_refused():
    for run in (add, add.as_function()):
        with pytest.raises(
            ValueError, match=r"has 3 rows, but there is a client of row 4; .* has its place as its row"
        ):
            run(jnp.zeros(3), [1.0] * 5)
