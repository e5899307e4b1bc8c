"""Arithmetic, norms and casts on pytrees of arrays, sums of very many of them, and one key for each leaf.

JAX can trace all functions. A leaf is an array or a number; where a function says so, it may also be
a typed JAX key. Where a function takes two trees, they must have the same structure and leaves of the
same shapes.
"""

from fedjax_core._signposts import signpost
from fedjax_core.trees._arithmetic import (
    add,
    any_positive,
    cast,
    clip_by_norm,
    divide,
    is_finite,
    norm,
    scale,
    squared_norm,
    subtract,
    where,
    widen,
    zeros_like,
)
from fedjax_core.trees._compensated import CompensatedSum, compensated_add, compensated_merge, compensated_zero
from fedjax_core.trees._joining import are_many, is_small
from fedjax_core.trees._structure import (
    distinct_size,
    expand,
    match,
    num_bytes,
    part,
    path_entry,
    size,
    split_key,
    with_part,
)

__all__ = [
    "CompensatedSum",
    "add",
    "any_positive",
    "are_many",
    "cast",
    "clip_by_norm",
    "compensated_add",
    "compensated_merge",
    "compensated_zero",
    "distinct_size",
    "divide",
    "expand",
    "is_finite",
    "is_small",
    "match",
    "norm",
    "num_bytes",
    "part",
    "path_entry",
    "scale",
    "size",
    "split_key",
    "squared_norm",
    "subtract",
    "where",
    "widen",
    "with_part",
    "zeros_like",
]

signpost(__name__)
