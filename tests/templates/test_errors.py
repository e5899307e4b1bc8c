"""The named errors: type errors with their condition as docstring."""

import inspect

import pytest

from fedjax_core import templates
from fedjax_core.templates import errors

NAMED = [value for value in vars(errors).values() if inspect.isclass(value)]


def test_there_is_one_error_for_each_condition():
    assert {error.__name__ for error in NAMED} == {
        "AggregationNotFederatedError",
        "AggregationPlacementError",
        "EstimateNotAssignableError",
        "GetModelWeightsTypeSignatureError",
        "LearningProcessOutputError",
        "LearningProcessPlacementError",
        "LearningProcessSequenceTypeError",
        "ProcessCompositionError",
        "ReportFnTypeSignatureError",
        "SetModelWeightsTypeSignatureError",
        "TemplateInitFnParamNotEmptyError",
        "TemplateNextFnNumArgsError",
        "TemplateNotMeasuredProcessOutputError",
        "TemplateStateNotAssignableError",
    }


@pytest.mark.parametrize("error", NAMED, ids=lambda error: error.__name__)
def test_an_error_is_a_type_error_and_only_that(error):
    assert error.__bases__ == (TypeError,)


@pytest.mark.parametrize("error", NAMED, ids=lambda error: error.__name__)
def test_an_error_has_its_condition_as_docstring(error):
    assert len(inspect.getdoc(error)) > 20
    assert error.__doc__ != TypeError.__doc__


@pytest.mark.parametrize("error", NAMED, ids=lambda error: error.__name__)
def test_the_room_lists_every_error(error):
    assert error.__name__ in templates.__all__
    assert getattr(templates, error.__name__) is error
