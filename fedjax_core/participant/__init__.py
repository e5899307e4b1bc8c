"""One real participant of a federation, with a real clock: it trains and evaluates when a message asks it to.

TrainingManager              the participant: local rounds under limits of effort, answered by messages
METRICS_LEVEL                the level at which it logs an evaluation's metrics
TrainRequest, EvaluationRequest
                             what the server sends
TrainReply, EvaluationReply, ErrorReply
                             what the participant answers
encode_message, decode_message
                             messages as bytes and back, without pickle; `MessageFormatError`

The fields of messages keep declearn's words, since they travel: `round_i` (the number of the round), `n_epoch` and
`n_steps` (epochs and steps), `aux_var` (auxiliary variables), `t_spent` (seconds).
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
