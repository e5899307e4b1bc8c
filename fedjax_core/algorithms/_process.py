"""The parts that all learning processes of this room share."""

from fedjax_core import trees, types
from fedjax_core.clients import trainable_of
from fedjax_core.computations import Computation, computation
from fedjax_core.templates import LearningProcess


def learning_process(
    initialize: Computation,
    next: Computation,
    weights_type: types.Type,
    client_results: Computation | None = None,
    noise_multiplier: float = 0.0,
) -> LearningProcess:
    """Makes a learning process from computations on a state with the fields `weights` and `round_num`.

    Args:
      initialize: returns the first state.
      next: the round.
      weights_type: the type of the state's weights.
      client_results: returns the result of each client.
      noise_multiplier: that of the process's aggregator.

    Returns:
      A `LearningProcess` that reports `round_num` and `weights_norm`, the L2 norm of the trainable weights.
    """
    state_type = types.member_of(initialize.type_signature.result)
    return LearningProcess(
        initialize,
        next,
        computation(_report, state_type),
        computation(lambda state: state.weights, state_type),
        computation(lambda state, weights: state._replace(weights=weights), state_type, weights_type),
        client_results=client_results,
        noise_multiplier=noise_multiplier,
    )


def _report(state) -> dict:
    return {"round_num": state.round_num, "weights_norm": trees.norm(trainable_of(state.weights))}
