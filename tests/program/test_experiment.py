"""Every method of `Experiment`, with a clock that a test moves."""

import csv
import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import data as fd
from fedjax_core.program import (
    Checkpoints,
    CheckpointTypeError,
    EarlyStopping,
    Experiment,
    Export,
    Job,
    export_weights,
    train,
)
from fedjax_core.program._watching import Time
from tests import learning_references as reference

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def fed_eval(model):
    return fc.algorithms.fed_eval(model)


@pytest.fixture
def make(process, evaluation, data, clock, tmp_path):
    """An experiment of five rounds with a checkpoint after each, unless the arguments say otherwise."""

    def experiment(**change):
        arguments = {
            "cohort_size": 3,
            "batching": fd.Batching(batch_size=4, shuffle=True),
            "key": KEY,
            "evaluation": evaluation,
            "train_rounds": 5,
            "run_dir": tmp_path / "run",
            "checkpoints": Checkpoints(tmp_path / "run" / "checkpoints", every=change.pop("every", 1)),
            "_time": Time(clock, clock.sleep),
        }
        given = {"process": process, "train_data": data[0], "eval_data": data[1]} | arguments | change
        return Experiment(given.pop("process"), given.pop("train_data"), given.pop("eval_data"), **given)

    return experiment


def _rows(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _measured_on_held_out(evaluation, process, state, data, limit=None):
    clients = data[1].client_ids if limit is None else data[1].client_ids[:limit]
    return evaluation(process.get_model_weights(state), data[1].cohort(clients, fd.Batching(4)))


# train


def test_trains_to_an_absolute_round_with_the_bits_of_the_loop(make, process, data):
    state = make().train()
    expected = train(process, data[0], sampler=3, rounds=5, batching=fd.Batching(batch_size=4, shuffle=True), key=KEY)
    assert int(state.round_num) == 5 and reference.bits(state) == reference.bits(expected.state)


@pytest.mark.parametrize("failure, left", [(RuntimeError, [3, 4, 5]), (KeyboardInterrupt, [4, 5])])
def test_a_resumed_experiment_has_the_bits_of_an_uninterrupted_one(failure, left, make, tmp_path):
    """Ctrl-C leaves a checkpoint of the last round that was run."""

    def stop(told):
        if told.number == 3:
            raise failure

    whole = make(run_dir=tmp_path / "whole", checkpoints=None).train()
    with pytest.raises(failure):
        make(train_hooks=[stop], every=2).train()
    told = []
    assert reference.bits(make(train_hooks=[told.append], every=2).train()) == reference.bits(whole)
    assert [round_.number for round_ in told] == left
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]


def test_having_got_there_it_does_nothing(make, tmp_path):
    state = make().train()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    for rounds in (5, 3):
        assert reference.bits(make(train_rounds=rounds, train_hooks=[pytest.fail]).train()) == reference.bits(state)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_trains_for_ever_without_a_last_round(make):
    numbers = []

    def stop(told):
        numbers.append(told.number)
        if told.number == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(train_rounds=None, train_hooks=[stop]).train()
    assert numbers == [1, 2, 3, 4, 5, 6, 7]


def test_the_settings_are_saved(make, tmp_path):
    make().train()
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert saved["settings"]["cohort_size"] == 3 and saved["settings"]["batching"]["batch_size"] == 4
    assert saved["settings"]["rounds"] == 5 and saved["settings"]["checkpoint_every"] == 1
    assert saved["settings"]["key_data"] == jax.random.key_data(KEY).tolist()
    assert saved["versions"]["jax"] == jax.__version__ and saved["versions"]["fedjax-core"] == fc.__version__
    assert sum(saved["devices"]["kinds"].values()) == len(jax.devices())


def test_another_algorithm_is_refused(make, model):
    make(train_rounds=1).train()
    other = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=KEY)
    with pytest.raises(CheckpointTypeError, match="holds a state of the type"):
        make(process=other).train()


def test_another_key_of_the_process_is_told(make, model):
    """The state, including the key, is the checkpoint's."""
    state = make(train_rounds=2).train()
    optimizers = {"client_optimizer": optax.sgd(0.1), "server_optimizer": optax.adam(0.05)}
    other = fc.algorithms.fed_avg(model, **optimizers, key=jax.random.key(6))
    with pytest.warns(UserWarning, match="built with another key than that of the checkpoint"):
        resumed = make(process=other, train_rounds=2).train()
    assert jax.random.key_data(resumed.key).tolist() == jax.random.key_data(state.key).tolist()


def test_what_a_killed_process_left_is_removed(make, tmp_path):
    left = [tmp_path / "run" / name / f".left.{'0' * 32}" for name in ("exports", "evaluation")]
    for folder in left:
        folder.mkdir(parents=True)
    make(train_rounds=1, exports=export_weights()).train_and_evaluate()
    assert not any(folder.exists() for folder in left)


def test_a_second_trainer_is_refused_as_long_as_the_first_one_runs(make, tmp_path):
    def second(told):
        if told.number == 3:
            with pytest.raises(BlockingIOError, match=r"another run is writing to .*run; wait for its end, or give"):
                make(train_rounds=9, train_hooks=[pytest.fail]).train()
            with pytest.raises(BlockingIOError, match=r"another run is writing to .*run/checkpoints"):
                make(run_dir=tmp_path / "other", train_rounds=9, train_hooks=[pytest.fail]).train()
            assert make().evaluate()

    make(train_hooks=[second]).train()
    assert int(make(train_rounds=6).train().round_num) == 6
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]


def test_delays_of_training(make, clock):
    make(train_rounds=1).train(delay_secs=7)
    assert clock.slept == [7]
    make(train_rounds=1).train()
    assert clock.slept == [7]


def test_participants_and_skipped_rounds(make, data):
    def minimum(round_num, participation):
        few = round_num == 2
        return participation.keep(np.arange(len(participation.ids)) < (0 if few else 3), "late")

    ask = fd.participation(fd.uniform_sampler(data[0].client_ids, 4, key=KEY), minimum, fd.minimum_reports(1))
    told, released = [], {}
    state = make(
        cohort_size=ask,
        train_rounds=3,
        train_hooks=[told.append],
        releases=fc.program.release_to_memory(released),
    ).train()
    assert int(state.round_num) == 2
    assert [r.record.num_clients for r in told] == [3, 0, 3] and told[1].metrics is None
    assert reference.bits(told[1].state) == reference.bits(told[0].state)
    assert [r.record.metrics["participation/skipped"] for r in told] == [0, 1, 0]
    assert [values["participation/late"] for values in released.values()] == [1, 4, 1]


def test_a_resumed_run_with_failures_has_the_bits_of_an_uninterrupted_one(make, data, tmp_path):
    """Clients are unavailable, fail or are slow, and rounds are skipped; it is stopped after a round of each kind."""

    def ask():
        work = fd.Effort(max_seconds=2.0), data[0], fd.Batching(batch_size=4, shuffle=True)
        return fd.participation(
            fd.uniform_sampler(data[0].client_ids, 5, key=KEY),
            fd.available(fd.diurnal(0.3, 1.0, rounds_per_day=4, key=KEY), key=KEY),
            fd.dropout(0.2, key=KEY),
            fd.local_effort(*work, steps_per_second=fd.lognormal_speeds(0.6, 0.5, key=KEY)),
            fd.minimum_reports(3),
        )

    def run(name, **more):
        folder = tmp_path / name
        checkpoints = Checkpoints(folder / "checkpoints", every=2)
        return make(cohort_size=ask(), run_dir=folder, checkpoints=checkpoints, train_rounds=8, **more).train()

    whole, told, stops = [], [], set()
    expected = run("whole", train_hooks=[whole.append])
    for skipped in (0, 1):
        stops.add(
            next(r.number for r in whole if r.record.metrics["participation/skipped"] == skipped and r.number > 2)
        )

    def stop(round_):
        told.append(round_)
        if round_.number in stops:
            stops.remove(round_.number)
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("run", train_hooks=[stop])
    assert reference.bits(run("run", train_hooks=[stop])) == reference.bits(expected) and not stops
    measured = {round_.number: (round_.record.num_clients, round_.record.metrics) for round_ in told}
    assert repr(measured) == repr({r.number: (r.record.num_clients, r.record.metrics) for r in whole})  # NaN is itself
    assert 0 < sum(metrics["participation/skipped"] for _, metrics in measured.values()) < 8


# evaluate


def test_evaluates_the_latest_checkpoint(make, process, evaluation, data, clock):
    state = make(train_rounds=2).train()
    told = []
    metrics = make(eval_delay_secs=3, eval_hooks=[told.append]).evaluate()
    expected = _measured_on_held_out(evaluation, process, state, data)
    assert reference.bits(metrics) == reference.bits(expected)
    assert [(e.round, float(e.metrics["eval"]["loss"])) for e in told] == [(2, float(expected["eval"]["loss"]))]
    make().evaluate(delay_secs=5)
    make().evaluate(delay_secs=0)
    assert clock.slept == [3, 5]


def test_without_a_checkpoint_there_is_nothing_to_evaluate(make):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint to evaluate in .*checkpoints; train\(\) first"):
        make().evaluate()


def test_eval_steps_are_batches_of_one_client_after_another(make, data):
    make(train_rounds=1).train()
    sizes = data[1].sizes.tolist()
    batches = [min(4, size - begin) for size in sizes for begin in range(0, size, 4)]
    for steps in (1, 3, 1000):
        metrics = make(eval_steps=steps).evaluate()
        assert int(metrics["eval"]["num_examples"]) == sum(batches[:steps])


def test_eval_metrics_take_the_place_of_the_models(make, model):
    make(train_rounds=1).train()
    own = {"examples": fc.model_calls.num_examples()}
    measured = make(evaluation=model, eval_metrics=own).evaluate()["eval"]
    assert "examples" in measured and "loss" in measured and "accuracy" not in measured


def test_an_exception_from_the_data_ends_an_evaluation(make, data):
    broken = []

    def read(examples):
        if broken:
            raise OSError("the disk is gone")
        return examples

    mapped = data[1].map(read)
    make(train_rounds=1).train()
    broken.append(True)
    with pytest.raises(OSError, match="the disk is gone"):
        make(eval_data=mapped).evaluate()


def test_a_process_of_evaluation_remembers_checkpoints(make, fed_eval):
    """Each checkpoint counts once, however often and by whatever method it is evaluated."""
    totals = []
    for rounds in (1, 2, 2, 3):
        make(train_rounds=rounds).train()
        metrics = make(evaluation=fed_eval).evaluate()["client_work"]["eval"]
        examples = int(metrics["current_round_metrics"]["num_examples"])
        totals.append(int(metrics["total_rounds_metrics"]["num_examples"]) / examples)
    assert totals == [1, 2, 2, 3]


def test_states_of_evaluation_that_are_damaged_or_of_later_rounds_do_not_count(make, fed_eval, tmp_path):
    def evaluate(rounds):
        make(train_rounds=rounds).train()
        metrics = make(evaluation=fed_eval).evaluate()["client_work"]["eval"]
        total, current = (metrics[f"{name}_metrics"]["num_examples"] for name in ("total_rounds", "current_round"))
        return int(total) / int(current)

    states = Checkpoints(tmp_path / "run" / "evaluation" / "checkpoints")
    assert [evaluate(1), evaluate(2)] == [1, 2]
    (states.folder / "2" / "history.jsonl").unlink()
    with pytest.warns(UserWarning, match="state after round 2 is damaged and skipped"):
        assert evaluate(3) == 2
    for number in (2, 3):  # the run goes back to the first round
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(number))
    assert evaluate(2) == 2 and states.rounds == (1, 2)


# train_and_evaluate


@pytest.mark.parametrize(
    "every, frequency, expected",
    [(1, 1, [1, 2, 3, 4, 5]), (1, 2, [2, 4, 5]), (2, 1, [2, 4, 5]), (2, 3, [4, 5]), (1, None, [5]), (1, 0, [5])],
)
def test_evaluates_new_checkpoints_in_between_and_once_at_the_end(every, frequency, expected, make, tmp_path):
    told = []
    experiment = make(every=every, min_eval_frequency=frequency, eval_hooks=[told.append])
    metrics, exported = experiment.train_and_evaluate()
    assert [e.round for e in told] == expected and metrics is told[-1].metrics and exported == []
    rows = _rows(tmp_path / "run" / "evaluation" / "metrics.jsonl")
    assert [row["round"] for row in rows] == expected


def test_a_resumed_one_goes_on_evaluating(make, process, evaluation, data):
    def stop(told):
        if told.number == 3:
            raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        make(min_eval_frequency=2, eval_hooks=[told.append], train_hooks=[stop]).train_and_evaluate()
    make(min_eval_frequency=2, eval_hooks=[told.append]).train_and_evaluate()
    assert [e.round for e in told] == [2, 4, 5]
    again, _ = make(eval_hooks=[told.append]).train_and_evaluate()
    assert [e.round for e in told] == [2, 4, 5, 5]
    assert reference.bits(again) == reference.bits(_measured_on_held_out(evaluation, process, make().train(), data))


def test_an_evaluation_that_is_repeated_after_a_crash_counts_once(make, fed_eval):
    """The state of the evaluation has been written, but the checkpoint of the round has not."""

    def crash(told):
        if told.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(evaluation=fed_eval, eval_hooks=[crash]).train_and_evaluate()
    metrics = make(evaluation=fed_eval).train_and_evaluate()[0]["client_work"]["eval"]
    current, total = (int(metrics[f"{rounds}_metrics"]["num_examples"]) for rounds in ("current_round", "total_rounds"))
    assert total == 5 * current


def test_held_out_metrics_decide_the_best_checkpoint(make, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    best = Checkpoints(folder, every=1, keep_last=1, best_metric="held_out/eval/loss", best_mode="max")
    told = []
    make(checkpoints=best, eval_hooks=[told.append]).train_and_evaluate()
    worst = max(told, key=lambda e: float(e.metrics["eval"]["loss"]))
    assert best.rounds == tuple(sorted({worst.round, 5}))


def test_exports_at_the_end(make, tmp_path):
    def write(folder, weights, metrics):
        (folder / "loss.txt").write_text(f"{float(metrics['eval']['loss']):.6f}")

    experiment = make(train_rounds=1, exports=[export_weights(), Export("report", write)])
    metrics, exported = experiment.train_and_evaluate()
    assert exported == [tmp_path / "run" / "exports" / name for name in ("weights", "report")]
    assert (exported[1] / "loss.txt").read_text() == f"{float(metrics['eval']['loss']):.6f}"
    old = experiment.reset_export_strategies()
    assert [export.name for export in old] == ["weights", "report"] and experiment.exports == ()
    assert experiment.reset_export_strategies(export_weights("again")) == ()
    assert experiment.train_and_evaluate()[1] == [tmp_path / "run" / "exports" / "again"]


def test_hooks_are_appended(make):
    first, second = [], []
    experiment = make(train_rounds=2, train_hooks=[first.append])
    experiment.extend_train_hooks([second.append])
    experiment.train()
    assert [r.number for r in first] == [r.number for r in second] == [1, 2]


# test


def test_one_round_and_one_evaluation_to_try(make, data, process, evaluation, tmp_path):
    rounds, evaluations = [], []
    metrics = make(train_hooks=[rounds.append], eval_hooks=[evaluations.append]).test()
    assert int(rounds[0].metrics["client_work"]["train"]["num_examples"]) == 4  # one batch of one client
    assert len(rounds) == len(evaluations) == 1 and evaluations[0].metrics is metrics
    assert reference.bits(metrics) == reference.bits(_measured_on_held_out(evaluation, process, rounds[0].state, data))
    assert not (tmp_path / "run").exists()


# continuous_eval


def test_a_watcher_waits_and_evaluates_each_checkpoint_once(make, clock, caplog):
    """What happens while the watcher sleeps stands for the other process."""
    rounds_at_sleep = iter([None, 1, None, None, 3, 5])

    def trainer():
        rounds = next(rounds_at_sleep)
        if rounds is not None:
            make(train_rounds=rounds).train()

    clock.on_sleep = trainer
    told = []
    with caplog.at_level(logging.WARNING, "fedjax_core"):
        metrics = make(eval_hooks=[told.append], throttle_secs=60).continuous_eval(throttle_delay_secs=20)
    assert [e.round for e in told] == [1, 3, 5] and metrics is told[-1].metrics
    assert clock.slept == [20] * 6
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no checkpoint after round 0" in caplog.text


def test_warns_at_most_once_in_ten_minutes(make, clock, caplog):
    results = []

    def predicate(result):
        results.append(result)
        return clock.now < 1000 + 3600

    assert make(predicate=predicate, throttle_secs=50).continuous_eval() == {}
    assert results == [None] + [{}] * 72
    assert len(caplog.records) == 6


def test_is_throttled_from_the_start_of_an_evaluation(make, clock):
    make(train_rounds=1).train()
    seconds = iter([15.0, 70.0, 0.0, 0.0])

    def slow(told):
        clock.now += next(seconds)

    looks = iter([True, True, True, False])
    experiment = make(predicate=lambda result: next(looks), eval_hooks=[slow], train_rounds=9)
    experiment.continuous_eval(delay_secs=4, evaluate_checkpoint_only_once=False)
    assert clock.slept == [4, 45.0, 60.0]  # none after the one that took longer


def test_repeats_if_told_to_and_gives_the_last_result_to_the_predicate(make):
    make(train_rounds=1).train()
    results, told = [], []

    def predicate(result):
        results.append(result)
        return len(results) < 4

    experiment = make(train_rounds=None, predicate=predicate, eval_hooks=[told.append])
    experiment.continuous_eval(evaluate_checkpoint_only_once=False)
    assert [e.round for e in told] == [1, 1, 1] and results == [None, *(e.metrics for e in told)]


def test_stops_at_the_last_round(make, clock):
    make(train_rounds=2).train()
    told = []
    make(train_rounds=2, eval_hooks=[told.append]).continuous_eval(evaluate_checkpoint_only_once=False)
    assert [e.round for e in told] == [2] and clock.slept == []


def test_goes_on_for_ever_without_an_end(make, clock):
    make(train_rounds=2).train()
    told = []

    def stop():
        if len(clock.slept) == 1000:
            raise KeyboardInterrupt

    clock.on_sleep = stop
    with pytest.raises(KeyboardInterrupt):
        make(train_rounds=None, eval_hooks=[told.append]).continuous_eval()
    assert [e.round for e in told] == [2]


def test_a_damaged_checkpoint_is_none(make, clock, tmp_path):
    make(train_rounds=3).train()
    (tmp_path / "run" / "checkpoints" / "3" / "manifest.json").write_bytes(b"")
    looks, told = iter([True, True, False]), []
    experiment = make(train_rounds=9, predicate=lambda result: next(looks), eval_hooks=[told.append])
    with pytest.warns(UserWarning, match="round 3 is damaged and skipped"):
        experiment.continuous_eval()
    assert [e.round for e in told] == [2]


def test_watches_on_the_train_data(make, process, evaluation, data, tmp_path):
    state = make(train_rounds=2).train()
    metrics = make(train_rounds=2).continuous_eval_on_train_data()
    cohort = data[0].cohort(data[0].client_ids, fd.Batching(4))
    assert reference.bits(metrics) == reference.bits(evaluation(process.get_model_weights(state), cohort))
    assert [row["round"] for row in _rows(tmp_path / "run" / "evaluation_on_train_data" / "metrics.jsonl")] == [2]
    assert not (tmp_path / "run" / "evaluation").exists()


@pytest.mark.slow
def test_a_watcher_remembers_what_it_sampled_over_a_restart(make, model, clock):
    """A checkpoint that was evaluated before the restart counts once in the metrics of all rounds."""
    aggregation = fc.metrics.finalize_then_sample(100, key=KEY)
    sampling = fc.algorithms.fed_eval(model, aggregation)

    def watch():
        looks = iter([True, False])
        experiment = make(train_rounds=9, evaluation=sampling, predicate=lambda result: next(looks))
        return experiment.continuous_eval()["client_work"]["eval"]["total_rounds_metrics"]["loss"]

    sampled = []
    for rounds in (1, 1, 2):
        make(train_rounds=rounds).train()
        sampled.append(np.asarray(watch()))
    assert [len(losses) for losses in sampled] == [8, 8, 16]
    assert np.sort(sampled[0]).tolist() == np.sort(sampled[1]).tolist()
    assert set(sampled[0].tolist()) < set(sampled[2].tolist())


# delay_by_round


def test_a_worker_waits_for_a_round_of_the_job(make, clock, tmp_path):
    """Worker 1 begins at round int(8000 log 2 / 2000) = 2."""
    worker = {"delay_by_round": True, "job": Job(delay_scale=1 / 2000, worker=1)}

    def job():
        clock.on_sleep = lambda: None
        rounds = len(clock.slept)
        if rounds <= 2:
            make(train_rounds=rounds).train()
        clock.on_sleep = job

    clock.on_sleep = job
    told = []
    state = make(**worker, train_hooks=[told.append]).train()
    assert len(clock.slept) == 2 and [r.number for r in told] == [3, 4, 5] and int(state.round_num) == 5
    assert make().evaluate() and Checkpoints(tmp_path / "run" / "checkpoints").rounds == (1, 2)


@pytest.mark.parametrize(
    "begin, slept",
    [
        (lambda experiment: experiment.train(delay_secs=0), []),
        (lambda experiment: experiment.train(7), [7]),
        (lambda experiment: experiment.train_and_evaluate(), []),
    ],
)
def test_a_delay_in_seconds_and_an_evaluation_wait_for_no_round(begin, slept, make, clock):
    """As in the original, only `train()` waits for the rounds of others."""
    clock.on_sleep = lambda: None if clock.slept == slept else pytest.fail("it waits for a round")
    begin(make(delay_by_round=True, job=Job(delay_scale=1 / 2000, worker=1), train_rounds=1))
    assert clock.slept == slept


def test_processes_that_compute_a_round_together_do_not_wait_for_one_another(make, monkeypatch):
    experiment = make(delay_by_round=True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"the 2 processes of .* job compute each round together; leave it out"):
        experiment.train()


def test_the_first_worker_does_not_wait(make, clock):
    make(delay_by_round=True, train_rounds=1).train()
    assert clock.slept == []


# run_std_server


def test_the_coordinator_joins_and_takes_its_part(make, tmp_path):
    joined = []
    job = Job("host0:1234", 2, initialize=lambda **settings: joined.append(settings))
    make(train_rounds=1, job=job).run_std_server()
    assert joined == [{"coordinator_address": "host0:1234", "num_processes": 2, "process_id": 0}]
    assert Checkpoints(tmp_path / "run" / "checkpoints").rounds == (1,)


@pytest.mark.parametrize(
    "job, missing",
    [
        (None, "coordinator_address"),
        (Job(initialize=pytest.fail), "coordinator_address"),
        (Job("host0:1234", initialize=pytest.fail), "num_processes"),
        (Job(num_processes=2, initialize=pytest.fail), "coordinator_address"),
    ],
)
def test_a_missing_setting_is_named(make, job, missing, tmp_path):
    with pytest.raises(ValueError, match=rf"needs the {missing} of the job, got None; begin the program with"):
        make(job=job, train_hooks=[pytest.fail]).run_std_server()
    assert not (tmp_path / "run").exists()


# what is refused


class Anything:
    """An object that fails if anything of it is used."""

    def __getattr__(self, name):
        raise AttributeError(name)


class Lacking:
    def __init__(self, *names):
        for name in names:
            setattr(self, name, pytest.fail)


def _weights_export():
    return export_weights("same")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"process": Lacking("get_model_weights")}, ValueError, "needs `next`, which"),
        ({"process": Lacking("next")}, ValueError, "needs `get_model_weights`, which"),
        ({"process": Lacking("next", "get_model_weights")}, TypeError, "must be a LearningProcess"),
        ({"exports": print}, ValueError, r"Experiment\(exports=...\) must be an Export or several, got <built-in"),
        ({"exports": [print]}, ValueError, "an Export or several"),
        ({"exports": [_weights_export(), _weights_export()]}, ValueError, "a name of its own, got same, same"),
        (
            {"cohort_size": None},
            TypeError,
            r"Experiment\(cohort_size=...\) must be the number of clients .*cohort_size=10, or",
        ),
        ({"cohort_size": "all"}, TypeError, "or a function of the round number, got 'all'"),
        ({"train_rounds": EarlyStopping("loss", 1)}, TypeError, r"Experiment\(train_rounds=...\) must be an integer"),
        ({"participants": len}, TypeError, r"of Run: checkpoints, .*; got participants; to set"),
        ({"cohort_size": 9}, ValueError, "only 8 clients; use cohort_size=8 or less"),
        ({"cohort_size": 0}, ValueError, r"Experiment\(cohort_size=...\) must be an integer of at least 1"),
        ({"train_rounds": 0}, ValueError, r"Experiment\(train_rounds=...\) must be an integer of at least 1"),
        ({"eval_steps": 1.5}, TypeError, r"Experiment\(eval_steps=...\) must be an integer"),
        (
            {"min_eval_frequency": -1},
            ValueError,
            r"Experiment\(min_eval_frequency=...\) must be an integer of at least 0, got -1",
        ),
        ({"job": Job(worker=-1)}, ValueError, r"Job\(worker=...\) must be an integer of at least 0, got -1"),
        ({"delay_by_round": "yes"}, TypeError, r"Experiment\(delay_by_round=...\) must be True or False, got 'yes'"),
        ({"progress": None}, TypeError, r"Experiment\(progress=...\) must be True or False, got None"),
        ({"throttle_secs": -1}, ValueError, "at least 0 and finite, got -1"),
        ({"eval_delay_secs": "soon"}, TypeError, "must be at least 0 and finite, got 'soon'"),
        ({"job": Job(delay_scale=float("nan"))}, ValueError, "at least 0 and finite, got nan"),
        ({"batching": 20}, TypeError, r"Experiment\(batching=...\) must be a Batching"),
        ({"key": 0}, TypeError, r"Experiment\(key=...\) must be one JAX key"),
        ({"evaluation": None}, TypeError, r"Experiment\(evaluation=...\) must be a model, a computation .* got None"),
        ({"evaluation": len}, TypeError, "a computation of weights and client data, or a process"),
        ({"eval_metrics": {}}, ValueError, r"Experiment\(eval_metrics=...\) .* write evaluation=model, or leave out"),
        ({"train_data": []}, TypeError, r"Experiment\(train_data=...\) must be FederatedData, got list"),
        ({"eval_data": Anything()}, TypeError, r"Experiment\(eval_data=...\) must be FederatedData, got Anything"),
        ({"train_hooks": [3]}, TypeError, r"Experiment\(train_hooks=...\) must be functions, got \[3\]"),
        ({"eval_hooks": 3}, TypeError, r"Experiment\(eval_hooks=...\) must be functions"),
        ({"predicate": 3}, TypeError, r"Experiment\(predicate=...\) must be a function of the last result, got 3"),
        ({"job": "host0:1234"}, TypeError, r"Experiment\(job=...\) must be a Job, got 'host0:1234'"),
        ({"checkpoints": "here"}, TypeError, r"Experiment\(checkpoints=...\) must be Checkpoints"),
        ({"releases": print}, TypeError, r"Experiment\(releases=...\) must be a ReleaseManager"),
    ],
)
def test_refuses_before_anything_runs(change, error, message, make, tmp_path):
    with pytest.raises(error, match=message):
        make(**change)
    assert not (tmp_path / "run").exists()


def test_refuses_to_draw_from_nobody(make, data, tmp_path):
    with pytest.raises(ValueError, match=r"Experiment\(train_data=...\) needs clients to draw from, got none"):
        make(train_data=data[0].subset([]))
    (tmp_path / "run").write_text("")
    with pytest.raises(FileExistsError, match=r"a run needs a folder, got .*run, which is a file"):
        make(checkpoints=None).train()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda e: e.train(delay_secs="soon"), r"train\(delay_secs=...\) must be at least 0 and finite, got 'soon'"),
        (lambda e: e.evaluate(delay_secs=-1), r"evaluate\(delay_secs=...\) must be at least 0 and finite, got -1"),
        (
            lambda e: e.continuous_eval(delay_secs=[]),
            r"continuous_eval\(delay_secs=...\) must be at least 0 and finite",
        ),
        (
            lambda e: e.continuous_eval(throttle_delay_secs="1"),
            r"throttle_delay_secs=...\) must be at least 0 and finite, got '1'",
        ),
        (
            lambda e: e.continuous_eval_on_train_data(throttle_delay_secs=-1),
            r"throttle_delay_secs=...\) must be at least 0",
        ),
    ],
)
def test_refuses_what_is_no_time(call, message, make, clock):
    with pytest.raises((TypeError, ValueError), match=message):
        call(make())
    assert clock.slept == []


@pytest.mark.parametrize("evaluate", [fc.algorithms.federated_evaluation, fc.algorithms.fed_eval])
def test_refuses_an_evaluation_of_other_weights(evaluate, make, model):
    other = model._replace(
        init=lambda key: {"w": jax.numpy.zeros((4, 3))}, predict=lambda w, batch, **_: batch["x"] @ w["w"]
    )
    with pytest.raises(TypeError, match=r"kernel=float32\[4,3\]>, .*got an evaluation of <w=float32"):
        make(evaluation=evaluate(other))


def test_nothing_of_the_user_runs_at_construction(make, data, tmp_path):
    armed = []

    def read(examples):
        assert not armed
        return examples

    train_data, eval_data = data[0].map(read), data[1].map(read)
    armed.append(True)
    make(
        train_data=train_data,
        eval_data=eval_data,
        train_hooks=[pytest.fail],
        eval_hooks=[pytest.fail],
        predicate=pytest.fail,
        cohort_size=pytest.fail,
        exports=Export("none", pytest.fail),
        releases=fc.program.ReleaseManager(pytest.fail),
        _time=Time(pytest.fail, pytest.fail),
    )
    assert not (tmp_path / "run").exists()
