from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.data import first_to_report, fixed_cohorts, minimum_reports, participation
from fedjax_core.program import History, Record, find_metric, flatten_metrics


class Pair(NamedTuple):
    first: object
    second: object


def test_flatten_names_every_container():
    metrics = {"a": Pair(jnp.float32(1.5), [2, (3.0,)]), "empty": (), "none": None}
    assert flatten_metrics(metrics) == {"a/first": 1.5, "a/second/0": 2, "a/second/1/0": 3.0}


def test_flatten_gives_python_numbers():
    flat = flatten_metrics({"i": jnp.int32(3), "f": np.float32(0.5), "b": jnp.array(True)})
    assert [type(flat[name]) for name in ("i", "f", "b")] == [int, float, bool]


def test_flatten_arrays():
    flat = flatten_metrics({"small": jnp.arange(4).reshape(2, 2), "large": jnp.zeros(17)})
    assert flat == {f"small/{i}": i for i in range(4)}


def test_flatten_a_single_number():
    assert flatten_metrics(0.25) == {"value": 0.25}


def test_columns_in_order_and_missing_numbers(history):
    assert history.columns[:4] == ("round", "seconds", "round_seconds", "num_clients")
    assert history.columns[-2:] == ("held_out/eval/accuracy", "held_out/eval/loss")
    np.testing.assert_array_equal(history.column("held_out/eval/loss"), [2.0, np.nan, 2 / 3])
    np.testing.assert_array_equal(history.column("train/count"), [10, 20, 30])


def test_unknown_column(history):
    with pytest.raises(KeyError, match=r"no round measured 'loss'; the history has round, seconds"):
        history.column("loss")
    with pytest.raises(KeyError, match="no rounds"):
        History().column("loss")


def test_find_metric_prefers_the_exact_name():
    assert find_metric({"train/top_accuracy": 1, "train/accuracy": 2}, "accuracy") == "train/accuracy"
    assert find_metric({"x/token_accuracy": 1}, "accuracy") == "x/token_accuracy"
    assert find_metric({"train/inaccuracy": 1}, "accuracy") is None


def test_summary(history):
    expected = "loss 0.333, accuracy 50.0 % · held-out loss 2.000, accuracy 40.0 %"
    assert history.records[0].summary() == expected
    assert history.records[1].summary() == "loss 0.167, accuracy 75.0 %"


def test_summary_of_a_skipped_round():
    present = participation(fixed_cohorts([["ada", "bob", "eve"]]), first_to_report(2), minimum_reports(3))(1)
    metrics = {f"participation/{name}": value for name, value in present.metrics().items()}
    assert Record(1, 0.1, 0.1, 0, metrics, {}).summary() == "skipped, 2 of 3 clients reported"
    evaluated = Record(1, 0.1, 0.1, 0, metrics, {"eval/loss": 2.0})
    assert evaluated.summary() == "skipped, 2 of 3 clients reported · held-out loss 2.000"


def test_flatten_narrow_numbers_and_texts():
    flat = flatten_metrics({"b": jnp.bfloat16(0.1), "f": jnp.ones(2, jnp.float8_e4m3fn), "name": "x"})
    assert flat == {"b": float(jnp.bfloat16(0.1)), "f/0": 1.0, "f/1": 1.0, "name": "x"}
    assert type(flat["b"]) is float


def test_lines_make_the_same_history(history):
    odd = {"nan": float("nan"), "inf": float("inf"), "zero": -0.0, "tiny": 5e-324, "many": 2**70, "yes": True}
    history.append(Record(4, 1 / 3, 0.1, 0, odd, {}))
    again = History.from_lines(history.to_lines())
    assert repr(again.records) == repr(history.records)
    assert again.to_lines() == history.to_lines()
    assert len(History.from_lines(History().to_lines())) == 0


def test_lines_follow_the_records(history):
    whole = history.to_lines()
    assert b"".join(whole).count(b"\n") == len(whole) == len(history)
    history.records[1] = history.records[1]._replace(num_clients=0)
    assert History.from_lines(history.to_lines()).records[1].num_clients == 0
    del history.records[1:]
    assert history.to_lines() == whole[:1]


@pytest.mark.parametrize("lines", [b"1\n", b"[1, 2]\n", b"{}\n", b"[1,", b"\xff\n"])
def test_other_lines(lines):
    with pytest.raises(ValueError, match="these are not the lines of a history"):
        History.from_lines(lines.splitlines())
