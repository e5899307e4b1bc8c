"""The contracts of stateful federated processes, which are checked when a process is built.

`IterativeProcess`       an initial state and the step from one state to the next
`MeasuredProcess`        an iterative process that returns `MeasuredProcessOutput(state, result, measurements)`
`AggregationProcess`     a measured process that aggregates values at the clients to a result at the server
`EstimationProcess`      an iterative process with an estimate that can be reported from every state
`LearningProcess`        an iterative process over client data that returns
                         `LearningProcessOutput(state, metrics)` and has model weights

`chain` runs measured processes one after another, `concatenate` runs them side by side. `hyperparams` and
`with_hyperparams` read and set the hyperparameters in a state, such as learning rates.

Every condition has its own named error, a `TypeError`, in `fedjax_core.templates.errors`.
"""

from fedjax_core._signposts import signpost
from fedjax_core.templates import errors
from fedjax_core.templates._aggregation_process import AggregationProcess
from fedjax_core.templates._composition import chain, concatenate
from fedjax_core.templates._estimation_process import EstimationProcess
from fedjax_core.templates._hyperparams import hyperparams, with_hyperparams
from fedjax_core.templates._iterative_process import IterativeProcess
from fedjax_core.templates._learning_process import LearningProcess, LearningProcessOutput
from fedjax_core.templates._measured_process import MeasuredProcess, MeasuredProcessOutput
from fedjax_core.templates.errors import (
    AggregationNotFederatedError,
    AggregationPlacementError,
    EstimateNotAssignableError,
    GetModelWeightsTypeSignatureError,
    LearningProcessOutputError,
    LearningProcessPlacementError,
    LearningProcessSequenceTypeError,
    ProcessCompositionError,
    ReportFnTypeSignatureError,
    SetModelWeightsTypeSignatureError,
    TemplateInitFnParamNotEmptyError,
    TemplateNextFnNumArgsError,
    TemplateNotMeasuredProcessOutputError,
    TemplateStateNotAssignableError,
)

__all__ = [
    "AggregationNotFederatedError",
    "AggregationPlacementError",
    "AggregationProcess",
    "EstimateNotAssignableError",
    "EstimationProcess",
    "GetModelWeightsTypeSignatureError",
    "IterativeProcess",
    "LearningProcess",
    "LearningProcessOutput",
    "LearningProcessOutputError",
    "LearningProcessPlacementError",
    "LearningProcessSequenceTypeError",
    "MeasuredProcess",
    "MeasuredProcessOutput",
    "ProcessCompositionError",
    "ReportFnTypeSignatureError",
    "SetModelWeightsTypeSignatureError",
    "TemplateInitFnParamNotEmptyError",
    "TemplateNextFnNumArgsError",
    "TemplateNotMeasuredProcessOutputError",
    "TemplateStateNotAssignableError",
    "chain",
    "concatenate",
    "errors",
    "hyperparams",
    "with_hyperparams",
]

signpost(__name__)
