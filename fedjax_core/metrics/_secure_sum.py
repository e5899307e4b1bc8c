"""Sums of statistics as secure aggregation computes them: over bounded integers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_core import types
from fedjax_core.language import (
    Placed,
    federated_map,
    federated_secure_sum,
    federated_secure_sum_bitwidth,
    federated_zip,
    sums,
)
from fedjax_core.metrics._arguments import check_names, is_pair

_LARGEST = 2**20 - 1


def secure_sum(ranges: Mapping[str, Any], statistics: Placed, num_non_finite: Placed) -> tuple[Placed, Placed]:
    """The sum of the clients' statistics, each clipped to a range and written as an integer.

    A number is clipped and, if it is floating point, rounded to a multiple of a step, a power of two: the
    smallest for which the range has fewer than 2**32 steps. Its offset from the lower end of the range is then
    a 32-bit integer, whose four digits of eight bits are summed separately. No sum thus overflows with
    fewer than 2**23 clients, and the total that the server assembles is exact up to one rounding to the dtype.

    Args:
      ranges: see `secure_sum_then_finalize`.
      statistics: a dict by metric name at CLIENTS, all finite.
      num_non_finite: int32 at CLIENTS, 1 if the client was left out, otherwise 0.

    Returns:
      The sum, like the statistics but with `sums.Words` for integers, and the measurements, both at SERVER.

    Raises:
      TypeError, ValueError: a range does not fit the statistics.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients({"loss": "float32"}))
    ... def total(statistics):
    ...     left_out = fc.federated_map(lambda s: 0, statistics)
    ...     return fc.federated_zip(secure_sum({"loss": (0.0, 10.0)}, statistics, left_out))
    >>> result, measurements = total([{"loss": 1.25}, {"loss": 99.0}])
    >>> print(result["loss"], measurements["num_clipped"]["loss"])
    11.25 1
    """
    tensors = types.tree_of_types(types.member_of(statistics.fedjax_type))
    check_names("secure_sum_then_finalize(ranges=...)", ranges, tensors)
    grids = {name: _grids(name, ranges.get(name), tensors[name]) for name in tensors}

    def encode(statistics, num_non_finite):
        digits = jax.tree.map(lambda grid, x: sums.digits(_offset(grid, x)), grids, statistics)
        clipped = {name: _is_clipped(grids[name], statistics[name]) for name in grids}
        return digits, {"num_clients": 1, "num_clipped": clipped, "num_non_finite": num_non_finite}

    def decode(digits, num_clients):
        return jax.tree.map(lambda grid, x: _decode(grid, x, num_clients), grids, digits)

    digits, counts = federated_map(encode, statistics, num_non_finite)
    counts = federated_secure_sum(counts, 1)
    total = federated_map(decode, federated_secure_sum_bitwidth(digits, 8), counts["num_clients"])
    return total, federated_zip({name: counts[name] for name in ("num_clipped", "num_non_finite")})


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The encoding of the numbers in a range as integers.

    Attributes:
      dtype: the dtype of the numbers.
      lower, upper: the ends of the range.
      step: the distance between neighbours; None for integers.
      origin: the offset of zero from `lower`, in steps.
    """

    dtype: Any
    lower: float
    upper: float
    step: float | None
    origin: int


def _grids(name: str, given, tensors):
    """A `_Grid` for every tensor of a metric's statistic."""
    what = f"secure_sum_then_finalize(ranges={{{name!r}: ...}})"
    try:
        each = jax.tree.broadcast(given, tensors, is_leaf=lambda range: range is None or is_pair(range))
    except ValueError as error:
        raise TypeError(
            f"{what} must be one range, or ranges in the form of the statistic {types.type_of(tensors)}, got {given!r}"
        ) from error
    return jax.tree.map(lambda tensor, range: _grid(what, tensor, range), tensors, each)


def _grid(what: str, tensor: types.TensorType, given) -> _Grid:
    dtype = jnp.dtype(tensor.dtype)
    is_integer = jnp.issubdtype(dtype, jnp.integer)
    if not (is_integer or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"{what}: statistics are summed as integers or floating point numbers, got {tensor}")
    largest = min(_LARGEST, jnp.iinfo(dtype).max) if is_integer else _LARGEST
    lower, upper = _checked(what, tensor, (0 if is_integer else -_LARGEST, largest) if given is None else given)
    if is_integer:
        return _Grid(dtype, lower, upper, None, -lower)
    step = math.ldexp(1.0, math.frexp(max(-lower, upper))[1] - 31)
    return _Grid(dtype, lower, upper, step, -round(lower / step))


def _checked(what: str, tensor: types.TensorType, given) -> tuple:
    """The ends of a range as Python numbers that float32, or the integer dtype, can represent."""
    if not is_pair(given):
        raise TypeError(f"{what} must be two numbers such as (0, 1000), or None for the default, got {given!r}")
    if not all(map(math.isfinite, given)) or not given[0] <= 0 <= given[1] or given[0] == given[1]:
        raise ValueError(
            f"{what} must be finite and contain zero, the statistic of a client without examples, got {given!r}; write "
            "(min(0, lower), max(0, upper))"
        )
    if not jnp.issubdtype(tensor.dtype, jnp.integer):
        if not 1e-25 < max(-given[0], given[1]) < 1e38:
            raise ValueError(f"{what} must have its larger end between 1e-25 and 1e38, for float32, got {given!r}")
        return tuple(float(np.float32(end)) for end in given)
    lower, upper = map(int, given)
    info = jnp.iinfo(tensor.dtype)
    if (lower, upper) != tuple(given) or lower < info.min or upper > info.max or upper - lower >= 2**32:
        raise ValueError(f"{what} must be two integers of {tensor} less than 2**32 apart, got {given!r}")
    return lower, upper


def _is_clipped(grids, statistic):
    """1 if a number of a metric's statistic is outside its range, otherwise 0."""
    outside = jax.tree.map(lambda grid, x: jnp.any(_clipped(grid, x) != x), grids, statistic)
    return jnp.any(jnp.array(jax.tree.leaves(outside), bool)).astype(jnp.int32)


def _clipped(grid: _Grid, x):
    """The numbers clipped to the range, in float32 unless they are integers."""
    x = x if grid.step is None else x.astype(jnp.float32)
    return jnp.clip(x, jnp.array(grid.lower, x.dtype), jnp.array(grid.upper, x.dtype))


def _offset(grid: _Grid, x):
    """The clipped numbers as uint32 offsets from the lower end, in steps."""
    steps = _clipped(grid, x)
    if grid.step is not None:
        steps = jnp.round(steps / grid.step).astype(jnp.int32)
    return steps.astype(jnp.uint32) + jnp.uint32(grid.origin)


def _decode(grid: _Grid, digits, num_clients):
    """The sum of the clients' numbers from the sums of their digits; `Words` for integers."""
    origin = sums.digits(jnp.full(digits.shape[:-1], grid.origin, jnp.uint32))
    places = lax.bitcast_convert_type(digits - num_clients.astype(jnp.uint32) * origin, jnp.int32)
    if grid.dtype.itemsize == 8 and grid.step is None:
        places = places.astype(jnp.int64)
    total = sums.from_digits(places)
    return total if grid.step is None else (sums.as_float(total) * grid.step).astype(grid.dtype)
