"""The operator that reads the side information of each client."""

from typing import Any

from fedjax_core import types
from fedjax_core.language._abstract import abstract_of
from fedjax_core.language._graph import ClientValue, Node, user_location
from fedjax_core.language._placed import Placed
from fedjax_core.types import CLIENTS


def federated_client_value(name: str, type: Any) -> Placed:
    """Side information of each client, such as a delay, a speed, a group or a budget.

    The values come in with the cohort, `data.cohort(ids, batching, extra={name: values})`, so the type of the
    computation does not mention them. Each call checks that its cohort has them and that they have this type.

    Args:
      name: the name of the value in the cohort's `extra`.
      type: the type of one client's value, a tensor of fixed dimensions such as `"int32"` or `"float32[3]"`.

    Returns:
      The value at CLIENTS.

    Raises:
      TypeError: `name` is not a string, or `type` is not a tensor of fixed dimensions. A call raises it unless its
        cohort has a value of this name and type.

    Example:

    >>> import numpy as np, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("<x=float32[?]>*"))
    ... def mean_delay(data):
    ...     weight = fc.federated_map(lambda data: data.num_examples.astype("float32"), data)
    ...     return fc.federated_mean(fc.federated_client_value("delay", "float32"), weight)
    >>> data = fc.data.from_clients({"ada": {"x": np.ones(3)}, "bob": {"x": np.ones(1)}})
    >>> print(mean_delay(data.cohort(["bob", "ada"], fc.data.Batching(2), extra={"delay": [8.0, 4.0]})))
    5.0
    """
    if not isinstance(name, str):
        raise TypeError(
            f"federated_client_value takes the name of a value as its first argument, got {name!r} at "
            f"{user_location()}; write fc.federated_client_value('delay', 'int32')"
        )
    member = types.to_type(type)
    if not isinstance(member, types.TensorType) or member.shape is None or None in member.shape:
        raise TypeError(
            f"federated_client_value({name!r}, ...) must be a tensor of fixed dimensions, got {member} at "
            f"{user_location()}; write fc.federated_client_value({name!r}, 'float32[3]'), and give each field of a "
            "struct a name of its own"
        )
    return Placed(Node(ClientValue(name), (), abstract_of(member, name), CLIENTS, False, user_location()))
