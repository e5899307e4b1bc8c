"""The operator that trims a result to a number of rows that is known only after the program has run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.language._abstract import trimmed
from fedjax_core.language._arguments import check_leaves
from fedjax_core.language._graph import Trim, user_location
from fedjax_core.language._placed import Placed, derive, placed_argument, refuse_trimmed
from fedjax_core.types import SERVER


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrimmedRows:
    """What `as_function` returns for a trimmed array, since rows cannot be left out under `jit`.

    Attributes:
      values: `[N, ...]`, all rows.
      count: int32 `[]`; a call would have returned the first `count` rows.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_server("float32[4]"), fc.at_server("int32"))
    ... def first(values, count):
    ...     return fc.federated_trim(values, count)
    >>> rows = first.as_function()(jnp.arange(4.0), 2)
    >>> rows.values.tolist(), int(rows.count)
    ([0.0, 1.0, 2.0, 3.0], 2)
    """

    values: jax.Array
    count: jax.Array


def federated_trim(value, count) -> Placed:
    """The first `count` rows of a value at the server, for a result whose other rows are meaningless.

    A call returns only these rows and waits until the program has computed the count. `as_function` returns
    `TrimmedRows`, all rows and the count, in place of every array. You can select fields of trimmed rows, zip
    them, pass them to other computations and return them, but not compute with them: compute before trimming.

    Args:
      value: a pytree of tensors at SERVER with a common leading dimension `N`.
      count: int32 at SERVER, from 0 to `N`.

    Returns:
      The same pytree at SERVER, every leaf with a leading dimension `?`.

    Raises:
      TypeError: `value` is not at SERVER, has a leaf without rows or leaves with different numbers of rows;
        `count` is not an int32 scalar at SERVER; or one of them contains trimmed rows.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_server("float32[4]"), fc.at_server("int32"))
    ... def first(values, count):
    ...     return fc.federated_trim(values, count)
    >>> str(first.type_signature.result), first(jnp.arange(4.0), 2).tolist()
    ('float32[?]@SERVER', [0.0, 1.0])
    """
    repaired = "fc.federated_trim(value, count) with both at SERVER"
    rows = placed_argument(value, "federated_trim", at=SERVER, repaired=repaired)
    number = placed_argument(count, "federated_trim", at=SERVER, repaired=repaired)
    refuse_trimmed("federated_trim", (rows, number))
    check_leaves("federated_trim", rows, "tensors", lambda dtype: True)
    shapes = [leaf.shape for leaf in jax.tree.leaves(rows.abstract)]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise TypeError(
            f"federated_trim takes tensors with a common leading dimension, got {rows.type} at {user_location()}; "
            "trim one part at a time, and return the parts without rows as they are"
        )
    if number.member_type != types.TensorType(jnp.int32):
        raise TypeError(
            f"federated_trim takes an int32 scalar as count, got {number.type} at {user_location()}; convert it with "
            "fc.federated_map(lambda n: n.astype('int32'), count)"
        )
    return Placed(derive(Trim(), (rows, number), trimmed(rows.abstract)))


def first_rows(result):
    """A result of concrete values with every `TrimmedRows` replaced by its first `count` rows.

    The host trims them, since a program that did it would be compiled again for every number of rows.

    Example:

    >>> first_rows({"top": TrimmedRows(jnp.arange(4), jnp.int32(2)), "total": 6})
    {'top': Array([0, 1], dtype=int32), 'total': 6}
    """
    return jax.tree.map(
        lambda x: leading_rows(x.values, max(int(x.count), 0)) if _is_rows(x) else x, result, is_leaf=_is_rows
    )


def _is_rows(value) -> bool:
    return isinstance(value, TrimmedRows)


def leading_rows(values: jax.Array, count: int) -> jax.Array:
    """The first `count` rows of an array, by the host, which waits for it.

    Example:

    >>> leading_rows(jnp.arange(4), 2).tolist()
    [0, 1]
    """
    if count >= len(values):
        return values
    if jnp.issubdtype(values.dtype, jax.dtypes.prng_key):
        return values[:count]
    return jax.device_put(np.asarray(values)[:count], values.sharding)
