"""Algorithms: the round, written once, and its callers.

fed_avg               local training, then an optimizer step of the server; FedAdam, FedYogi,
                      FedAdagrad and FedAvgM are arguments
fed_prox              fed_avg whose clients are pulled back to where the round began
fed_sgd               one gradient a client
federated_evaluation  metrics on clients, a computation without state
fed_eval              the same as a process, with the metrics of all rounds
compose               the round from its four slots: distributor, client work, aggregator, finalizer
broadcast, apply_optimizer, on_part, metrics_process    what goes into the slots
guarded_mean, leave_out    what a client work aggregates itself, and who is left out of the round for it
left_out_clients      who was left out of a round, and why
"""

from fedjax_core._signposts import signpost
from fedjax_core.algorithms._compose import LearningState, compose
from fedjax_core.algorithms._evaluation import EvaluationState, fed_eval, federated_evaluation
from fedjax_core.algorithms._fed_avg import fed_avg, fed_sgd
from fedjax_core.algorithms._fed_prox import fed_prox
from fedjax_core.algorithms._guard import guarded_mean, leave_out
from fedjax_core.algorithms._left_out import left_out_clients
from fedjax_core.algorithms._metrics import metrics_process
from fedjax_core.algorithms._slots import apply_optimizer, broadcast, on_part

__all__ = [
    "EvaluationState",
    "LearningState",
    "apply_optimizer",
    "broadcast",
    "compose",
    "fed_avg",
    "fed_eval",
    "fed_prox",
    "fed_sgd",
    "federated_evaluation",
    "guarded_mean",
    "leave_out",
    "left_out_clients",
    "metrics_process",
    "on_part",
]

signpost(__name__)
