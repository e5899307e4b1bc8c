"""What clients do in a round.

  local_training    optimizer steps on the client's batches (FedAvg)
  local_gradient    one gradient over all of them (FedSGD)
  local_evaluation  metrics of the server's weights
  client_work       work of your own, from a function of one client

and what all of them need to know of a model:

  weights_type, abstract_statistics, trainable_of, with_trainable
"""

from fedjax_core.clients._evaluation import local_evaluation
from fedjax_core.clients._gradient import local_gradient
from fedjax_core.clients._measuring import abstract_statistics, trainable_of, weights_type, with_trainable
from fedjax_core.clients._training import check_optimizer, local_training
from fedjax_core.clients._work import client_work

__all__ = [
    "abstract_statistics",
    "check_optimizer",
    "client_work",
    "local_evaluation",
    "local_gradient",
    "local_training",
    "trainable_of",
    "weights_type",
    "with_trainable",
]
