"""A round whose clients' batches have other padding than the engine gives them."""

import dataclasses
from typing import Any

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.computations import Computation, federated_computation
from fedjax_core.data import FederatedData
from fedjax_core.language import ClientBatches, federated_broadcast, federated_map
from fedjax_core.language.graph import batch_dimension


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Padded(ClientBatches):
    """Batches whose padding is the first row of the buffer, whether or not they are filled."""

    def filled(self) -> ClientBatches:
        return self


def with_padding(next: Computation, data: FederatedData) -> Computation:
    """A round of clients of `data`, whose batches have twice as many rows, all those beyond the examples being padding.

    Batches whose size is fixed in the type keep it.

    Args:
      next: the `next` of a learning process.
      data: the clients' data.

    Returns:
      A `Computation` `(state, data, row) -> the result of next`, in which every row of padding is `row`, an example
      without the leading dimension.
    """
    state, clients = (type_ for _, type_ in next.parameters)
    element = types.of_kind(types.member_of(clients), types.SequenceType).element
    concrete = _with_shapes(element, data)
    row = jax.tree.map(lambda t: types.TensorType(t.dtype, t.shape[1:]), types.tree_of_types(concrete))
    widen = batch_dimension(element) == (None,)

    def padded(batches: ClientBatches, row: Any) -> ClientBatches:
        fields = {field.name: getattr(batches, field.name) for field in dataclasses.fields(batches)}
        fields["examples"] = jax.tree.map(lambda x, r: x.at[0].set(r), batches.examples, row)
        if widen:
            fields["declared_size"] = 2 * batches.index.shape[-1]
        return _Padded(**fields)

    def with_row(state, data, row):
        return next(state, federated_map(padded, data, federated_broadcast(row)))

    sequence = types.at_clients(types.SequenceType(concrete))
    return federated_computation(with_row, state, sequence, types.at_server(types.type_of(row)))


def _with_shapes(element: types.Type, data: FederatedData) -> types.Type:
    """The type of a batch, in the containers of `element` and with the shapes of the data's examples."""

    def leaf(declared: types.TensorType, array: np.ndarray) -> types.TensorType:
        return types.TensorType(declared.dtype, ((declared.shape or (None,))[0], *array.shape[1:]))

    examples = types.matched(element, data[data.client_ids[0]])
    return types.type_of(jax.tree.map(leaf, types.tree_of_types(element), examples))


def extreme_rows(data: FederatedData) -> tuple[Any, Any]:
    """The least and the greatest value of every entry of an example, each as an example.

    Both are values that the clients' functions must expect, so that a loss, and the gradient of a loss that a mask
    leaves out, are as finite as those of an example. NaN would not do: `jnp.where` keeps it in such a gradient.
    """
    examples = jax.tree.map(lambda *columns: np.concatenate(columns), *data.values())
    # `fmin` and `fmax` ignore the NaN of missing values.
    return tuple(jax.tree.map(lambda x, f=f: f.reduce(x, axis=0), examples) for f in (np.fmin, np.fmax))
