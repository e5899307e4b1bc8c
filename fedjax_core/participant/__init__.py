"""One real participant of a federation, with a real clock: it trains and evaluates when a message asks it to.

TrainingManager              the participant: local rounds under limits of effort, answered by messages
METRICS_LEVEL                the level at which it logs an evaluation's metrics
TrainRequest, EvaluationRequest
                             what the server sends
TrainReply, EvaluationReply, ErrorReply
                             what the participant answers
encode_message, decode_message
                             messages as bytes and back, without pickle; `MessageFormatError`

Its optimizer is one of simulated clients, an optax transformation, a `clients.LocalOptimizer` or a function of the
round number, and it takes their steps, so that what was simulated is what runs.

The fields of messages keep declearn's words, since they travel: `round_i` (the number of the round), `batches` (the
arguments of a `data.Batching`), `n_epoch`, `n_steps` and `n_examples` (epochs, steps and examples, limits or counts),
`timeout` and `t_spent` (seconds), `aux_var` (auxiliary variables by name: `scaffold`, and `running`, the running state
of the model after the round).
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
