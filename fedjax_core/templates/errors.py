"""The named errors of the templates; each docstring is the condition under which it is raised.

All of them are `TypeError`s, raised when a process is built and never later. An argument that is
not a Computation where one is expected raises a plain `TypeError`.
"""

from fedjax_core._signposts import signpost

__all__ = [
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
]

signpost(__name__)


class TemplateInitFnParamNotEmptyError(TypeError):
    """`initialize_fn` takes an argument."""


class TemplateStateNotAssignableError(TypeError):
    """The initial state, or the state that `next_fn` returns, is not assignable to the state that
    `next_fn` takes; or that state is not assignable to the argument of the `report_fn` of an estimation."""


class TemplateNextFnNumArgsError(TypeError):
    """`next_fn` takes no argument, or a number of arguments that the template does not allow."""


class TemplateNotMeasuredProcessOutputError(TypeError):
    """`next_fn` does not return exactly a `MeasuredProcessOutput`."""


class AggregationNotFederatedError(TypeError):
    """The initial state of an aggregation, or a part of what its `next_fn` takes or returns, is not
    a federated value."""


class AggregationPlacementError(TypeError):
    """The state, the result or the measurements of an aggregation are not placed at SERVER as a
    whole, or its value or its weight is not placed at CLIENTS as a whole."""


class EstimateNotAssignableError(TypeError):
    """The function passed to `EstimationProcess.map` does not take exactly the estimate."""


class LearningProcessPlacementError(TypeError):
    """The state or the metrics of a learning process are not placed at SERVER as a whole, or its
    data is not placed at CLIENTS as a whole."""


class LearningProcessOutputError(TypeError):
    """The `next_fn` of a learning process does not return exactly a `LearningProcessOutput`."""


class LearningProcessSequenceTypeError(TypeError):
    """The client data of a learning process is neither a sequence nor a (nested) struct that contains
    only sequences."""


class ReportFnTypeSignatureError(TypeError):
    """`report_fn` does not take exactly one argument whose type is equivalent to the unplaced state."""


class GetModelWeightsTypeSignatureError(TypeError):
    """`get_model_weights` does not take exactly one argument whose type is equivalent to the unplaced state."""


class SetModelWeightsTypeSignatureError(TypeError):
    """`set_model_weights` does not take exactly two arguments, equivalent to the unplaced state and to the
    result of `get_model_weights`, or its result is not assignable to the unplaced state."""


class ProcessCompositionError(TypeError):
    """A process does not fit the one that it is combined with."""
