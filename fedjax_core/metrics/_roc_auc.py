"""The area under the ROC curve, from histograms of scores."""

import jax.numpy as jnp

from fedjax_core import _checks
from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels
from fedjax_core.metrics._arguments import check_range


def roc_auc(num_bins: int = 200, *, range: tuple[float, float] = (0.0, 1.0), label: str = "y") -> Metric:
    r"""The probability that a positive example scores higher than a negative one, where a tie counts as half.

    Scores are counted in bins of equal width, and two scores in the same bin are a tie. With :math:`p_b` and
    :math:`n_b`, the numbers of positive and negative examples in bin `b`, the value is

    .. math:: \frac{\sum_b p_b \left(\sum_{a < b} n_a + n_b / 2\right)}{\sum_b p_b \sum_b n_b},

    which differs from the area for the exact scores by at most half the fraction of pairs that share a
    bin, :math:`\sum_b p_b n_b / (2 \sum_b p_b \sum_b n_b)`: about `1 / (2 num_bins)` for scores that
    are spread evenly, and more for scores that cluster.

    Args:
      num_bins: the number of bins.
      range: the lowest and the highest score. A score outside is counted in the first or the last bin. The
        default suits probabilities; for logits give their range, or apply a sigmoid first.
      label: the batch's field of labels, integers `[B]`; 1 is positive and all else negative.

    Returns:
      A `Metric` of predictions `[B]`. Its statistic is `(positive, negative)`, int32 `[num_bins]`
      each; its value float32 `[]`, NaN unless there are examples of both. A NaN score ranks where it is most wrong.

    Raises:
      TypeError: `num_bins` is not an integer or `range` is not a pair; when measured, if the labels are neither
        integers nor booleans.
      ValueError: `num_bins` is not positive, or `range` is empty or not finite; when measured, if the
        shapes do not fit.

    Example:
      >>> metric = roc_auc()
      >>> scores, batch = jnp.array([0.1, 0.4, 0.35, 0.8]), {"y": jnp.array([0, 0, 1, 1])}
      >>> print(metric.finalize(metric.measure(scores, batch, jnp.ones(4, bool))))
      0.75
    """
    _checks.check_integer("roc_auc(num_bins=...)", num_bins, 1, "write num_bins=1000")
    check_range("roc_auc(range=...)", range)
    lower, upper = range

    def measure(predictions, batch, mask):
        labels = batch[label]
        _labels.check_binary("roc_auc", predictions, labels, label)
        positive = labels == 1
        scores = predictions.astype(jnp.float32)
        scores = jnp.where(jnp.isnan(scores), jnp.where(positive, lower, upper), scores)
        place = (jnp.clip(scores, lower, upper) - lower) * (num_bins / (upper - lower))
        bins = jnp.minimum(place.astype(jnp.int32), num_bins - 1)
        counted = (_labels.one_hot(bins, mask & kind, num_bins) for kind in (positive, ~positive))
        return tuple(jnp.sum(each, axis=0, dtype=jnp.int32) for each in counted)

    return Metric(measure, _area)


def _area(statistic):
    # In floats: a sum of counts, or their product, may exceed int32 although each of them fits.
    positive, negative = (kind.astype(jnp.float32) for kind in statistic)
    below = jnp.cumsum(negative) - negative / 2
    return jnp.sum((positive / jnp.sum(positive)) * (below / jnp.sum(negative)))
