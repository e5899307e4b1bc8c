"""The integers that a program expects in the fields of its clients' data."""

from typing import NamedTuple

from fedjax_core.language._graph import Map
from fedjax_core.language._placed import Placed, derive, node_of


class IntegerRange(NamedTuple):
    """The integers that a field of a batch may hold.

    Attributes:
      field: the path of the field, such as "y".
      least, greatest: the ends of the range, both included.
      also: one more integer that it may hold, such as the padding of a sequence; None for no other.
      what: what the range is, for error messages.
    """

    field: str
    least: int
    greatest: int
    also: int | None = None
    what: str = "the classes of the model"


def in_ranges(data: Placed, ranges: tuple[IntegerRange, ...]) -> Placed:
    """The same data of clients; the engine checks the ranges where it reads examples, and no program contains a check.

    Only data that are an argument of the computation as they are, a sequence, can be checked.

    Example:

    >>> import numpy as np, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("<y=int32[?]>*"))
    ... def count(data):
    ...     data = in_ranges(data, (IntegerRange("y", 0, 9),))
    ...     return fc.federated_sum(fc.federated_map(lambda data: data.num_examples, data))
    >>> count({"ada": {"y": np.array([3, 10], np.int32)}})
    Traceback (most recent call last):
    ValueError: client 'ada' has 10 in field 'y', which must be from 0 to 9, the classes of the model; ...
    """
    if not ranges:
        return data
    node = node_of(data)
    return Placed(derive(Map(lambda value: value, structural=True, ranges=ranges), (node,), node.abstract))
