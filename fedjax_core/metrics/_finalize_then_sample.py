"""Metrics that every client finalizes, for a sample of the clients."""

import jax

from fedjax_core import types
from fedjax_core.aggregators import reservoir, reservoir_sample
from fedjax_core.computations import computation, federated_computation
from fedjax_core.contracts import MetricsAggregation
from fedjax_core.language import federated_map
from fedjax_core.metrics._finalizers import finalizer_of
from fedjax_core.templates import AggregationProcess

_BEFORE_ALL_ROUNDS = 2**32 - 1


def finalize_then_sample(sample_size: int = 100, *, key: jax.Array) -> MetricsAggregation:
    """The finalized metrics of single clients: a uniform sample from this round, and one from all rounds.

    While `sum_then_finalize` shows how the clients do on average, this shows how they differ. A
    sampled client contributes all its metrics: row `i` is the same client in each of them.

    It is TFF's `FinalizeThenSampleFactory`, but drawn from an explicit key; see `reservoir_sample`.

    Args:
      sample_size: the largest number of clients in a sample.
      key: a JAX key, consumed.

    Returns:
      A `MetricsAggregation`. Its `create(metric_finalizers, local_unfinalized_metrics_type,
      initial_unfinalized_metrics=None)` takes a dict of functions by metric name, or one function of
      all metrics; the type of a client's statistics, a struct by metric name; and optionally the
      statistics of a client with which the sample of all rounds starts.

      The process's result is `(samples of this round, samples of all rounds)`. Each is a dict of the metrics
      whose leaves have a leading dimension over the sampled clients, `sample_size` of them or all if there were
      fewer, ordered by their tags. State: `<round_num, key, tags, count, samples>`. Measurements: per
      leaf, the number of this round's clients with a NaN or infinity in it, int32.

    Raises:
      TypeError: `sample_size` is not an integer, or `key` is not a key. From `create`: the finalizers, the type of the
        statistics or the first statistics are of the wrong kind.
      ValueError: `sample_size` is not positive.
      MetricFinalizersMismatchError: from `create`, the finalizers have other names than the metrics.

    Example:

    >>> import jax, fedjax_core as fc
    >>> statistics = fc.types.to_type({"accuracy": ("int32", "int32"), "num_examples": "int32"})
    >>> finalizers = {"accuracy": lambda s: s[0] / s[1], "num_examples": lambda n: n}
    >>> process = finalize_then_sample(2, key=jax.random.key(0)).create(finalizers, statistics)
    >>> clients = [{"accuracy": (n, 4), "num_examples": n} for n in (1, 2, 3)]
    >>> state, (this_round, all_rounds), num_non_finite = process.next(process.initialize(), clients)
    >>> (this_round["accuracy"] == this_round["num_examples"] / 4).tolist()
    [True, True]
    """
    reservoir.check_sampling("finalize_then_sample", sample_size, key=key)
    sampling = reservoir_sample(sample_size, key=key)

    def create(metric_finalizers, local_unfinalized_metrics_type, initial_unfinalized_metrics=None):
        unfinalized_type = types.to_type(local_unfinalized_metrics_type)
        finalize = computation(finalizer_of(metric_finalizers, unfinalized_type), unfinalized_type)
        first = None
        if initial_unfinalized_metrics is not None:
            first = finalize(_checked_initial(initial_unfinalized_metrics, unfinalized_type))

        def with_first(state):
            return reservoir.with_first(state, first, key=jax.random.fold_in(key, _BEFORE_ALL_ROUNDS))

        @federated_computation()
        def initialize():
            state = sampling.init(finalize.type_signature.result)
            return state if first is None else federated_map(with_first, state)

        @federated_computation(initialize.type_signature.result, types.at_clients(unfinalized_type))
        def next(state, unfinalized):
            finalized = federated_map(finalize, unfinalized)
            return sampling.next(state, finalized, None)  # pyright: ignore[reportArgumentType]  # it weighs nobody

        return AggregationProcess(initialize, next)

    return MetricsAggregation(create)


def _checked_initial(initial, unfinalized_type: types.Type):
    """The initial metrics in the containers of a client's."""
    found = types.type_of(initial)
    if not unfinalized_type.is_equivalent_to(types.matched_type(unfinalized_type, found)):
        raise TypeError(
            f"the initial metrics must have the type of a client's, {unfinalized_type}, got {found}; convert them with "
            "jnp.asarray(value, dtype)"
        )
    return types.matched(unfinalized_type, initial)
