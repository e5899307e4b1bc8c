import pytest

import fedjax_core as fc
from fedjax_core.contracts import Metric
from fedjax_core.model_calls import model_metrics
from fedjax_core.participant._participant_metrics import with_metrics

OWN = Metric(lambda predictions, batch, mask: mask.sum(), lambda total: total)
MODEL = fc.models.logistic_regression(2, 3, metrics={"own": OWN})


def test_names_are_of_the_model_and_then_of_the_library():
    chosen = with_metrics(MODEL, ["own", "accuracy", "num_batches"]).metrics
    assert list(chosen) == ["own", "accuracy", "num_batches"]
    assert chosen["own"] is OWN
    model = MODEL._replace(metrics={"accuracy": OWN})
    assert with_metrics(model, ["accuracy"]).metrics["accuracy"] is OWN


def test_values_have_the_names_that_they_are_given():
    chosen = with_metrics(MODEL, {"mine": OWN, "right": "accuracy"}).metrics
    assert chosen["mine"] is OWN and list(chosen) == ["mine", "right"]


def test_none_are_those_of_the_model_and_an_empty_list_is_none():
    assert with_metrics(MODEL, None) is MODEL
    assert with_metrics(MODEL, []).metrics == with_metrics(MODEL, {}).metrics == {}


@pytest.mark.parametrize("metrics", [["loss"], {"loss": "loss"}])
def test_the_loss_is_the_model_s(metrics):
    chosen = model_metrics(with_metrics(MODEL, metrics))
    assert list(chosen) == ["loss", "num_examples"] and chosen["loss"] is not OWN


@pytest.mark.parametrize(
    "metrics, error, message",
    [
        ("accuracy", TypeError, r"got 'accuracy'; write metrics=\[\"accuracy\"\]"),
        (3, TypeError, "a dict from name to Metric or a list of names, got 3"),
        ([OWN], TypeError, r"must list names, got Metric.*give a Metric its name: metrics=\{\"accuracy\""),
        (["nothing"], ValueError, r"there is no metric 'nothing' .* the model has loss, own, num_examples"),
        (["top_k_accuracy"], ValueError, r"no metric 'top_k_accuracy' that needs no argument.*top_k_accuracy\(3\)"),
        (["sum_then_finalize"], ValueError, "no metric 'sum_then_finalize'"),
        ({"loss": OWN}, ValueError, 'may not be named "loss"'),
        ({"loss": "accuracy"}, ValueError, 'may not be named "loss"'),
    ],
)
def test_what_is_no_metric_is_refused(metrics, error, message):
    with pytest.raises(error, match=message):
        with_metrics(MODEL, metrics)


def test_a_value_that_is_no_metric_is_refused_with_the_model_s_message():
    with pytest.raises(TypeError, match="a dict from name to Metric, got 'a': 3"):
        model_metrics(with_metrics(MODEL, {"a": 3}))
