"""The number of lanes by measurement."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.engine import _tuning
from tests import cohorts

AUTO = fc.EngineConfig(lanes="auto", devices=2)


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedjax_core" / "lanes.json"


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """The numbers of lanes that were measured, each once; 4 is the fastest."""
    lanes = []

    def seconds(program, server, cohort):
        if program.layout.lanes not in lanes:
            lanes.append(program.layout.lanes)
        return abs(np.log2(program.layout.lanes) - 2) + 1.0

    monkeypatch.setattr(_tuning, "_seconds", seconds)
    return lanes


def total():
    @fc.federated_computation(fc.at_server("float32"), fc.at_clients(cohorts.DATA))
    def total(factor, data):
        def scaled(factor, data):
            return data.reduce(jnp.float32(0), lambda c, batch, mask: c + factor * jnp.sum(batch["y"], where=mask))

        return fc.federated_sum(fc.federated_map(scaled, fc.federated_broadcast(factor), data))

    return total


def cohort(size: int = 40):
    return cohorts.make_cohort(cohorts.make_population(range(size)))


def test_the_fastest_is_taken_and_kept(measured):
    run = total().with_config(AUTO)
    assert run.config.lanes == "auto"
    data = cohort()
    result = run(2.0, data)
    assert run.config == fc.EngineConfig(lanes=4, devices=2)
    assert measured == [1, 2, 4, 8, 16, 32, 64]
    np.testing.assert_array_equal(result, total().with_config(run.config)(2.0, data))
    run(3.0, cohort())
    assert measured == [1, 2, 4, 8, 16, 32, 64]
    assert [layout.lanes for layout in data.packed] == [4]


def test_a_cohort_of_nobody_decides_nothing(measured):
    run = total().with_config(AUTO)
    assert run(2.0, cohort(0)) == 0
    assert not measured and run.config.lanes == "auto"
    run(2.0, cohort())
    assert run.config.lanes == 4


def test_another_session_reads_what_was_found(measured, file):
    total().with_config(AUTO)(2.0, cohort())
    assert list(json.loads(file.read_text()).values()) == [4] and [f.name for f in file.parent.iterdir()] == [file.name]
    del measured[:]
    again = total().with_config(AUTO)
    again(1.0, cohort())
    assert not measured and again.config.lanes == 4
    file.unlink()
    total().with_config(AUTO)(2.0, cohort())
    assert measured


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b'{"a": 3}', b"\xff\xfe\x00"])
def test_a_damaged_file_is_written_anew(measured, file, text):
    file.parent.mkdir()
    file.write_bytes(text)
    total().with_config(AUTO)(2.0, cohort())
    assert 4 in json.loads(file.read_text()).values()


@pytest.mark.parametrize("entry", [3, 128, -1, 0, "4", None, [4], {"lanes": 4}, float("nan")])
def test_a_damaged_entry_is_like_none(file, entry):
    file.parent.mkdir()
    file.write_text(json.dumps({"this": entry, "another": 8}))
    assert [_tuning._remembered_lanes(key) for key in ("this", "another", "unknown")] == [0, 8, 0]
    _tuning._remember("this", 4)
    assert json.loads(file.read_text()) == {"this": 4, "another": 8}


def test_another_budget_is_measured_for_itself(measured, file):
    total().with_config(AUTO)(2.0, cohort())
    del measured[:]
    total().with_config(fc.EngineConfig("auto", 2, 10**9))(2.0, cohort())
    assert measured and len(json.loads(file.read_text())) == 2


def test_no_file_is_required(measured, monkeypatch, tmp_path):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    run = total().with_config(AUTO)
    run(2.0, cohort())
    assert run.config.lanes == 4


def test_really_measured_and_never_wider_than_the_cohort():
    run = total().with_config(AUTO)
    run(2.0, cohort(3))
    assert run.config.lanes in (1, 2, 4)


def test_lanes_that_do_not_fit_are_not_taken():
    def exhausted(server, cohort):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    assert _tuning._seconds(exhausted, {}, cohort(2)) == float("inf")
    assert _tuning.fastest({1: 3.0, 2: 2.0, 4: float("inf")}.__getitem__, [1, 2, 4]) == 2


def test_what_was_packed_for_one_measurement_is_not_kept():
    data, packed = cohort(9), []

    def program(server, sample):
        sample.packed["layout"] = "examples"
        packed.append(len(sample.packed))

    for _ in range(2):
        _tuning._seconds(program, {}, data)
    assert packed == [1, 1] and data.packed == {}


def test_no_more_lanes_are_tried_than_the_budget_holds_temporaries_of(measured):
    @fc.federated_computation(fc.at_clients(cohorts.DATA))
    def sorted_products(data):
        def products(data):
            """Products of 4 MB that no fusion avoids."""
            x = data.reduce(jnp.zeros(1000), lambda c, batch, mask: c + jnp.sum(batch["y"], where=mask))
            return jnp.sort(jnp.sort(jnp.outer(x, x), 0), 1)[0, 0]

        return fc.federated_sum(fc.federated_map(products, data))

    sorted_products.with_config(fc.EngineConfig("auto", 1, 24_000_000))(cohort())
    assert measured in ([1], [1, 2], [1, 2, 4])


def test_of_many_clients_some_are_measured():
    data = cohort(1500)
    sample = _tuning._sample(data)
    assert len(sample) == 1024 and sample.member_type == data.member_type
    chosen = [data.ids.index(i) for i in sample.ids]
    np.testing.assert_array_equal(sample.identity, data.identity[chosen])
    np.testing.assert_array_equal(sample.value.num_examples, data.value.num_examples[chosen])
    number = np.array([5, 7])
    rows = int(sample.value.num_examples[number].sum())
    out = {"x": np.empty((rows, 2), np.float32), "y": np.empty(rows, np.float32)}
    expected = jax.tree.map(np.copy, out)
    sample.value.read(number, out)
    data.value.read(np.array(chosen)[number], expected)
    jax.tree.map(np.testing.assert_array_equal, out, expected)
    np.testing.assert_array_equal(sample.value.batch_rows(number), data.value.batch_rows(np.array(chosen)[number]))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=7))
def test_no_candidate_is_faster_than_the_choice(seconds):
    seconds = dict(zip(_tuning.CANDIDATES, seconds))
    asked = []

    def measure(lanes):
        asked.append(lanes)
        return seconds[lanes]

    chosen = _tuning.fastest(measure, list(seconds))
    assert seconds[chosen] == min(seconds.values())
    assert asked[: len(seconds)] == list(seconds)
    turns = [asked.count(lanes) for lanes in sorted(seconds, key=seconds.get)]
    assert turns == sorted(turns, reverse=True)


@given(st.lists(st.floats(0.1, 10), min_size=7, max_size=7), st.integers(0, 4))
def test_what_slows_all_but_one_turn_down_changes_no_choice(seconds, quiet):
    """Every candidate near the fastest is measured in each turn, so also in the one while the machine was idle."""
    seconds = dict(zip(_tuning.CANDIDATES, seconds))
    turn = dict.fromkeys(seconds, -1)

    def measure(lanes):
        turn[lanes] += 1
        return seconds[lanes] * (1 if turn[lanes] == quiet else 3)

    assert seconds[_tuning.fastest(measure, list(seconds))] == min(seconds.values())


def test_lanes_are_a_number_or_auto():
    with pytest.raises(
        TypeError, match=r'EngineConfig\(lanes=...\) must be an integer, "auto" or None, got "fast"|fast'
    ):
        fc.EngineConfig(lanes="fast")
