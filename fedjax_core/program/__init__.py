"""Programs: the training loop, its checkpoints, the release of each round's values, and the files of a run.

Run                          runs, evaluates and resumes the rounds of a learning process in a folder
  Evaluation, EvaluationResult, EarlyStopping, Estimate
  Export, export_weights, export_predict
train                        builds a `Run` and trains it in one call
Round, TrainResult, History  what a run passes to its hooks after a round, returns at its end, and records
Experiment, Job              a `Run` with the methods of tf.contrib.learn's Experiment
RunFolder                    a folder per run: weights.npz, metrics.csv, curves.png
Checkpoint, Checkpoints      what a run needs to resume; written in the background and verified when read
ReleaseManager               takes the values of each round out of the program
  release_to_csv, release_to_json_lines, release_to_memory, release_to_log
  release_to_tensorboard, release_to_wandb, release_to_mlflow
  group_releases, filter_releases, periodic_releases
sole_writer                  a context in which no other run writes to a folder
save_weights, load_weights   a pytree of arrays as a file of plain arrays, without pickle
save_csv, save_curves        a `History` as a table and as a picture
flatten_metrics, find_metric the numbers in a pytree of metrics by their paths, and one of them by its name
"""

from fedjax_core._signposts import signpost
from fedjax_core.program._checkpoint_folder import CheckpointTypeError, DamagedCheckpointError
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._curves import save_curves
from fedjax_core.program._early_stopping import EarlyStopping
from fedjax_core.program._estimate import Estimate
from fedjax_core.program._evaluating import Evaluation, EvaluationResult
from fedjax_core.program._experiment import Experiment
from fedjax_core.program._exports import Export, export_predict, export_weights
from fedjax_core.program._history import History, Record, find_metric, flatten_metrics
from fedjax_core.program._job import Job
from fedjax_core.program._locks import sole_writer
from fedjax_core.program._outlets import Round
from fedjax_core.program._releases import (
    ReleaseManager,
    filter_releases,
    group_releases,
    periodic_releases,
    release_to_log,
    release_to_memory,
)
from fedjax_core.program._round_lines import release_to_csv, release_to_json_lines, save_csv
from fedjax_core.program._run import Run
from fedjax_core.program._run_end import TrainResult
from fedjax_core.program._run_folder import RunFolder
from fedjax_core.program._run_settings import RunSettings
from fedjax_core.program._trackers import release_to_mlflow, release_to_tensorboard, release_to_wandb
from fedjax_core.program._train import train
from fedjax_core.program._weights import load_weights, save_weights

__all__ = [
    "Checkpoint",
    "CheckpointTypeError",
    "Checkpoints",
    "DamagedCheckpointError",
    "EarlyStopping",
    "Estimate",
    "Evaluation",
    "EvaluationResult",
    "Experiment",
    "Export",
    "History",
    "Job",
    "Record",
    "ReleaseManager",
    "Round",
    "Run",
    "RunFolder",
    "RunSettings",
    "TrainResult",
    "export_predict",
    "export_weights",
    "filter_releases",
    "find_metric",
    "flatten_metrics",
    "group_releases",
    "load_weights",
    "periodic_releases",
    "release_to_csv",
    "release_to_json_lines",
    "release_to_log",
    "release_to_memory",
    "release_to_mlflow",
    "release_to_tensorboard",
    "release_to_wandb",
    "save_csv",
    "save_curves",
    "save_weights",
    "sole_writer",
    "train",
]

signpost(__name__)
