"""What clients do in a round.

  local_training    optimizer steps on the client's batches (FedAvg); its state may be a `TrainingState`
  local_gradient    a single gradient over all of its batches (FedSGD)
  local_evaluation  metrics of the server's weights
  client_work       your own work, from a function of one client

Optimizers for clients, simulated or real (a `participant.TrainingManager`), in addition to optax's:

  proximal            FedProx's pull towards the weights at the start of the round, an optax transformation
  scaffold_optimizer  SCAFFOLD's control variates, exchanged with the server as auxiliary variables
  LocalOptimizer      the contract of optimizers that exchange such variables
  local_optimizer     converts an optax transformation to a LocalOptimizer
  ClientOptimizer     the type that `local_training` takes: any of these, or a function of the round number
  map_optimizer       applies a function to a ClientOptimizer

Parts for your own client work:

  local_trainer     all of a client's training; it returns a `Trained`
  training_step     one step of training
  training_loss     the loss of one batch, whose gradient a step takes
  accumulator       the model's metrics, added up over batches: an `Accumulator`

Facts about a model that client work needs:

  weights_type, abstract_statistics, has_running_state, integer_ranges, trainable_of, with_trainable
"""

from fedjax_core._signposts import signpost
from fedjax_core.clients._evaluation import Accumulator, accumulator, local_evaluation
from fedjax_core.clients._gradient import local_gradient
from fedjax_core.clients._local_optimizer import LocalOptimizer, check_optimizer, local_optimizer
from fedjax_core.clients._measuring import (
    abstract_statistics,
    has_running_state,
    integer_ranges,
    trainable_of,
    weights_type,
    with_trainable,
)
from fedjax_core.clients._proximal import proximal
from fedjax_core.clients._scaffold import scaffold_optimizer
from fedjax_core.clients._step import training_loss, training_step
from fedjax_core.clients._trainer import Trained, local_trainer
from fedjax_core.clients._training import ClientOptimizer, TrainingState, local_training, map_optimizer
from fedjax_core.clients._weighting import Weighting
from fedjax_core.clients._work import client_work

__all__ = [
    "Accumulator",
    "ClientOptimizer",
    "LocalOptimizer",
    "Trained",
    "TrainingState",
    "Weighting",
    "abstract_statistics",
    "accumulator",
    "check_optimizer",
    "client_work",
    "has_running_state",
    "integer_ranges",
    "local_evaluation",
    "local_gradient",
    "local_optimizer",
    "local_trainer",
    "local_training",
    "map_optimizer",
    "proximal",
    "scaffold_optimizer",
    "trainable_of",
    "training_loss",
    "training_step",
    "weights_type",
    "with_trainable",
]

signpost(__name__)
