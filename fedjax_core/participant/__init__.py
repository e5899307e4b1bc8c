"""One real participant of a federation, with a real clock: it trains and evaluates when a message asks it to.

TrainingManager              the participant: runs local rounds under limits of effort, and answers messages
METRICS_LEVEL                the log level of an evaluation's metrics
TrainRequest, EvaluationRequest
                             what the server sends
TrainReply, EvaluationReply, ErrorReply
                             what the participant answers
encode_message, decode_message
                             messages as bytes and back, without pickle; `MessageFormatError`

A participant accepts the same optimizers as a simulated client (an optax transformation, a `clients.LocalOptimizer` or
a function of the round number) and takes the same training steps, so that what was simulated is what runs.

The fields of messages keep declearn's names, since they are part of the protocol: `round_i` (the number of the round),
`batches` (the arguments of a `data.Batching`), `n_epoch`, `n_steps` and `n_examples` (epochs, steps and examples, as
limits or as counts), `timeout` and `t_spent` (seconds), `aux_var` (auxiliary variables by name: `scaffold`, and
`running`, the running state of the model after the round).
"""

from fedjax_core._signposts import signpost
from fedjax_core.participant._message_bytes import decode_message, encode_message
from fedjax_core.participant._messages import (
    ErrorReply,
    EvaluationReply,
    EvaluationRequest,
    MessageFormatError,
    TrainReply,
    TrainRequest,
)
from fedjax_core.participant._training_manager import METRICS_LEVEL, TrainingManager

__all__ = [
    "METRICS_LEVEL",
    "ErrorReply",
    "EvaluationReply",
    "EvaluationRequest",
    "MessageFormatError",
    "TrainReply",
    "TrainRequest",
    "TrainingManager",
    "decode_message",
    "encode_message",
]

signpost(__name__)
