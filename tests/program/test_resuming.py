"""`train` with checkpoints: the bits of a resumed run are those of an uninterrupted one."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.data import Batching, synthetic_iid
from fedjax_core.program import (
    Checkpoint,
    Checkpoints,
    CheckpointTypeError,
    Evaluation,
    History,
    ReleaseManager,
    RunFolder,
    group_releases,
    release_to_csv,
    release_to_json_lines,
    release_to_mlflow,
    release_to_wandb,
    train,
)
from fedjax_core.program._run_start import environment_of, run_start, what_runs

ROUNDS = 5


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def traces():
    return []


@pytest.fixture(scope="module")
def process(traces):
    """Every slot except the first has a state: a reservoir of metrics, an estimate of a quantile, Adam's moments."""
    model = fc.models.logistic_regression(60, 10)

    def loss(predictions, batch):
        traces.append(1)
        return model.loss(predictions, batch)

    return fc.algorithms.fed_avg(
        model._replace(loss=loss),
        optax.sgd(0.05, momentum=0.9),
        server_optimizer=optax.adam(0.01),
        aggregator=fc.aggregators.clip_by_norm(fc.aggregators.quantile_estimate(1.0, 0.5, 0.2), fc.aggregators.mean()),
        metrics_aggregation=fc.metrics.finalize_then_sample(3, key=jax.random.key(2)),
        key=jax.random.key(1),
    )


@pytest.fixture(scope="module")
def arguments(process):
    data, held_out = synthetic_iid(num_clients=12, key=jax.random.key(0)).split_examples(0.8)
    return {
        "process": process,
        "train_data": data,
        "sampler": 4,
        "rounds": ROUNDS,
        "batching": Batching(batch_size=20, shuffle=True),
        "key": jax.random.key(7),
        "evaluation": Evaluation(held_out, fc.models.logistic_regression(60, 10), every=2),
    }


@pytest.fixture(scope="module")
def uninterrupted(arguments):
    return train(**arguments)


def _stop_after(number):
    def on_round(told):
        if told.number == number:
            raise StopError

    return on_round


def _stopped(arguments, number, **more) -> None:
    with pytest.raises(StopError):
        train(**arguments, **more, on_round=_stop_after(number))


def _measured(history) -> list:
    return [record._replace(seconds=0, round_seconds=0) for record in history.records]


def _assert_same(result, expected):
    assert jax.tree.structure(result.state) == jax.tree.structure(expected.state)
    for a, b in zip(jax.tree.leaves(result.state), jax.tree.leaves(expected.state), strict=True):
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert _measured(result.history) == _measured(expected.history)
    assert np.all(np.diff(result.history.column("seconds")) > 0)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(every, arguments, uninterrupted, traces, tmp_path):
    before = len(traces)
    for stop in (1, 3, 4):
        _stopped(arguments, stop, checkpoints=Checkpoints(tmp_path, every=every))
    _assert_same(train(**arguments, checkpoints=Checkpoints(tmp_path, every=every)), uninterrupted)
    assert len(traces) == before


def test_a_run_that_has_got_there_does_nothing(arguments, uninterrupted, tmp_path):
    train(**arguments, checkpoints=Checkpoints(tmp_path, every=100))
    assert Checkpoints(tmp_path).rounds == (ROUNDS,)
    for rounds in (ROUNDS, ROUNDS - 2):
        again = train(**{**arguments, "rounds": rounds}, checkpoints=Checkpoints(tmp_path), on_round=pytest.fail)
        _assert_same(again, uninterrupted)


def test_a_finished_run_goes_on(arguments, uninterrupted, tmp_path):
    train(**{**arguments, "rounds": 2}, checkpoints=Checkpoints(tmp_path))
    _assert_same(train(**arguments, checkpoints=Checkpoints(tmp_path)), uninterrupted)


def test_a_damaged_checkpoint_costs_the_rounds_since_the_one_before(arguments, uninterrupted, tmp_path):
    _stopped(arguments, 4, checkpoints=Checkpoints(tmp_path, every=1))
    (tmp_path / "4" / "history.jsonl").write_bytes(b"")
    with pytest.warns(UserWarning, match="round 4 is damaged and skipped"):
        _assert_same(train(**arguments, checkpoints=Checkpoints(tmp_path, every=1)), uninterrupted)


def _rounds_in_csv(path) -> list[int]:
    with open(path, newline="") as file:
        return [int(row["round"]) for row in csv.DictReader(file)]


def test_files_hold_every_round_once(arguments, uninterrupted, tmp_path):
    """The run is stopped after rounds without a checkpoint, and with a torn line."""

    def outlets():
        csv_, lines = release_to_csv(tmp_path / "released.csv"), release_to_json_lines(tmp_path / "released.jsonl")
        folder = RunFolder(tmp_path / "run", resume=True)
        checkpoints = Checkpoints(folder.path / "checkpoints", every=3)
        return {"folder": folder, "checkpoints": checkpoints, "releases": group_releases(csv_, lines)}

    for stop in (2, 4):
        _stopped(arguments, stop, **outlets())
        for path in (tmp_path / "released.csv", tmp_path / "released.jsonl", tmp_path / "run" / "metrics.csv"):
            path.write_bytes(path.read_bytes()[:-3])
    train(**arguments, **outlets())
    rounds = list(range(1, ROUNDS + 1))
    assert _rounds_in_csv(tmp_path / "released.csv") == _rounds_in_csv(tmp_path / "run" / "metrics.csv") == rounds
    rows = [json.loads(line) for line in (tmp_path / "released.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == rounds
    column = uninterrupted.history.column("held_out/eval/loss")
    assert [row.get("held_out/eval/loss") for row in rows if "held_out/eval/loss" in row] == [
        value for value in column.tolist() if np.isfinite(value)
    ]


@pytest.mark.parametrize("release_to", [release_to_wandb, release_to_mlflow])
def test_a_service_that_fails_costs_no_round(release_to, arguments, uninterrupted, tmp_path):
    """It ends the run; a resumed run releases every round exactly once, to the files and to the service."""

    class Service:
        def __init__(self, failing):
            self.failing, self.rounds = failing, []

        def log(self, values, step):
            if step == self.failing:
                raise ConnectionError("no route to host")
            self.rounds.append(step)

        log_metrics = log

    def outlets(service):
        folder = RunFolder(tmp_path / "run", resume=True)
        lines = release_to_json_lines(tmp_path / "released.jsonl")
        checkpoints = Checkpoints(folder.path / "checkpoints", every=1)
        return {
            "folder": folder,
            "checkpoints": checkpoints,
            "releases": group_releases(lines, release_to(service)),
        }

    first, second = Service(3), Service(None)
    with pytest.raises(ConnectionError, match="no route to host"):
        train(**arguments, **outlets(first))
    _assert_same(train(**arguments, **outlets(second)), uninterrupted)
    rounds = list(range(1, ROUNDS + 1))
    assert first.rounds + second.rounds == rounds == _rounds_in_csv(tmp_path / "run" / "metrics.csv")
    assert [json.loads(line)["round"] for line in (tmp_path / "released.jsonl").read_text().splitlines()] == rounds


@pytest.mark.parametrize("failure", [StopError, KeyboardInterrupt])
def test_a_round_has_a_checkpoint_only_when_it_is_released(failure, arguments, tmp_path):
    """Otherwise a crash between the two, or Ctrl-C, would lose a round."""

    def release(value, round_num):
        if round_num == 3:
            raise failure

    with pytest.raises(failure):
        train(**arguments, checkpoints=Checkpoints(tmp_path, every=1), releases=ReleaseManager(release))
    assert Checkpoints(tmp_path).rounds == (1, 2)


def test_of_another_algorithm_nothing_is_loaded_or_written(arguments, tmp_path):
    train(**{**arguments, "rounds": 1}, checkpoints=Checkpoints(tmp_path))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    model = fc.models.logistic_regression(60, 10)
    other = fc.algorithms.fed_avg(model, optax.sgd(0.05), key=jax.random.key(1))
    with pytest.raises(CheckpointTypeError, match="holds a state of the type") as refused:
        train(**{**arguments, "process": other}, checkpoints=Checkpoints(tmp_path))
    for algorithm in (arguments["process"], other):
        assert str(algorithm.initialize.type_signature.result.member) in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sampler": 5}, "the rounds after 2 are not those of an uninterrupted run: cohort_size was 4 and is 5"),
        ({"key": jax.random.key(8)}, r"key was \[0, 7\] and is \[0, 8\]"),
        ({"batching": Batching(batch_size=10)}, "batching was .*20.* and is .*10"),
    ],
)
def test_other_settings_are_told(change, message, arguments, tmp_path):
    _stopped(arguments, 2, checkpoints=Checkpoints(tmp_path, every=1))
    with pytest.warns(UserWarning, match=message):
        train(**{**arguments, **change, "rounds": 2}, checkpoints=Checkpoints(tmp_path))


def _built(rate=0.05, server_rate=1.0, max_norm=1.0, aggregator=None, model=None, **changes):
    if aggregator is None:
        aggregator = fc.aggregators.clip_by_norm(max_norm)
    arguments = {"server_optimizer": optax.sgd(server_rate), "aggregator": aggregator, "key": jax.random.key(1)}
    model = fc.models.logistic_regression(60, 10) if model is None else model
    return fc.algorithms.fed_avg(model, optax.sgd(rate), **arguments | changes)


def _injected(rate):
    return _built(server_optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=rate))


def _noised(multiplier):
    return _built(aggregator=fc.aggregators.private_mean(1.0, multiplier, cohort_size=4, key=jax.random.key(3)))


def _with_twice_the_loss():
    model = fc.models.logistic_regression(60, 10)
    return _built(model=model._replace(loss=lambda predictions, batch: 2 * model.loss(predictions, batch)))


DATA = synthetic_iid(num_clients=12, key=jax.random.key(0))
SAMPLING = fc.privacy.fixed_size(4, 12)


def _resumed(folder, before, now, data=(DATA, DATA), sampling=(SAMPLING, SAMPLING), **options):
    """The start of a run after a round of another; no round runs, which would have to be compiled."""
    saved, given = (what_runs(*parts) for parts in zip((before, now), data, sampling))
    checkpoints = Checkpoints(folder)
    environment = environment_of(before.next)
    checkpoints.save(Checkpoint(1, before.initialize(), History(), saved, environment))
    checkpoints.wait()
    return run_start(now, None, checkpoints, given, **options)


@pytest.mark.parametrize(
    "before, now, functions",
    [
        (_built, lambda: _built(rate=0.1), r"train \(clients\)"),
        (_built, lambda: _built(server_rate=0.5), r"step \(algorithms\)"),
        (_built, lambda: _built(max_norm=2.0), r"check \(aggregators\)"),
        (_built, lambda: _built(weighting="uniform"), r"train \(clients\)"),
        (_built, _with_twice_the_loss, r"operators, train \(clients\)"),  # and no range of labels
        (
            lambda: _built(aggregator=fc.aggregators.mean()),
            lambda: _built(aggregator=fc.aggregators.trimmed_mean(0.1)),
            r"operators, .*_middle \(aggregators\)",
        ),
    ],
    ids=["client rate", "server rate", "bound", "weighting", "loss", "aggregator"],
)
def test_another_process_is_told(before, now, functions, tmp_path):
    """A run resumed with another learning rate continued without a word."""
    message = (
        f"the rounds after 1 are not those of an uninterrupted run: a round computed something else in {functions} "
    )
    with pytest.warns(UserWarning, match=message):
        _resumed(tmp_path, before(), now())


def test_another_rate_in_the_state_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"hparams was \{.*0.5\} and is \{.*0.25\}$"):
        start = _resumed(tmp_path, _injected(0.5), _injected(0.25))
    assert start.state.finalizer.hyperparams["learning_rate"] == 0.5


def test_the_same_process_and_the_same_data_are_not_told(tmp_path):
    """Built anew and on other devices; warnings are errors."""
    again = synthetic_iid(num_clients=12, key=jax.random.key(0))
    start = _resumed(tmp_path, _built(), _built().with_config(fc.EngineConfig(devices=2)), (DATA, again))
    assert start.completed == 1


def test_other_data_are_told(tmp_path):
    other = synthetic_iid(num_clients=12, key=jax.random.key(9))
    with pytest.warns(UserWarning, match="run: the training data had other clients or other numbers of examples$"):
        _resumed(tmp_path, _built(), _built(), (DATA, other))


def test_a_process_of_another_version_of_jax_is_told_by_the_version_alone(tmp_path):
    process, checkpoints = _built(), Checkpoints(tmp_path)
    environment = environment_of(process.next) | {"jax": "99.0"}
    checkpoints.save(Checkpoint(1, process.initialize(), History(), {"programs": {}}, environment))
    with pytest.warns(UserWarning, match=r"uninterrupted run: jax was 99.0 and is [\d.]+$"):
        run_start(process, None, checkpoints, what_runs(process, DATA, SAMPLING))


@pytest.mark.parametrize("what", ["noise_multiplier", "sampling"])
def test_an_accounting_is_of_all_rounds(what, tmp_path):
    """The epsilon after two rounds would not be that of the first one."""
    process = _noised(1.0)
    before = _noised(2.0) if what == "noise_multiplier" else process
    sampling = (fc.privacy.poisson(0.5), SAMPLING) if what == "sampling" else (SAMPLING, SAMPLING)
    message = f"accounts for all rounds alike, but the {what} was .* up to round 1 and is"
    with pytest.raises(ValueError, match=message):
        _resumed(tmp_path, before, process, sampling=sampling, is_accounted=True)
    assert _resumed(tmp_path, process, process, is_accounted=True).completed == 1


def _with_lanes(process, lanes):
    config = fc.EngineConfig(lanes=lanes)
    parts = process.report, process.get_model_weights, process.set_model_weights
    return fc.templates.LearningProcess(process.initialize, process.next.with_config(config), *parts)


@pytest.mark.slow
def test_lanes_belong_to_a_checkpoint(arguments, tmp_path):
    """If the engine chooses the lanes, the checkpoint's are used; a different given number is warned of."""
    process = fc.algorithms.fed_avg(fc.models.logistic_regression(60, 10), optax.sgd(0.05), key=jax.random.key(1))
    small = {**arguments, "process": process, "evaluation": None, "rounds": 3}
    three = {**small, "process": _with_lanes(process, 3)}
    expected = train(**three)
    _stopped(three, 2, checkpoints=Checkpoints(tmp_path, every=1))
    two = {**small, "process": _with_lanes(process, 2), "rounds": 2}
    with pytest.warns(UserWarning, match="lanes was 3 and is 2"):
        train(**two, checkpoints=Checkpoints(tmp_path))
    _assert_same(train(**small, checkpoints=Checkpoints(tmp_path)), expected)


def test_a_checkpoint_that_cannot_be_written_ends_the_run(arguments, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        train(**arguments, checkpoints=Checkpoints(tmp_path / "taken", every=1))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"checkpoints": "runs"}, r"Run\(checkpoints=...\) must be Checkpoints, got 'runs'"),
        ({"releases": print}, r"Run\(releases=...\) must be a ReleaseManager or several, got <built-in"),
    ],
)
def test_refuses_before_anything_runs(change, message, arguments):
    with pytest.raises(TypeError, match=message):
        train(**arguments, **change, on_round=pytest.fail)
