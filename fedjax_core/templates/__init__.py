"""What a stateful federated process is: the contracts, checked when a process is built.

`IterativeProcess`       a first state and the step from one state to the next
`MeasuredProcess`        ... whose step returns `MeasuredProcessOutput(state, result, measurements)`
`AggregationProcess`     ... that takes values at the clients to a result at the server
`EstimationProcess`      an iterative process with an estimate that every state can report
`LearningProcess`        an iterative process over client data that returns
                         `LearningProcessOutput(state, metrics)` and knows its model weights

`chain` puts measured processes one after another, `concatenate` side by side. `hyperparams` and
`with_hyperparams` read and set the rates that live in a state.

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
