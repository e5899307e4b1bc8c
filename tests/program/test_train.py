import csv
import inspect

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.data import Batching, sample_clients, synthetic_iid
from fedjax_core.program import Evaluation, Run, RunFolder, TrainResult, load_weights, train

KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def model():
    return fc.models.logistic_regression(60, 10, metrics={"accuracy": fc.metrics.accuracy()})


@pytest.fixture(scope="module")
def data():
    return synthetic_iid(num_clients=12, key=jax.random.key(0)).split_examples(0.8)


@pytest.fixture(scope="module")
def process(model):
    return fc.algorithms.fed_avg(model, optax.sgd(0.05), key=jax.random.key(1))


@pytest.fixture(scope="module")
def evaluation(model):
    return fc.algorithms.federated_evaluation(model)


@pytest.fixture
def arguments(process, evaluation, data):
    return {
        "process": process,
        "train_data": data[0],
        "sampler": 4,
        "rounds": 5,
        "batching": Batching(batch_size=20, shuffle=True),
        "key": KEY,
        "evaluation": Evaluation(data[1], evaluation, batching=Batching(batch_size=100), every=2),
    }


def test_learns_and_records_every_round(arguments):
    state, history, *_ = train(**arguments)
    assert int(state.round_num) == 5
    assert history.column("round").tolist() == [1, 2, 3, 4, 5]
    losses = history.column("client_work/train/loss")
    assert losses[-1] < losses[0]
    assert np.isfinite(history.column("held_out/eval/accuracy")).tolist() == [False, True, False, True, True]
    assert np.all(np.diff(history.column("seconds")) > 0)
    assert np.all(history.column("round_seconds") <= history.column("seconds"))


def test_is_the_loop_one_would_write(arguments, process, data, evaluation):
    state = process.initialize()
    for number in range(1, 6):
        clients = sample_clients(number, data[0].client_ids, 4, key=KEY)
        cohort = data[0].cohort(clients, arguments["batching"], key=jax.random.fold_in(KEY, number))
        state, _ = process.next(state, cohort)
    trained, history, last, _ = train(**arguments)
    jax.tree.map(np.testing.assert_array_equal, trained.weights, state.weights)
    cohort = data[1].cohort(data[1].client_ids, Batching(batch_size=100))
    held_out = evaluation(process.get_model_weights(state), cohort)
    assert history.column("held_out/eval/accuracy")[-1] == float(held_out["eval"]["accuracy"])
    assert float(last["eval"]["accuracy"]) == float(held_out["eval"]["accuracy"])


def test_tells_every_round(arguments):
    rounds = []
    state, history, *_ = train(**arguments, on_round=rounds.append)
    assert [told.number for told in rounds] == [1, 2, 3, 4, 5]
    assert rounds[-1].state is state
    assert rounds[0].held_out is None
    assert set(rounds[1].held_out) == {"eval"}
    assert [told.record for told in rounds] == history.records
    assert [told.is_last for told in rounds] == [False, False, False, False, True]


def test_without_evaluation(arguments):
    arguments |= {"evaluation": None, "rounds": 1}
    assert train(**arguments).held_out is None
    assert not any(name.startswith("held_out") for name in train(**arguments).history.columns)


def test_leaves_a_folder(arguments, process, model, tmp_path):
    folder = RunFolder(tmp_path / "run")
    state = train(**arguments, folder=folder).state
    weights = load_weights(folder.path / "weights.npz", like=model.init(KEY))
    jax.tree.map(np.testing.assert_array_equal, weights, process.get_model_weights(state))
    with open(folder.path / "metrics.csv", newline="") as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]
    assert (folder.path / "curves.png").exists()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_what_it_has(arguments, failure, tmp_path):
    def stop(told):
        if told.number == 3:
            raise failure

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(failure):
        train(**arguments, folder=folder, on_round=stop)
    names = {"weights.npz", "metrics.csv", "curves.png", "run.json", "evaluation", "checkpoints"}
    assert {file.name for file in folder.path.iterdir()} == names
    assert (folder.path / "metrics.csv").read_text().count("\n") == 4


def test_a_failure_in_the_first_round_leaves_the_settings_alone(arguments, data, tmp_path):
    def failing(examples):
        if failing.armed:
            raise OSError("the disk is gone")
        return examples

    failing.armed = False
    mapped = data[0].map(failing)
    failing.armed = True
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(OSError, match="the disk is gone"):
        train(**{**arguments, "train_data": mapped}, folder=folder)
    assert [file.name for file in folder.path.rglob("*") if file.is_file()] == ["run.json"]


def test_is_quiet_in_a_log(arguments, capsys):
    train(**arguments)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_takes_the_arguments_of_a_run_and_no_others(arguments, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"Run\(rounds=...\) must be an integer of at least 1, got 0; write rounds=10"):
        train(**{**arguments, "rounds": 0}, folder=folder, on_round=pytest.fail)
    with pytest.raises(TypeError, match="unexpected keyword argument 'cohort_size'"):
        train(**arguments, cohort_size=4)
    assert not any(folder.path.iterdir())


def test_its_signature_is_that_of_a_run():
    own, of_run = inspect.signature(train), inspect.signature(Run)
    assert own.parameters == of_run.parameters and own.return_annotation is TrainResult
