"""A uniform sample of the clients, which takes the memory of the sample however many clients there are.

A *reservoir* of capacity `N` is a dict: `tags` uint32 `[N, 2]`, the high and the low half of each row's
tag; `samples`, a pytree of `[N, ...]`; `count` int32 `[]`, the number of rows in use, which are the first
ones. The other rows are zeros.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_core import _checks, trees, types
from fedjax_core.contracts import Aggregator
from fedjax_core.language import (
    federated_aggregate,
    federated_eval,
    federated_map,
    federated_split_key,
    federated_trim,
    federated_zip,
)
from fedjax_core.language.sums import count_sum
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def reservoir_sample(sample_size: int, *, key: jax.Array) -> Aggregator:
    """A uniform sample without replacement of the clients of this round, and one of all rounds so far.

    Every client draws a 64-bit tag from the key, the round number and its identity, and the
    clients with the largest tags are the sample. All clients thus have the same chance, whatever their order,
    grouping or weight, and samples of groups merge into a sample of all. A client that takes part in several
    rounds can be in the sample of all rounds more than once.

    Args:
      sample_size: the largest number of clients in a sample, `N`.
      key: a JAX key, consumed.

    Returns:
      An `Aggregator` of tensors of known shapes. Its result is `(samples of this round, samples of all
      rounds)`. Each is the client's pytree with a leading dimension over the sampled clients, `N` of them or
      all if there were fewer, ordered by their tags, the smallest first (`as_function` returns
      `TrimmedRows`). State: `<round_num, key, tags, count, samples>`, the reservoir of all rounds; the key never
      changes. Measurements: per leaf, the number of this round's clients with a NaN or infinity in it, int32.

    Raises:
      TypeError: `sample_size` is not an integer, or `key` is not a key; when built for a value that does not consist
        of tensors of known shapes.
      ValueError: `sample_size` is not positive.

    Example:

    >>> import jax, fedjax_core as fc
    >>> process = fc.aggregators.as_process(reservoir_sample(2, key=jax.random.key(0)), "float32")
    >>> state, (this_round, all_rounds), num_non_finite = process.next(process.initialize(), [5.0, 6.0, 7.0], [1.0] * 3)
    >>> len(this_round), set(this_round.tolist()) < {5.0, 6.0, 7.0}
    (2, True)
    >>> state, (this_round, all_rounds), num_non_finite = process.next(state, [8.0], [1.0])
    >>> len(this_round), len(all_rounds)
    (1, 2)

    References:
      Efraimidis and Spirakis 2006, Weighted random sampling with a reservoir, with weights of one.
    """
    check_sampling("reservoir_sample", sample_size, key=key)
    empty = functools.partial(_empty, int(sample_size))

    def init(value_type):
        _check_shapes(value_type)
        return federated_eval(lambda: {"round_num": jnp.int32(0), "key": key, **empty(value_type)}, SERVER)

    def next(state, value, weight):
        keys = federated_split_key(federated_map(jax.random.fold_in, state["key"], state["round_num"]))
        tagged = federated_zip((federated_map(draw_tag, keys), value))
        start = functools.partial(empty, types.of_kind(types.member_of(tagged.fedjax_type), types.StructType)[1])
        current = federated_aggregate(tagged, start, _accumulate, _merge, _by_tags)
        state, total = federated_map(_advance, state, current)
        result = tuple(federated_trim(reservoir["samples"], reservoir["count"]) for reservoir in (current, total))
        num_non_finite = count_sum(federated_map(_not_finite, value))
        return MeasuredProcessOutput(state, federated_zip(result), num_non_finite)

    return Aggregator(init, next)


def check_sampling(function: str, sample_size, *, key) -> None:
    """Checks the size of a sample, and the key from which it is drawn.

    Args:
      function: the name of the function whose arguments they are.
      sample_size: the largest number of clients in the sample.
      key: a JAX key.

    Raises:
      TypeError: `sample_size` is not an integer, or `key` is not a key.
      ValueError: `sample_size` is not positive.

    Example:

    >>> check_sampling("finalize_then_sample", 0, key=jax.random.key(0))
    Traceback (most recent call last):
    ValueError: finalize_then_sample(sample_size=...) must be an integer of at least 1, got 0; write sample_size=100
    """
    _checks.check_integer(f"{function}(sample_size=...)", sample_size, 1, "write sample_size=100")
    _checks.check_key(f"{function}(key=...)", key)


def with_first(state: dict, value, *, key: jax.Array) -> dict:
    """The initial state of `reservoir_sample`, with one value already in its sample of all rounds.

    Args:
      state: the result of the aggregator's `init`.
      value: a value of the clients' type, in the same containers.
      key: a JAX key, consumed: the tag of the value is drawn from it.

    Returns:
      A state of the same type.

    Example:

    >>> import jax, fedjax_core as fc
    >>> process = fc.aggregators.as_process(reservoir_sample(2, key=jax.random.key(0)), "float32")
    >>> state = with_first(process.initialize(), 5.0, key=jax.random.key(1))
    >>> sorted(process.next(state, [6.0], [1.0]).result[1].tolist())
    [5.0, 6.0]
    """

    def write(rows, row):
        return rows.at[0].set(row)

    samples = jax.tree.map(write, state["samples"], value)
    return {**state, "tags": write(state["tags"], draw_tag(key)), "count": state["count"] + 1, "samples": samples}


def draw_tag(key) -> jax.Array:
    """A 64-bit number, uniformly distributed, as uint32 `[2]`, the high half first."""
    # Two words, since without x64 JAX has no uint64.
    return jax.random.bits(key, (2,), jnp.uint32)


def _check_shapes(value_type: types.Type):
    for path, leaf in types.type_leaves(value_type):
        if not isinstance(leaf, types.TensorType) or leaf.shape is None or None in leaf.shape:
            raise TypeError(
                f"reservoir_sample keeps tensors of known shapes, got {value_type}" + (f" (see {path})" if path else "")
                + "; fix the dimensions in the type, and compute what you need of a sequence first"
            )  # fmt: skip


def _empty(capacity: int, value_type: types.Type) -> dict:
    rows = jax.tree.map(lambda t: jax.ShapeDtypeStruct((capacity, *t.shape), t.dtype), types.tree_of_types(value_type))
    return {"tags": jnp.zeros((capacity, 2), jnp.uint32), "count": jnp.int32(0), "samples": trees.zeros_like(rows)}


def _accumulate(reservoir: dict, client: tuple) -> dict:
    """The reservoir with one more client, which takes a free row or, if its tag is larger, that of the smallest."""
    tags, count = reservoir["tags"], reservoir["count"]
    is_full = count == len(tags)
    slot = jnp.where(is_full, _smallest(tags), count)
    taken = ~is_full | _is_larger(client[0], tags[slot])

    def write(rows, row):
        # The other rows are not touched: a select between two reservoirs would copy one for each client.
        return lax.dynamic_update_index_in_dim(rows, jnp.where(taken, row, rows[slot]), slot, 0)

    tags, samples = jax.tree.map(write, (tags, reservoir["samples"]), client)
    return {"tags": tags, "count": jnp.minimum(count + 1, len(tags)), "samples": samples}


def _smallest(tags) -> jax.Array:
    high, low = tags.T
    is_smallest = high == jnp.min(high)
    return jnp.argmax(is_smallest & (low == jnp.min(jnp.where(is_smallest, low, jnp.uint32(2**32 - 1)))))


def _is_larger(tag, other) -> jax.Array:
    return (tag[0] > other[0]) | ((tag[0] == other[0]) & (tag[1] > other[1]))


def _merge(first: dict, second: dict) -> dict:
    """Both reservoirs if they fit into one, otherwise the largest tags of both; of equal tags, the first one's.

    The rows of the first come before those of the second, each in their own order.
    """
    capacity = len(first["tags"])
    rows, others = ((r["tags"], r["samples"], _is_free(r)) for r in (first, second))
    tags, samples, free = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rows, others)
    largest = _order(~tags, free)[:capacity]
    kept = jnp.sort(jnp.where(free[largest], largest + 2 * capacity, largest)) % (2 * capacity)
    tags, samples = jax.tree.map(lambda x: x[kept], (tags, samples))
    return {"tags": tags, "count": jnp.minimum(first["count"] + second["count"], capacity), "samples": samples}


def _by_tags(reservoir: dict) -> dict:
    """The reservoir with its rows ordered by their tags, the smallest first."""
    order = _order(reservoir["tags"], _is_free(reservoir))
    return jax.tree.map(lambda x: x[order] if x.ndim else x, reservoir)


def _order(tags, free) -> jax.Array:
    """The order of the rows by increasing tags, stable for equal ones, with the free rows last."""
    return jnp.lexsort((tags[:, 1], tags[:, 0], free))


def _is_free(reservoir: dict) -> jax.Array:
    return jnp.arange(len(reservoir["tags"])) >= reservoir["count"]


def _advance(state: dict, current: dict) -> tuple[dict, dict]:
    """The state after a round, and its reservoir ordered by tags."""
    total = _merge(state, current)
    return {"round_num": state["round_num"] + 1, "key": state["key"], **total}, _by_tags(total)


def _not_finite(value):
    return jax.tree.map(lambda x: (~trees.is_finite(x)).astype(jnp.int32), value)
