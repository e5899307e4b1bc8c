"""Arguments that stand for clients and batches, and structs given as dicts: matched by name everywhere."""

import collections
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import types

LANES = fc.EngineConfig(lanes=1, devices=1)


class Swapped(NamedTuple):
    y: Any
    x: Any


PAIR = "<y=float32,x=float32>"
BATCH = "<y=float32[?],x=float32[?]>"
DICTS = [
    {"x": 1.0, "y": 2.0},
    {"y": 2.0, "x": 1.0},
    collections.OrderedDict(x=1.0, y=2.0),
    collections.OrderedDict(y=2.0, x=1.0),
]
"""A dict flattens sorted, an OrderedDict as it was filled, the type is declared the other way round."""
EXPECTED = 1.0 - 10 * 2.0


def difference(pair) -> Any:
    x, y = (pair.x, pair.y) if isinstance(pair, Swapped) else (pair["x"], pair["y"])
    return x - 10 * y


def total(batches):
    return batches.reduce(jnp.float32(0), lambda c, batch, mask: c + jnp.where(mask, difference(batch), 0).sum())


def batch(pair: dict) -> Any:
    return jax.tree.map(lambda x: np.full(2, x, np.float32), pair)


TYPES = pytest.mark.parametrize("make", [types.to_type, lambda text: types.to_type(Swapped(*types.to_type(text)))])


@TYPES
@pytest.mark.parametrize("traced", [False, True])
def test_a_dict_is_matched_by_name_at_server_and_unplaced(make, traced):
    plain = fc.computation(difference, make(PAIR))
    at_server = fc.federated_computation(lambda v: fc.federated_map(difference, v), types.at_server(make(PAIR)))
    unplaced = fc.federated_computation(lambda v: plain(v), make(PAIR))
    nested = fc.computation(lambda v: difference(v[0]["in"]), types.to_type(({"in": make(PAIR)},)))
    for value in DICTS:
        for fn, argument in ((plain, value), (at_server, value), (unplaced, value), (nested, ({"in": value},))):
            run = jax.jit(fn.as_function()) if traced else fn
            assert float(run(argument)) == EXPECTED


@TYPES
def test_a_dict_is_matched_by_name_at_the_clients(make):
    @fc.federated_computation(types.at_clients(make(PAIR)))
    def program(values):
        return fc.federated_collect(fc.federated_map(difference, values))

    rows = [jax.tree.map(lambda *both: np.float32(both), value, value) for value in DICTS]
    assert [program(value).tolist() for value in rows] == [[EXPECTED] * 2] * 4  # stacked arrays
    assert program(DICTS).tolist() == [EXPECTED] * 4
    assert program(dict(zip("abcd", DICTS))).tolist() == [EXPECTED] * 4
    assert program(value for value in DICTS).tolist() == [EXPECTED] * 4
    function = jax.jit(program.as_function())
    assert [function(value).tolist() for value in rows] == [[EXPECTED] * 2] * 4
    assert function(DICTS).tolist() == function(dict(zip("abcd", DICTS))).tolist() == [EXPECTED] * 4


@TYPES
def test_a_dict_is_matched_by_name_in_batches(make):
    @fc.federated_computation(types.at_clients(types.SequenceType(make(BATCH))))
    def program(data):
        return fc.federated_collect(fc.federated_map(total, data))

    alone = fc.computation(total, types.SequenceType(make(BATCH)))
    batches, expected = list(map(batch, DICTS)), [2 * EXPECTED] * 4
    data = fc.data.FederatedData.from_clients(dict(zip("abcd", batches)))
    cohort = data.cohort(data.client_ids, fc.data.Batching(1))
    assert program(batches).tolist() == program([[b] for b in batches]).tolist() == expected
    assert program([iter([b]) for b in batches]).tolist() == program([b] for b in batches).tolist() == expected
    assert program(dict(zip("abcd", batches))).tolist() == program(cohort).tolist() == expected
    assert program.as_function()(fc.pack_cohort(cohort)).tolist() == program.as_function()(batches).tolist() == expected
    assert float(alone(batches)) == float(alone(b for b in batches)) == float(jax.jit(lambda: alone(batches))()) == -152


@TYPES
def test_a_dict_is_matched_by_name_inside_another_computation(make):
    server = fc.federated_computation(lambda v: fc.federated_map(difference, v), types.at_server(make(PAIR)))
    member = fc.computation(difference, make(PAIR))

    @fc.federated_computation(types.at_clients(types.SequenceType(make(BATCH))))
    def inner(data):
        return fc.federated_sum(fc.federated_map(total, data))

    @fc.federated_computation("float32@SERVER", types.at_clients(f"{BATCH}*"))
    def program(one, data):
        two = fc.federated_map(lambda one: 2 * one, one)
        made = fc.federated_map(lambda one: {"x": one, "y": 2 * one}, one)
        moved = fc.federated_map(lambda data: data.map(lambda b: {"x": b["x"], "y": b["y"]}), data)
        return server({"x": one, "y": two}), server(made), fc.federated_map(member, made), inner(moved)

    assert [float(x) for x in program(1.0, [batch(DICTS[0])])] == [EXPECTED, EXPECTED, EXPECTED, 2 * EXPECTED]


def test_a_struct_of_placed_values_is_matched_by_name():
    @fc.federated_computation("<y=float32@SERVER,x={float32}@CLIENTS>")
    def program(pair):
        return fc.federated_map(lambda x, y: x - 10 * y, fc.federated_sum(pair["x"]), pair["y"])

    assert float(program({"x": [1.0, 3.0], "y": 2.0})) == float(program({"y": 2.0, "x": {"a": 1.0, "b": 3.0}})) == -16
    assert float(program({"x": (x for x in [1.0, 3.0]), "y": 2.0})) == -16
    with pytest.raises(TypeError, match=r"argument 'pair': .* missing \['y'\]; not expected \['z'\]"):
        program({"x": [1.0], "z": 2.0})


def test_states_and_weights_may_be_dicts_of_dicts():
    """This includes optax's NamedTuples and tuples, which become dicts in a file or a message."""
    model = fc.models.logistic_regression(2, 2)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), server_optimizer=optax.adam(0.1), key=jax.random.key(0))
    client = {"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}
    state, _ = process.next(process.initialize(), {"ada": client})

    def as_dicts(value):
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {name: as_dicts(getattr(value, name)) for name in reversed(value._fields)}
        if isinstance(value, dict):
            return {name: as_dicts(value[name]) for name in reversed(value)}
        return tuple(map(as_dicts, value)) if isinstance(value, tuple) else value

    given = as_dicts(state)
    assert isinstance(given, dict) and "mu" in str(jax.tree.structure(given))
    (new, metrics), others = process.next(state, {"ada": client}), process.next(given, {"ada": client})
    jax.tree.map(np.testing.assert_array_equal, (new._replace(key=0), metrics), (others[0]._replace(key=0), others[1]))
    weights = process.get_model_weights(given)
    assert jax.tree.structure(process.set_model_weights(given, as_dicts(weights))) == jax.tree.structure(state)


@pytest.fixture(scope="module")
def draws():
    """What each client draws, its data, its reservoir tag's order and the sum over all."""
    reservoir = fc.aggregators.reservoir_sample(2, key=jax.random.key(3))

    @fc.federated_computation(types.at_server("key<fry>"), types.at_clients(f"{BATCH}*"))
    def program(key, data):
        keys = fc.federated_split_key(key)
        drawn = fc.federated_map(lambda key, data: jax.random.normal(key) + total(data), keys, data)
        weight = fc.federated_map(lambda _: jnp.float32(1), keys)
        sample = reservoir.next(reservoir.init(types.to_type("float32")), drawn, weight).result
        return fc.federated_collect(drawn), fc.federated_sum(drawn), sample

    return program.with_config(LANES)


CLIENTS = {
    name: [{"x": np.float32([i, 1]), "y": np.float32([2, i])}, {"x": np.float32([i, i]), "y": np.float32([0, i])}]
    for i, name in enumerate(["ada", "bob", "cyd", "dee", "eve"])
}


def test_clients_by_id_are_those_of_a_cohort_bit_for_bit(draws):
    examples = {name: jax.tree.map(lambda *b: np.concatenate(b), *batches) for name, batches in CLIENTS.items()}
    data = fc.data.FederatedData.from_clients(examples)
    cohort = data.cohort(data.client_ids, fc.data.Batching(2))
    key = jax.random.key(1)
    expected = draws(key, cohort)
    jax.tree.map(np.testing.assert_array_equal, expected, draws(key, CLIENTS))
    shuffled = {name: iter(CLIENTS[name]) for name in ("dee", "ada", "eve", "bob", "cyd")}
    rows, summed, sample = draws(key, shuffled)
    np.testing.assert_array_equal(rows[np.array([1, 3, 4, 0, 2])], expected[0])
    jax.tree.map(np.testing.assert_array_equal, (summed, sample), expected[1:])
    assert draws(key, list(CLIENTS.values()))[1] != summed  # a list has no ids, so its clients draw something else


def test_several_arguments_by_id_are_matched_by_id():
    @fc.federated_computation("{float32}@CLIENTS", "{float32}@CLIENTS")
    def program(a, b):
        return fc.federated_collect(fc.federated_map(lambda a, b: 10 * a + b, a, b))

    a, b = {"ada": 1.0, "bob": 2.0}, {"bob": 4.0, "ada": 3.0}
    for run in (program, program.as_function()):
        assert run(a, b).tolist() == [13.0, 24.0] and run(b, a).tolist() == [42.0, 31.0]
        with pytest.raises(ValueError, match=r"argument .b. lacks ..bob.., alone has ..c.."):
            run(a, {"ada": 1.0, "c": 2.0})
        with pytest.raises(ValueError, match=r"argument 'a' is \{id: client\}, but argument 'b' has no ids"):
            run(a, [1.0, 2.0])


def test_clients_by_id_follow_the_cohort_of_another_argument():
    @fc.federated_computation("{float32[?]*}@CLIENTS", "{float32}@CLIENTS")
    def program(data, factor):
        return fc.federated_collect(fc.federated_map(lambda data, factor: data.sum() * factor, data, factor))

    data = fc.data.FederatedData.from_clients({"ada": np.float32([1]), "bob": np.float32([2])})
    cohort = data.cohort(["bob", "ada", "bob"], fc.data.Batching(1))
    assert program(cohort, {"ada": 10.0, "bob": 100.0}).tolist() == [200.0, 10.0, 200.0]
    with pytest.raises(ValueError, match=r"alone has \['cyd'\]"):
        program(cohort, {"ada": 10.0, "bob": 100.0, "cyd": 1.0})
    with pytest.raises(ValueError, match="whose clients are matched by their place; give a list in the order"):
        program.as_function()(fc.pack_cohort(cohort), {"ada": 10.0, "bob": 100.0})


def collect(type_: str):
    return fc.federated_computation(lambda v: fc.federated_collect(v), types.at_clients(type_))


def test_a_struct_of_arrays_and_clients_whose_ids_are_its_names():
    program = collect(PAIR)
    assert jax.tree.map(list, dict(program({"x": [1.0, 2.0], "y": [3.0, 4.0]}))) == {"y": [3, 4], "x": [1, 2]}
    named = {"x": {"x": 1.0, "y": 3.0}, "y": {"x": 2.0, "y": 4.0}}
    assert jax.tree.map(list, dict(program(named))) == {"y": [3, 4], "x": [1, 2]}
    # Rows that are lists or tuples are those of a field, never a client by position.
    assert jax.tree.map(list, dict(program({"x": (1.0, 2.0), "y": (3.0, 4.0)}))) == {"y": [3, 4], "x": [1, 2]}
    assert jax.tree.map(list, dict(program({"ada": (3.0, 1.0), "bob": (4.0, 2.0)}))) == {"y": [3, 4], "x": [1, 2]}
    assert collect("float32")({3: 1.0, np.int64(5): 2.0, "ada": 3.0}).tolist() == [1.0, 2.0, 3.0]
    assert collect("float32")({}).shape == (0,)


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        (
            PAIR,
            {"x": [1.0], "z": [2.0]},
            r"argument 'v': .* missing \['y'\]; not expected \['z'\]; give every name once",
        ),
        (PAIR, {"ada": [1.0]}, r"argument 'v': .* missing \['y', 'x'\]; not expected \['ada'\]"),
        (PAIR, {"ada": {"x": 1.0}}, r"argument 'v', client 'ada': .* missing \['y'\]; .*: \{'y': ..., 'x': ...\}"),
        (PAIR, {"ada": {"x": 1.0, "y": 1.0, "z": 1.0}}, r"client 'ada': .* not expected \['z'\]"),
        (PAIR, [{"x": 1.0, "y": 1.0}, Swapped(1.0, 2.0)._asdict() | {"w": 1.0}], r"client 1: .* not expected \['w'\]"),
        (PAIR, {1.5: {"x": 1.0, "y": 2.0}}, r"must be ids, strings or integers, got 1.5 of type float; use str"),
        (PAIR, {True: {"x": 1.0, "y": 2.0}}, r"must be ids, strings or integers, got True of type bool"),
        ("float32", {"ada": "a"}, "argument 'v', client 'ada': expected float32"),
        ("float32", {1.0, 2.0}, "argument 'v': expected"),
    ],
)
def test_other_clients_are_refused(type_, value, message):
    with pytest.raises(TypeError, match=message):
        collect(type_)(value)


@pytest.mark.parametrize("client", [
    {"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)},
    {"x": [1.0, 2.0], "y": [1.0, 2.0]},
    {"x": [], "y": []},
    {"x": np.ones(2, np.float32), "label": np.ones(2, np.float32)},
])  # fmt: skip
def test_the_fields_of_one_client_are_no_clients(client):
    program = fc.federated_computation(lambda v: fc.federated_sum(fc.federated_map(total, v)), f"{{{BATCH}*}}@CLIENTS")
    with pytest.raises(TypeError, match=r"has the fields \[.*'x'.*\] of a single client; give \[client\], or"):
        program(client)
    named = {"x": batch(DICTS[0]), "y": [batch(DICTS[1])]}
    assert float(program(named)) == 4 * EXPECTED
    struct = "{<x=float32[?]*,y=float32[?]*>}@CLIENTS"
    program = fc.federated_computation(lambda v: fc.federated_sum(fc.federated_map(lambda v: v["x"].sum(), v)), struct)
    with pytest.raises(TypeError, match=r"has the fields \[.*'x'.*\] of a single client"):
        program(client)
    assert float(program([{"y": [], "x": (x for x in [np.float32([1, 2]), np.float32([4])])}])) == 7


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, lambda c: collections.defaultdict(list, c)])
def test_results_come_in_the_order_of_the_dict(kind):
    program = fc.federated_computation(
        lambda v: fc.federated_collect(fc.federated_map(lambda v: v.sum(), v)), "{float32[?]*}@CLIENTS"
    )
    clients = kind({"cyd": [np.float32([3])], "ada": [np.float32([1])], "bob": [np.float32([2])]})
    assert program(clients).tolist() == program.as_function()(clients).tolist() == [3, 1, 2]


def test_what_can_be_read_once_is_not_silently_empty():
    program = fc.federated_computation(
        lambda v: fc.federated_collect(fc.federated_map(lambda v: v.sum(), v)), "{float32[?]*}@CLIENTS"
    )
    one = np.ones(2, np.float32)
    generator, iterator = (b for b in [one]), iter([one])
    assert program([generator, iterator]).tolist() == [2.0, 2.0]
    for used in (generator, iterator):
        with pytest.raises(
            ValueError, match=r"argument .v.\[1\]: this \w+ is empty; it can be read only once, and may"
        ):
            program([[one], used])
    clients = iter([[one], [one]])
    assert program(clients).tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="argument 'v': this list_iterator is empty"):
        program(clients)
    assert program([(b for b in ()), []]).tolist() == [0.0, 0.0]  # a fresh generator may well yield nothing
    groups = itertools.groupby([one, one, 3 * one], key=lambda b: b[0])
    assert program(batches for _, batches in groups).tolist() == [4.0, 6.0]  # a group is gone when the next is drawn


def test_a_computation_without_types_reads_generators_once():
    program = fc.federated_computation(lambda v: fc.federated_sum(fc.federated_map(lambda v: v.sum(), v)))
    one = np.ones(2, np.float32)
    assert float(program((b for b in [one, one]) for _ in range(3))) == 12.0
    assert float(program([iter([one]), [one]])) == 4.0


def test_traced_batches_are_refused():
    program = fc.federated_computation(
        lambda v: fc.federated_sum(fc.federated_map(lambda v: v.sum(), v)), "{float32[?]*}@CLIENTS"
    )
    with pytest.raises(TypeError, match=r"client 0, batch 0: a batch under jit.*fc.pack_cohort\(cohort\)"):
        jax.jit(program.as_function())([[jnp.ones(2)]])
