"""The weighted mean."""

import functools

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.contracts import Aggregator
from fedjax_core.language import Placed, federated_map, federated_mean, federated_sum, federated_value, federated_zip
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def mean() -> Aggregator:
    r"""The weighted mean :math:`\sum_k w_k v_k / \sum_k w_k` over the clients `k`.

    A total weight of zero gives a zero result and is counted. For the uniform mean give weights of
    one (`weighting="uniform"`). A negative weight is taken as it is, so that the result may lie outside of the values:
    values 1 and 4 with weights -1 and 3 give 5.5.

    A client's weight is one number, or it holds one for each row or each field of the value, which is then
    averaged with its own weights: a vector `[k]` for leaves `[k, ...]`, a dict of numbers for a dict.

    Returns:
      An `Aggregator` without state. Measurements: `mean_value.norm`, float32, the L2 norm of the
      result; `mean_weight.total`, float32, in the form of a client's weight; and `mean_weight.num_zero`, int32,
      the number of totals that are zero.

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(mean(), "float32")
    >>> process.next(process.initialize(), [1.0, 4.0], [1.0, 2.0]).result
    Array(3., dtype=float32)

    Two rows with separate weights, for clients that each train one of two models:

    >>> process = fc.aggregators.as_process(mean(), "float32[2,1]", "float32[2]")
    >>> output = process.next(process.initialize(), [[[1.0], [0.0]], [[3.0], [5.0]]], [[1.0, 0.0], [1.0, 2.0]])
    >>> print(output.result.tolist(), output.measurements["mean_weight"]["total"])
    [[2.0], [5.0]] [2. 2.]

    References:
      McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
      algorithm 1.
    """

    def next(state, value, weight):
        dtypes = jax.tree.map(lambda tensor: tensor.dtype, types.tree_of_types(_mean_type(value, weight)))
        total = federated_sum(_in_floats(weight))
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


def _mean_type(value: Placed, weight: Placed) -> types.Type:
    """The type of the mean according to `federated_mean`, which also checks value and weight.

    Its own quotient 0 / 0 would have no gradient, so this file divides itself.
    """
    weight_type = types.member_of(weight.fedjax_type)
    if isinstance(weight_type, types.TensorType) and weight_type.shape == ():
        return types.member_of(federated_mean(value, weight).fedjax_type)
    value_type = types.member_of(value.fedjax_type)
    shapes = [jax.tree.map(_abstract, types.tree_of_types(type_)) for type_ in (weight_type, value_type)]
    try:
        jax.eval_shape(trees.expand, *shapes)
    except ValueError:
        raise TypeError(
            "mean takes one weight for each client, or one for each row or field of its value, got the weight "
            f"{weight_type} for the value {value_type}; for parts that are combined in different ways "
            "write fc.aggregators.each(...)"
        ) from None
    return types.member_of(federated_mean(value).fedjax_type)


def _in_floats(weight: Placed) -> Placed:
    """The weight, with integers in float32: a sum of integers may overflow, and a call would wait to see it."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(types.tree_of_types(types.member_of(weight.fedjax_type)))]
    is_float = all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes)
    return weight if is_float else federated_map(trees.widen, weight)


def _abstract(tensor: types.TensorType) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)


def _times(value, weight):
    """The weighted value, in float32 at least, as in `federated_mean`."""
    return jax.tree.map(
        lambda v, w: v * w.astype(jnp.promote_types(v.dtype, jnp.float32)), value, trees.expand(weight, value)
    )


def _divide(dtypes, weighted, total):
    """The quotient, zero for a total of zero, by a division that has a gradient there."""
    denominator = trees.expand(jax.tree.map(lambda t: jnp.where(t == 0, 1, t), total), weighted)
    return jax.tree.map(lambda v, t, d: (v / t.astype(v.dtype)).astype(d), weighted, denominator, dtypes)


def _measure_weight(total):
    num_zero = [jnp.sum(t == 0, dtype=jnp.int32) for t in jax.tree.leaves(total)]
    return {"total": total, "num_zero": sum(num_zero)}
