"""Early stopping: when it ends a run, what the run leaves, and that a resumed run makes the same decision."""

import json

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import data as fd
from fedjax_core.program import Checkpoints, EarlyStopping, Evaluation, History, Record, Run, export_weights
from fedjax_core.program._early_stopping import Ending
from tests import learning_references as reference

KEY = jax.random.key(5)
NAN = float("nan")


def _last_round(losses: list[float], rule: EarlyStopping, every: int = 1, name: str = "loss") -> int | None:
    ending = Ending(rule, every)
    for number, loss in enumerate(losses, 1):
        if ending.measured(number, {name: loss}):
            return number
    return None


@pytest.mark.parametrize(
    "losses, settings, expected",
    [
        ([3, 2, 1, 1, 1], {"patience": 2}, 5),
        ([3, 2, 2, 1, 1, 2], {"patience": 2}, 6),  # an improvement begins the wait anew
        ([3, 2, 1, 0], {"patience": 2}, None),
        ([3, 2.9, 2.8, 2.7], {"patience": 2, "min_delta": 0.5}, 3),  # better than the best by less
        ([3, 2.9, 2.8, 2.4], {"patience": 3, "min_delta": 0.5}, None),  # slowly, and in all by more
        ([1, 2, 3, 3, 2], {"patience": 2, "mode": "max"}, 5),
        ([NAN, NAN, NAN], {"patience": 2}, 2),
        ([1, NAN, 0.5, NAN, NAN], {"patience": 2}, 5),
        ([3, 2, 1, 0], {"patience": 2, "max_rounds": 3}, 3),
    ],
)
def test_ends_after_so_many_measurements_that_are_no_better(losses, settings, expected):
    assert _last_round(losses, EarlyStopping("loss", **settings)) == expected


def test_a_round_without_the_metric_decides_nothing():
    ending = Ending(EarlyStopping("held_out/loss", patience=2), 2)
    values = [{}, {"held_out/loss": 1.0}, {"loss": 5.0}, {"held_out/loss": 1.0}, {}, {"held_out/loss": 1.0}]
    assert [ending.measured(number, value) for number, value in enumerate(values, 1)] == [False] * 5 + [True]


def test_the_evaluation_at_the_end_of_a_shorter_run_does_not_count():
    """A run extended by two rounds after round 3 ends as if it had never been shorter."""
    losses = [2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    rule = EarlyStopping("held_out/loss", patience=2)
    assert _last_round(losses, rule, every=2, name="held_out/loss") == 6


def test_replay_is_the_same_decision():
    rule = EarlyStopping("held_out/loss", patience=2)
    history = History()
    for number, loss in enumerate([3.0, 2.0, 2.5, 2.4], 1):
        history.append(Record(number, 0.0, 0.0, 1, {"loss": 9.0}, {"loss": loss}))
        assert Ending(rule, 1).replay(history, number) == (number == 4)
    assert not Ending(EarlyStopping("held_out/loss", patience=3), 1).replay(history, 4)
    assert Ending(4, None).replay(history, 4) and not Ending(None, None).replay(history, 4)


@pytest.fixture(scope="module")
def make():
    """A run that improves for some rounds, evaluated after every second round."""
    model = reference.linear_model()
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), server_optimizer=optax.adam(0.05), key=KEY)
    train_data, test_data = fd.FederatedData.from_clients(reference.make_clients([7, 3, 9, 4])).split_examples(0.7)
    evaluation = Evaluation(test_data, fc.algorithms.federated_evaluation(model), every=2)

    def run(folder, hooks=(), **change):
        given = {
            "sampler": 2,
            "rounds": EarlyStopping("held_out/eval/loss", patience=2, min_delta=0.4),
            "batching": fd.Batching(4, shuffle=True),
            "folder": folder,
            "evaluation": evaluation._replace(hooks=hooks),
            "checkpoints": Checkpoints(folder / "checkpoints", every=3),
            "exports": export_weights(),
            "key": KEY,
        }
        return Run(process, train_data, **{**given, **change})

    return run


def test_a_run_that_ends_early_leaves_all_that_one_leaves_at_its_end(make, tmp_path):
    result = make(tmp_path).train()
    last = len(result.history)
    assert last % 2 == 0 and Checkpoints(tmp_path / "checkpoints").rounds[-1] == last
    assert float(result.held_out["eval"]["loss"]) == result.history.column("held_out/eval/loss")[-1]
    assert result.exports[0].is_dir() and (tmp_path / "weights.npz").exists()
    watched = []
    make(tmp_path, [watched.append]).watch(every_secs=3600)  # ends, as that was the last one
    assert [e.round for e in watched] == [last]
    again = make(tmp_path, on_round=pytest.fail).train()
    assert len(again.history) == last


def test_a_resumed_run_ends_after_the_same_round(make, tmp_path):
    whole = make(tmp_path / "whole").train()

    def stop(told):
        if told.number in stops:
            stops.remove(told.number)
            raise KeyboardInterrupt

    stops = {1, 2, 3, len(whole.history) - 1}
    while stops:
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "run", on_round=stop).train()
    resumed = make(tmp_path / "run", on_round=stop).train()
    assert len(resumed.history) == len(whole.history)
    for a, b in zip(jax.tree.leaves(resumed.state.weights), jax.tree.leaves(whole.state.weights)):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_on_a_training_metric_it_evaluates_at_the_end(make, tmp_path):
    rule = EarlyStopping("client_work/train/loss", patience=1, min_delta=100.0)
    result = make(tmp_path, rounds=rule).train()  # the first loss is better than none, the second no better
    assert len(result.history) == 2 and result.held_out is not None


def test_a_metric_of_participation_that_nobody_measures_is_told(make, tmp_path):
    """The reasons of a sampler's stages are known only after its first round."""

    def some_late(round_num, participation):
        return participation.keep(np.arange(len(participation.ids)) > 0, "asleep")

    sampler = fd.participation(fd.uniform_sampler(["a", "b", "c"], 2, key=KEY), some_late)
    rules = {name: EarlyStopping(f"participation/{name}", 1, max_rounds=4) for name in ("asleep", "aslep")}
    assert len(make(tmp_path / "1", sampler=sampler, rounds=rules["asleep"]).train().history) == 2
    with pytest.warns(UserWarning, match="'participation/aslep'.* is not among what round 1 measured: .*/asleep") as w:
        assert len(make(tmp_path / "2", sampler=sampler, rounds=rules["aslep"]).train().history) == 4
    assert len(w) == 1 and w[0].filename == __file__
    with pytest.raises(ValueError, match=r"reports who took part, got 2; use sampler=fc.data.participation\("):
        make(tmp_path / "3", rounds=rules["asleep"])


def test_numbers_of_numpy_are_taken_and_written(make, tmp_path):
    rule = EarlyStopping("client_work/train/loss", patience=np.int64(3), max_rounds=np.int32(1))
    make(tmp_path, rounds=rule).train()
    written = json.loads((tmp_path / "run.json").read_text())["settings"]["rounds"]
    assert (written["patience"], written["max_rounds"]) == (3, 1)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"metric": 3}, TypeError, r"EarlyStopping\(metric=...\) must be the name of a metric, got 3"),
        ({"patience": 0}, ValueError, r"EarlyStopping\(patience=...\) must be an integer of at least 1, got 0"),
        ({"mode": "least"}, ValueError, r"must be 'min' or 'max', got 'least'; write mode='min'"),
        ({"min_delta": -1}, ValueError, r"EarlyStopping\(min_delta=...\) must be at least 0 and finite"),
        ({"max_rounds": 1.5}, TypeError, r"EarlyStopping\(max_rounds=...\) must be an integer of at least 1, got 1.5"),
    ],
)
def test_what_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        EarlyStopping(**{"metric": "loss", "patience": 1, **settings})
