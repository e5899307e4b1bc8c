"""The recommended protection against clients whose updates are corrupt or unusual."""

import math

from fedjax_core import _checks, types
from fedjax_core.aggregators._arguments import inner_or_mean
from fedjax_core.aggregators._clipping import clip_by_norm
from fedjax_core.aggregators._quantile import quantile_estimate
from fedjax_core.aggregators._zeroing import zero_large
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_map


def robust(inner: Aggregator | None = None, *, zeroing: bool = True, clipping: bool = True) -> Aggregator:
    """Zeroes updates that are far too large, then clips those that are long, as TFF recommends.

    1. `zero_large` at twice the .98 quantile of the largest absolute entries plus one. The estimate
       starts at 10 and moves by a factor of up to 10 per round, so that it soon exceeds the values it has seen.
    2. `clip_by_norm` at the .8 quantile of the L2 norms, including those of zeroed clients. The estimate starts
       at 1 and moves by at most one sixth per round.

    None of this is private.

    Args:
      inner: the aggregator of the zeroed and clipped updates; None is `mean()`.
      zeroing: whether to zero.
      clipping: whether to clip.

    Returns:
      An `Aggregator`. State and measurements are those of `zero_large`, whose `inner` has those of
      `clip_by_norm`. With both parts switched off it is `inner`.

    Raises:
      TypeError: `inner` is not an `Aggregator`, or a switch is not a bool.

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(robust(), "float32[2]")
    >>> output = process.next(process.initialize(), [[0.3, 0.4], [3.0, 4.0], [1e9, 0.0]], [1.0, 1.0, 1.0])
    >>> print(output.result, output.measurements["num_zeroed"], output.measurements["inner"]["num_clipped"])
    [0.3       0.4000...] 1 1

    References:
      TensorFlow Federated, `tff.learning.robust_aggregator`, for the stack and its constants.
      Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, arXiv:1905.03871, for
      the estimates.
    """
    repair = "for a bound of your own write zero_large(threshold, clip_by_norm(max_norm))"
    _checks.checked_switch("robust(zeroing=...)", zeroing, repair)
    _checks.checked_switch("robust(clipping=...)", clipping, repair)
    aggregator = inner_or_mean("robust", inner)
    if clipping:
        aggregator = clip_by_norm(quantile_estimate(initial=1.0, target_quantile=0.8, learning_rate=0.2), aggregator)
    if zeroing:
        largest = quantile_estimate(initial=10.0, target_quantile=0.98, learning_rate=math.log(10.0))
        aggregator = zero_large(largest.map(_twice_plus_one()), aggregator)
    return aggregator


def _twice_plus_one():
    @federated_computation(types.at_server("float32"))
    def twice_plus_one(estimate):
        return federated_map(lambda c: 2 * c + 1, estimate)

    return twice_plus_one
