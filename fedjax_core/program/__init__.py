"""Programs: a training loop, its progress bar, and the files that a run leaves.

train                        rounds of a learning process, with held-out evaluation
Round, TrainResult, History  what it tells after a round, returns and records
RunFolder                    a fresh folder per run: weights.npz, metrics.csv, curves.png
TrainingManager              a participant of a real federation; METRICS_LEVEL at which it logs
TrainRequest, TrainReply, EvaluationRequest, EvaluationReply, Error
                             the messages of a real federation
encode_message, decode_message
                             these as bytes and back; MessageFormatError
save_weights, load_weights   a pytree of arrays as a file of plain arrays, no pickle
save_csv, save_curves        a `History` as a table and as a picture
flatten_metrics, find_metric the numbers of a pytree of metrics, and one by its name
"""

from fedjax_core.program._csv import save_csv
from fedjax_core.program._curves import save_curves
from fedjax_core.program._history import History, Record, find_metric, flatten_metrics
from fedjax_core.program._message_bytes import decode_message, encode_message
from fedjax_core.program._messages import (
    Error,
    EvaluationReply,
    EvaluationRequest,
    MessageFormatError,
    TrainReply,
    TrainRequest,
)
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.program._train import Round, TrainResult, train
from fedjax_core.program._training_manager import METRICS_LEVEL, TrainingManager
from fedjax_core.program._weights import load_weights, save_weights

__all__ = [
    "METRICS_LEVEL",
    "Error",
    "EvaluationReply",
    "EvaluationRequest",
    "History",
    "MessageFormatError",
    "Record",
    "Round",
    "RunFolder",
    "TrainReply",
    "TrainRequest",
    "TrainResult",
    "TrainingManager",
    "decode_message",
    "encode_message",
    "find_metric",
    "flatten_metrics",
    "load_weights",
    "save_csv",
    "save_curves",
    "save_weights",
    "train",
]
