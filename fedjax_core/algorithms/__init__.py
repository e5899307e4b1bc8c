"""Algorithms: the round, written once, and the algorithms that call it.

fed_avg               local training, then an optimizer step on the server; FedAdam, FedYogi, FedAdagrad and FedAvgM
                      differ in its arguments
fed_prox              fed_avg with clients that are pulled towards the weights at the start of the round
fed_sgd               one gradient per client
federated_evaluation  metrics on clients' data, as a computation without state
fed_eval              the same as a process, with the metrics of all rounds
compose               builds the round from its four slots: distributor, client work, aggregator, finalizer
broadcast, apply_optimizer, on_part, metrics_process    parts for the slots
guarded_mean, leave_out    a mean inside client work, and how the clients that it leaves out are left out of the round
left_out_clients      the clients that a round left out, and why
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
