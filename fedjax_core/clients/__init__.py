"""What clients do in a round.

  local_training    optimizer steps on the client's batches (FedAvg)
  local_gradient    one gradient over all of them (FedSGD)
  local_evaluation  metrics of the server's weights
  client_work       work of your own, from a function of one client

the optimizers of a real participant, a `participant.TrainingManager`:

  local_optimizer     an optax transformation, with nothing to exchange with the server
  proximal_optimizer  FedProx's pull to where the round began
  scaffold_optimizer  SCAFFOLD's control variates, exchanged as auxiliary variables
  LocalOptimizer      their contract

and what all of them need to know of a model:

  weights_type, abstract_statistics, mean_gradient, trainable_of, with_trainable
"""

from fedjax_core._signposts import signpost
from fedjax_core.clients._evaluation import local_evaluation
from fedjax_core.clients._gradient import local_gradient
from fedjax_core.clients._local_optimizer import (
    LocalOptimizer,
    local_optimizer,
    proximal_optimizer,
    scaffold_optimizer,
)
from fedjax_core.clients._measuring import abstract_statistics, trainable_of, weights_type, with_trainable
from fedjax_core.clients._training import check_optimizer, local_training, mean_gradient
from fedjax_core.clients._work import client_work

__all__ = [
    "LocalOptimizer",
    "abstract_statistics",
    "check_optimizer",
    "client_work",
    "local_evaluation",
    "local_gradient",
    "local_optimizer",
    "local_training",
    "mean_gradient",
    "proximal_optimizer",
    "scaffold_optimizer",
    "trainable_of",
    "weights_type",
    "with_trainable",
]

signpost(__name__)
