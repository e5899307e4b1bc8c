"""The weighted mean."""

import functools

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_map, federated_mean, federated_sum, federated_value, federated_zip
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def mean() -> Aggregator:
    r"""The weighted mean :math:`\sum_k w_k v_k / \sum_k w_k` over the clients `k`.

    A total weight of zero gives a zero result and is counted. For the uniform mean give weights of
    one (`weighting="uniform"`).

    Returns:
      An `Aggregator` without state. Measurements: `mean_value.norm`, float32, the L2 norm of the
      result; `mean_weight.total`, float32, and `mean_weight.num_zero`, int32, one where the total is
      zero.

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(mean(), "float32")
    >>> process.next(process.initialize(), [1.0, 4.0], [1.0, 2.0]).result
    Array(3., dtype=float32)

    References:
      McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
      algorithm 1.
    """

    def next(state, value, weight):
        # `federated_mean` checks and types; its 0 / 0 would have no gradient, so the division is our own.
        result_type = federated_mean(value, weight).fedjax_type.member
        dtypes = jax.tree.map(lambda tensor: tensor.dtype, types.tree_of_types(result_type))
        total = federated_sum(weight)
        weighted = federated_sum(federated_map(_times, value, weight))
        averaged = federated_map(functools.partial(_divide, dtypes), weighted, total)
        measurements = federated_zip(
            {
                "mean_value": {"norm": federated_map(trees.norm, averaged)},
                "mean_weight": federated_map(_measure_weight, total),
            }
        )
        return MeasuredProcessOutput(state, averaged, measurements)

    return Aggregator(lambda value_type: federated_value((), SERVER), next)


def _times(value, weight):
    """In float32 at least, as `federated_mean`."""
    return jax.tree.map(lambda v: v * weight.astype(jnp.promote_types(v.dtype, jnp.float32)), value)


def _divide(dtypes, weighted, total):
    """Zero for a total of zero, by a division that has a gradient there."""
    denominator = jnp.where(total == 0, 1, total)
    return jax.tree.map(lambda v, d: (v / denominator.astype(v.dtype)).astype(d), weighted, dtypes)


def _measure_weight(total):
    return {"total": total, "num_zero": (total == 0).astype(jnp.int32)}
