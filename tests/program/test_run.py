"""`Run`: its arguments, evaluations, first state and files. The bits of resumed runs are in `test_resuming.py`."""

import json
import shutil
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import data as fd
from fedjax_core.program import (
    Checkpoints,
    EarlyStopping,
    Evaluation,
    Export,
    Run,
    RunFolder,
    export_weights,
    load_weights,
    release_to_memory,
)
from tests import learning_references as reference

KEY = jax.random.key(5)
BATCHING = fd.Batching(batch_size=4, shuffle=True)


@pytest.fixture
def make(process, evaluation, data):
    """A run of four rounds without files, unless the arguments say otherwise."""

    def run(**change):
        arguments = {"process": process, "train_data": data[0], "sampler": 3, "batching": BATCHING, "rounds": 4}
        given = arguments | {"key": KEY} | change
        return Run(given.pop("process"), given.pop("train_data"), **given)

    return run


# who takes part


@pytest.mark.slow
def test_any_sampler_is_accounted_for_evaluated_and_exported(make, model, data, evaluation, tmp_path):
    """Poisson sampling, failures, privacy, evaluation, releases and exports are all features of one run."""
    drawn = fd.poisson_sampler(data[0].client_ids, 0.5, key=KEY)

    def late_in_round_2(round_num, participation):
        return participation.keep(np.full(len(participation.ids), round_num != 2), "late")

    spent = fc.privacy.accounting(noise_multiplier=1.0, delta=1e-3, sampling=fc.privacy.poisson(0.5))
    private = fc.aggregators.private_mean(1.0, 1.0, cohort_size=4, key=KEY)
    released = {}
    result = make(
        process=fc.algorithms.fed_avg(model, optax.sgd(0.1), aggregator=private, key=KEY),
        sampler=fd.participation(drawn, late_in_round_2, fd.minimum_reports(1)),
        folder=tmp_path / "run",
        accounting=spent,
        evaluation=Evaluation(data[1], evaluation, every=2),
        releases=[release_to_memory(released)],
        exports=export_weights(),
    ).train()
    history = result.history
    assert history.column("privacy/epsilon").tolist() == [spent.epsilon_so_far(number) for number in (1, 2, 3, 4)]
    selected = [len(drawn(number)) for number in (1, 2, 3, 4)]
    assert history.column("participation/selected").tolist() == selected
    skipped = history.column("participation/skipped").astype(bool)
    assert skipped[1] and not skipped.all()
    assert np.isfinite(history.column("held_out/eval/loss")).tolist() == [False, True, False, True]
    assert [released[number]["privacy/epsilon"] for number in (1, 4)] == [spent.epsilon_so_far(n) for n in (1, 4)]
    assert [path.name for path in result.exports] == ["weights"]
    assert result.exports[0].parent == tmp_path / "run" / "exports"


def test_a_sampler_draws_what_a_number_of_clients_does(make, data):
    drawn = fd.uniform_sampler(data[0].client_ids, 3, key=KEY)
    assert reference.bits(make(sampler=drawn).train().state) == reference.bits(make().train().state)


# evaluation


def test_what_is_known_of_clients_comes_with_those_that_report(make, model, data):
    """The staleness from a sampler's stage, by row and by id, reaches the round for the clients that report.

    The same holds when the run is only tried.
    """

    def with_delays(round_num, participation):
        delays = np.arange(len(participation.ids), dtype=np.int32) + round_num
        by_id = dict.fromkeys(data[0].client_ids, 0.5)
        return participation._replace(extra={"delay": delays, "speed": by_id})

    def second_is_late(round_num, participation):
        return participation.keep(np.arange(len(participation.ids)) != 1, "late")

    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), weighting="uniform", key=KEY)

    @fc.federated_computation(process.next.type_signature.parameter["state"], process.next.parameters[1][1])
    def next_round(state, data):
        delay, speed = fc.federated_client_value("delay", "int32"), fc.federated_client_value("speed", "float32")
        state, metrics = process.next(state, data)
        seen = fc.federated_zip((fc.federated_sum(delay), fc.federated_mean(speed)))
        return fc.templates.LearningProcessOutput(state, fc.federated_zip({"known": seen, "round": metrics}))

    with_extra = fc.templates.LearningProcess(
        process.initialize, next_round, process.report, process.get_model_weights, process.set_model_weights
    )
    drawn = fd.participation(fd.uniform_sampler(data[0].client_ids, 3, key=KEY), with_delays, second_is_late)
    tried = []
    run = make(process=with_extra, sampler=drawn, rounds=2, on_round=tried.append)
    run.test()
    assert [round_.record.metrics["known/0"] for round_ in tried] == [1]  # of the first client alone
    history = run.train().history
    assert history.column("known/0").tolist() == [1 + 3, 2 + 4]
    assert history.column("known/1").tolist() == [0.5, 0.5]


def test_a_computation_of_the_state_is_known_by_its_type(make, process, data):
    @fc.federated_computation(process.state_type, process.next.parameters[1][1])
    def evaluate(state, data):
        moments = fc.federated_map(lambda s: sum(abs(x).sum() for x in jax.tree.leaves(s)), state.finalizer)
        clients = fc.federated_sum(fc.federated_map(lambda batches: 1, data))
        return {"moments": moments, "rounds": state.round_num, "clients": clients}

    evaluated = []
    result = make(evaluation=Evaluation(data[1], evaluate, every=1, hooks=evaluated.append)).train()
    assert [int(e.metrics["rounds"]) for e in evaluated] == [e.round for e in evaluated] == [1, 2, 3, 4]
    assert int(result.held_out["clients"]) == 8 and float(result.held_out["moments"]) > 0
    assert result.history.column("held_out/rounds").tolist() == [1, 2, 3, 4]


def test_without_a_folder_a_process_of_evaluation_remembers_too(make, model, data):
    run = make(evaluation=Evaluation(data[1], fc.algorithms.fed_eval(model), every=1))
    metrics = run.train().held_out["client_work"]["eval"]
    current, total = (int(metrics[f"{rounds}_metrics"]["num_examples"]) for rounds in ("current_round", "total_rounds"))
    assert total == 4 * current
    assert reference.bits(run.evaluate()["client_work"]["eval"]) == reference.bits(metrics)


def test_only_at_the_end(make, data, evaluation):
    evaluated = []
    make(evaluation=Evaluation(data[1], evaluation, every=None, hooks=[evaluated.append])).train()
    assert [e.round for e in evaluated] == [4]


def test_an_evaluation_takes_numbers_of_numpy(make, data, evaluation, tmp_path):
    make(folder=tmp_path, evaluation=Evaluation(data[1], evaluation, every=np.int64(3), steps=np.int64(2))).train()
    written = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert (written["eval_every"], written["eval_steps"]) == (3, 2)


def test_evaluates_the_state_that_training_ended_with(make, process, data, evaluation):
    run = make(evaluation=Evaluation(data[1], evaluation, batching=fd.Batching(3)))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint to evaluate; train\(\) first"):
        run.evaluate()
    state = run.train().state
    cohort = data[1].cohort(data[1].client_ids, fd.Batching(3))
    assert reference.bits(run.evaluate()) == reference.bits(evaluation(process.get_model_weights(state), cohort))


def test_an_evaluation_without_a_name_leaves_nothing(make, data, evaluation, tmp_path):
    folder = tmp_path / "run"
    make(folder=folder).train()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make(folder=folder, evaluation=Evaluation(data[1], evaluation, name=None)).evaluate()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_watch_ends_when_it_is_told_to(make, data, evaluation, tmp_path):
    make(folder=tmp_path, rounds=2).train()
    evaluated, results = [], []
    run = make(folder=tmp_path, evaluation=Evaluation(data[1], evaluation, hooks=[evaluated.append]))
    metrics = run.watch(every_secs=0, until=lambda result: results.append(result) or len(results) == 3)
    assert [e.round for e in evaluated] == [2] and metrics is evaluated[0].metrics
    assert results == [None, metrics, {}]


def test_what_there_is_not_is_said(make, data, evaluation):
    with pytest.raises(ValueError, match=r"no evaluation; give it evaluation=fc.program.Evaluation\("):
        make().evaluate()
    with pytest.raises(ValueError, match=r"a run without them; give it a folder="):
        make(evaluation=Evaluation(data[1], evaluation)).watch()


# what it begins with


def test_fine_tunes_the_weights_of_another_run(make, process, model, data, tmp_path):
    make(folder=tmp_path / "first").train()
    weights = load_weights(tmp_path / "first" / "weights.npz", like=model.init(KEY))
    begun = process.set_model_weights(process.initialize(), jax.tree.map(np.asarray, weights))
    state = begun
    for number in (1, 2):
        clients = fd.sample_clients(number, data[0].client_ids, 3, key=KEY)
        cohort = data[0].cohort(clients, BATCHING, key=jax.random.fold_in(KEY, number))
        state, _ = process.next(state, cohort)
    result = make(initial_state=begun, rounds=2).train()
    assert reference.bits(result.state) == reference.bits(state) and result.history.column("round").tolist() == [1, 2]


def _as_dicts(value):
    """A state as it comes from a file or a message, with dicts in place of all named containers."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _as_dicts(value[name]) for name in reversed(value)}
    return tuple(map(_as_dicts, value)) if isinstance(value, tuple) else value


def test_the_state_that_a_run_begins_with_may_be_of_dicts(make, process):
    state = make(rounds=1).train().state
    given = _as_dicts(state)
    assert type(given["finalizer"][0]) is dict  # what Adam keeps
    expected = make(initial_state=state).train().state
    assert reference.bits(make(initial_state=given).train().state) == reference.bits(expected)
    with pytest.raises(TypeError, match=r"Run\(initial_state=...\) must be a state of the process"):
        make(initial_state={**given, "more": 1})


class Swapped(NamedTuple):
    """A batch whose fields have another order than those of a dict."""

    y: Any
    x: Any


@pytest.mark.slow
def test_clients_of_dicts_train_a_model_of_other_batches(make, model, data):
    batches = fc.types.to_type(Swapped(*(model.batch_type[name] for name in Swapped._fields)))
    swapped = model._replace(
        batch_type=batches,
        predict=lambda weights, batch, key=None, training=False: model.predict(weights, batch._asdict()),
        loss=lambda predictions, batch: model.loss(predictions, batch._asdict()),
        metrics={"num": fc.Metric(lambda predictions, batch, mask: mask.sum() + 0 * batch.y[0], lambda total: total)},
    )

    def trained(model):
        process = fc.algorithms.fed_avg(model, optax.sgd(0.1), server_optimizer=optax.adam(0.05), key=KEY)
        return make(process=process, evaluation=Evaluation(data[1], model, every=2)).train()

    assert reference.bits(trained(swapped).state.weights) == reference.bits(trained(model).state.weights)


def test_a_warm_run_is_resumed_and_another_beginning_is_told(make, process, tmp_path):
    def begun(shift):
        weights = jax.tree.map(lambda x: x + shift, _weights(process))
        return process.set_model_weights(process.initialize(), weights)

    first, second = begun(1), begun(2)
    whole = make(initial_state=first).train().state
    folder = tmp_path / "run"
    make(initial_state=first, rounds=2, folder=folder).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(rounds=3, folder=folder).train()
        assert reference.bits(make(initial_state=first, folder=folder).train().state) == reference.bits(whole)
    with pytest.warns(UserWarning, match="checkpoint of round 4, which did not begin with this initial_state") as told:
        assert reference.bits(make(initial_state=second, folder=folder).train().state) == reference.bits(whole)
    assert told[0].filename == __file__  # and not a line of the package


def _weights(process):
    return process.get_model_weights(process.initialize())


def test_the_first_state_is_not_traced_twice(model, data):
    traces = []

    def loss(predictions, batch):
        traces.append(1)
        return model.loss(predictions, batch)

    process = fc.algorithms.fed_avg(model._replace(loss=loss), optax.sgd(0.1), key=KEY)
    run = {"sampler": 3, "batching": BATCHING, "key": KEY}
    state = Run(process, data[0], rounds=1, **run).train().state
    before = len(traces)
    Run(process, data[0], rounds=3, initial_state=jax.tree.map(_on_host, state), **run).train()
    assert len(traces) == before


def _on_host(leaf):
    return leaf if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


# what it leaves


@pytest.mark.parametrize("lost", ["weights.npz", "exports"])
def test_a_run_that_is_over_makes_up_for_what_was_not_written(lost, make, data, evaluation, tmp_path):
    """A process may be killed between the last checkpoint and the end."""
    arguments = {"folder": tmp_path / "run", "exports": export_weights(), "evaluation": Evaluation(data[1], evaluation)}
    first = make(**arguments).train()
    written = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.npz")}
    if lost == "exports":
        shutil.rmtree(tmp_path / "run" / "exports")
    else:
        (tmp_path / "run" / "weights.npz").write_bytes(b"of an earlier interruption")
    again = make(**arguments, on_round=pytest.fail).train()
    assert reference.bits(again.held_out) == reference.bits(first.held_out) and again.exports == first.exports
    assert (tmp_path / "run" / "exports" / "weights" / "weights.safetensors").is_file()
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.npz")} == written


def test_a_folder_may_have_to_be_new(make, tmp_path):
    make(folder=RunFolder(tmp_path / "run"), rounds=1).train()
    with pytest.raises(FileExistsError, match="not empty"):
        RunFolder(tmp_path / "run")


def test_tries_everything_and_leaves_nothing(make, data, evaluation, tmp_path):
    rounds = []
    arguments = {"folder": tmp_path / "run", "exports": Export("none", pytest.fail), "on_round": rounds.append}
    metrics = make(**arguments, evaluation=Evaluation(data[1], evaluation)).test()
    assert int(rounds[0].metrics["client_work"]["train"]["num_examples"]) == 4  # one batch of one client
    assert len(rounds) == 1 and np.isfinite(metrics["eval"]["loss"])
    assert make().test() is None
    assert not (tmp_path / "run").exists()


def test_tries_a_client_that_has_examples_of_a_round_that_is_run(make, data):
    tried = []

    def none_before_3(round_num, participation):
        return participation.keep(np.full(len(participation.ids), round_num > 2), "late")

    some = data[0].client_ids[0]
    empty = {name: array[:0] for name, array in data[0][some].items()}
    clients = fd.FederatedData.from_clients({"none": empty, "some": data[0][some]})
    sampler = fd.participation(fd.fixed_cohorts([["none", "some"]]), none_before_3, fd.minimum_reports(1))
    make(train_data=clients, sampler=sampler, on_round=tried.append).test()
    assert int(tried[0].metrics["client_work"]["train"]["num_examples"]) == 4


def test_a_round_that_draws_nobody_is_neither_tried_nor_estimated(make, data):
    tried = []
    run = make(sampler=lambda number: data[0].client_ids[: number - 1], on_round=tried.append)  # as Poisson's may
    run.test()
    assert [round_.record.num_clients for round_ in tried] == [1]
    assert run.estimate().cohort_size == 1


def test_a_checkpoint_has_room_for_tables(make, tmp_path):
    """A version without client tables does not mistake a checkpoint that has some for one that has none."""
    make(folder=tmp_path, rounds=1).train()
    path = tmp_path / "checkpoints" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())["manifest"]
    assert manifest["tables"] == {}
    manifest["tables"] = {"client_work.controls": ["segment"]}
    canonical = json.dumps(manifest, sort_keys=True).encode()
    digest = fc.program._checkpoint_folder._digest(canonical)
    path.write_text(json.dumps({"digest": digest, "manifest": manifest}))
    with pytest.raises(ValueError, match=r"has client tables \(client_work.controls\), which this version cannot read"):
        make(folder=tmp_path, rounds=2).train()


# who was left out


@pytest.fixture(scope="module")
def with_nan():
    """Clients "a" to "d"; "b" and "d" hold a NaN."""
    clients = dict(zip("abcd", reference.make_clients([7, 3, 9, 4]).values()))
    for name in "bd":
        clients[name] = {**clients[name], "x": np.full_like(clients[name]["x"], np.nan)}
    return fd.FederatedData.from_clients(clients)


def test_clients_that_are_left_out_are_named(make, with_nan, tmp_path, caplog):
    """They are named in the history and its checkpoints, in the releases, in the progress line and in the log."""
    released, cohorts = {}, fd.fixed_cohorts([["a", "c"], ["d", "a", "b"]])
    arguments = {"train_data": with_nan, "sampler": cohorts, "rounds": 2, "folder": tmp_path}
    with caplog.at_level("INFO", "fedjax_core"):
        history = make(**arguments, releases=release_to_memory(released)).train().history
    named = [(), (("b", "update"), ("d", "update"))]
    assert [record.left_out for record in history.records] == named
    assert [record.left_out for record in make(**arguments).restore().history.records] == named
    assert "left_out_clients" not in released[1]
    assert released[2]["left_out_clients"] == "b (update), d (update)"
    assert not any("non_finite_clients/client" in name for name in released[2])
    assert history.records[1].summary().startswith("left out 2 of 3 clients (update 2) · loss")
    assert caplog.messages == ["round 2 left out 2 of 3 clients: b (update), d (update)"]


def test_a_part_of_a_population_keeps_the_names(make, with_nan):
    history = make(train_data=with_nan.subset(["c", "d"]), sampler=2, rounds=1).train().history
    assert history.records[0].left_out == (("d", "update"),)


def test_a_round_that_leaves_out_everybody_warns_once(make, with_nan):
    cohorts = fd.fixed_cohorts([["b", "d"], ["d"], ["a", "b"]])
    with pytest.warns(UserWarning, match=r"round 1 left out all of its 2 clients, .*: update 2; lower") as told:
        result = make(train_data=with_nan, sampler=cohorts, rounds=3).train()
    assert [str(w.message)[:7] for w in told] == ["round 1"] and told[0].filename == __file__
    assert result.history.records[0].summary().startswith("left out all 2 clients (update 2)")


def test_clients_without_examples_do_not_hide_that_everybody_was_left_out(make, with_nan):
    empty = {name: array[:0] for name, array in with_nan["a"].items()}
    clients = fd.FederatedData.from_clients({"b": with_nan["b"], "c": with_nan["c"], "empty": empty})
    cohorts = fd.fixed_cohorts([["b", "c"], ["b", "empty"]])
    with pytest.warns(UserWarning, match="round 2 left out all of its 1 clients that have examples, since") as told:
        make(train_data=clients, sampler=cohorts, rounds=2).train()
    assert len(told) == 1


def test_a_run_that_is_tried_tells_of_the_client_that_it_left_out(make, with_nan):
    with pytest.warns(UserWarning, match="round 1 left out all of its 1 clients, .*: update 1; lower"):
        make(train_data=with_nan, sampler=fd.fixed_cohorts([["b"]])).test()


# what it takes


def test_estimates_before_it_runs(make, process, data, tmp_path):
    run = make(folder=tmp_path / "run", rounds=1500, on_round=pytest.fail)
    estimate = run.estimate()
    clients = fd.sample_clients(1, data[0].client_ids, 3, key=KEY)
    assert estimate.call == process.next.estimate(data[0].cohort(clients, BATCHING, key=KEY))
    assert (estimate.cohort_size, estimate.rounds_left, estimate.seconds) == (3, 1500, None)
    assert str(estimate).endswith("1,500 rounds left; how long they take is known after some: estimate(rounds=2)")
    assert f"each of 3 clients receives {estimate.call.received_bytes} B and sends" in str(estimate)
    assert not (tmp_path / "run").exists()


def test_estimates_the_seconds_of_rounds_that_it_tries(make, tmp_path):
    ticks = iter(range(1000))
    run = make(folder=tmp_path / "run", rounds=100, on_round=pytest.fail)
    run._time = run._time._replace(clock=lambda: float(next(ticks)))
    estimate = run.estimate(rounds=2)
    assert estimate.round_seconds == 1.0 and estimate.seconds == 100.0
    assert "100 rounds left, 1 s each, 0:01:40 in all without evaluation" in str(estimate)
    assert not (tmp_path / "run").exists()


def test_estimates_what_is_left_of_a_run(make, tmp_path):
    history = make(folder=tmp_path, rounds=3).train().history
    estimate = make(folder=tmp_path, rounds=10).estimate()
    assert estimate.rounds_left == 7
    assert estimate.round_seconds == np.median([record.round_seconds for record in history.records[1:]])
    assert make(folder=tmp_path, rounds=None).estimate().seconds is None


def test_rounds_that_are_skipped_take_no_time_and_are_not_among_the_timed_ones(make, data, tmp_path):
    def in_every_third(round_num, participation):
        return participation.keep(np.full(len(participation.ids), round_num % 3 == 0), "late")

    drawn = fd.uniform_sampler(data[0].client_ids, 4, key=KEY)
    sampler = fd.participation(drawn, in_every_third, fd.minimum_reports(1))
    records = make(folder=tmp_path, sampler=sampler, rounds=9).train().history.records
    assert [record.is_skipped for record in records] == [True, True, False] * 3
    estimated = make(folder=tmp_path, sampler=sampler, rounds=12).estimate().round_seconds
    assert estimated == np.median([records[i].round_seconds for i in (5, 8)])
    assert make(sampler=sampler, rounds=12).estimate(rounds=2).round_seconds > 0  # those tried are the rounds 3 and 6


def test_a_round_that_is_skipped_is_not_estimated(make, data):
    def few(round_num, participation):
        return participation.keep(np.full(len(participation.ids), round_num > 2), "late")

    drawn = fd.uniform_sampler(data[0].client_ids, 4, key=KEY)
    assert make(sampler=fd.participation(drawn, few, fd.minimum_reports(1))).estimate().cohort_size == 4
    with pytest.raises(ValueError, match="the rounds 1 to 100 are all skipped"):
        make(sampler=fd.participation(drawn, few, fd.minimum_reports(5))).estimate()


# what is refused


def _other_data():
    return fd.FederatedData.from_clients([{"x": np.zeros((3, 5), np.float32), "y": np.zeros(3, np.int32)}] * 12)


def _early(metric, **more):
    return EarlyStopping(metric, patience=1, **more)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"rounds": 0}, ValueError, r"Run\(rounds=...\) must be an integer of at least 1, got 0; write rounds=10"),
        ({"rounds": 2.5}, TypeError, r"Run\(rounds=...\) must be an integer of at least 1, got 2.5"),
        ({"rounds": True}, TypeError, r"Run\(rounds=...\) must be an integer of at least 1, got True"),
        ({"rounds": _early("loss")}, ValueError, "'loss'.* is not among what is measured; use one of .*train/loss"),
        ({"rounds": _early("held_out/eval/loss")}, ValueError, "needs evaluations during the run; add"),
        ({"sampler": 0}, ValueError, r"Run\(sampler=...\) must be an integer of at least 1, got 0"),
        ({"sampler": 9}, ValueError, "only 8 clients; use sampler=8 or less"),
        ({"sampler": True}, TypeError, r"Run\(sampler=...\) must be the number of clients a round or a function"),
        ({"sampler": None}, TypeError, "got None; for example sampler=10"),
        ({"batching": 20}, TypeError, r"Run\(batching=...\) must be a Batching, got 20"),
        ({"key": 0}, TypeError, r"must be one JAX key, got 0; write key=jax.random.key\(0\)"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "must be one JAX key"),
        ({"process": None}, ValueError, "needs `next`, which a NoneType lacks"),
        ({"train_data": [1]}, TypeError, r"Run\(train_data=...\) must be FederatedData, got list"),
        ({"train_data": _other_data()}, TypeError, r"they differ in 'x'\); convert the examples"),
        ({"folder": 3}, TypeError, r"Run\(folder=...\) must be a path or a RunFolder, got 3"),
        ({"folder": None, "exports": export_weights()}, ValueError, "got none; add folder='runs/first'"),
        ({"exports": [3]}, ValueError, r"Run\(exports=...\) must be an Export or several, got \[3\]"),
        ({"releases": [print]}, TypeError, r"Run\(releases=...\) must be a ReleaseManager or several"),
        ({"checkpoints": "here"}, TypeError, r"Run\(checkpoints=...\) must be Checkpoints, got 'here'"),
        ({"on_round": [3]}, TypeError, r"Run\(on_round=...\) must be functions, got \[3\]"),
        ({"progress": None}, TypeError, r"Run\(progress=...\) must be True or False, got None"),
        ({"evaluation": len}, TypeError, r"Run\(evaluation=...\) must be an Evaluation, got <built-in"),
        ({"initial_state": 3}, TypeError, r"Run\(initial_state=...\) must be a state of the process, .* got int32"),
    ],
)
def test_refuses_before_anything_runs(change, error, message, make, tmp_path):
    with pytest.raises(error, match=message):
        make(**{"folder": tmp_path / "run", "on_round": pytest.fail, **change})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"data": None}, TypeError, r"Evaluation\(data=...\) must be FederatedData, got NoneType"),
        ({"data": _other_data()}, TypeError, r"Evaluation\(data=...\): a client holds .* the evaluation takes"),
        ({"by": len}, TypeError, "a model, a computation of weights and client data, or a process, got <built-in"),
        ({"metrics": {}}, ValueError, "which has its own metrics; write by=model, or leave out the metrics"),
        ({"batching": 20}, TypeError, r"Evaluation\(batching=...\) must be a Batching"),
        ({"batching": fd.Batching(10, shuffle=True)}, ValueError, "leave out `shuffle=True`"),
        ({"every": 0}, ValueError, r"Evaluation\(every=...\) must be an integer of at least 1, got 0"),
        ({"steps": 1.5}, TypeError, r"Evaluation\(steps=...\) must be an integer of at least 1, got 1.5"),
        ({"hooks": [3]}, TypeError, r"Evaluation\(hooks=...\) must be functions, got \[3\]"),
        ({"name": 3}, TypeError, r"Evaluation\(name=...\) must be a name without a folder, .*got 3"),
    ],
)
def test_refuses_an_evaluation(change, error, message, make, data, evaluation):
    with pytest.raises(error, match=message):
        make(evaluation=Evaluation(data[1], evaluation)._replace(**change))


def test_weights_are_not_a_state(make, process):
    with pytest.raises(TypeError, match=r"got the model's weights; write initial_state=process.set_model_weights\("):
        make(initial_state=_weights(process))


def test_refuses_an_early_stopping_on_what_is_measured_at_the_end_alone(make, data, evaluation):
    with pytest.raises(ValueError, match="during the run"):
        make(rounds=_early("held_out/eval/loss"), evaluation=Evaluation(data[1], evaluation, every=None))
    make(rounds=_early("held_out/eval/loss"), evaluation=Evaluation(data[1], evaluation))


def test_reads_none_of_the_users_things_at_construction(make, data, evaluation, tmp_path):
    make(
        sampler=pytest.fail,
        folder=tmp_path / "run",
        evaluation=Evaluation(data[1], evaluation, hooks=[pytest.fail]),
        checkpoints=Checkpoints(tmp_path / "checkpoints"),
        releases=fc.program.ReleaseManager(pytest.fail),
        exports=Export("none", pytest.fail),
        on_round=pytest.fail,
    )
    assert not any(tmp_path.iterdir())
