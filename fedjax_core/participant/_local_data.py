"""One participant's examples and their batches."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fedjax_core.data import Batching, FederatedData
from fedjax_core.types import Type, matched, matched_type

_MOST_REPEATED = 2**24  # examples of a pass that repeats them, of which the places are held in memory


class LocalData:
    """The examples that one participant holds.

    Args:
      name: the name of the argument of `TrainingManager`, for error messages.
      data: the examples as a dict of arrays, or the `FederatedData` of one client.
      batch_type: the type of batches that the model takes.

    Raises:
      TypeError: `data` is neither of these, or is not of the model's type.
      ValueError: `data` holds several clients, or its arrays differ in length.

    Example:
      >>> from fedjax_core.types import to_type
      >>> data = LocalData("train_data", {"x": np.arange(3.0)}, to_type({"x": "float32[?]"}))
      >>> for batch, mask in data.batches(Batching(batch_size=2), key=None):
      ...     print(batch["x"], mask)
      [0. 1.] [ True  True]
      [2. 2.] [ True False]
    """

    def __init__(self, name: str, data: Any, batch_type: Type):
        self._name = name
        self._data = data if isinstance(data, FederatedData) else FederatedData.from_clients([data])
        if len(self._data) != 1:
            raise ValueError(
                f"TrainingManager({name}=...) must be one client's data, got {len(self._data)} clients; use "
                "data.subset([client_id]) or data[client_id]"
            )
        self._batch_type = batch_type
        if not batch_type.is_assignable_from(matched_type(batch_type, self._data.element_type)):
            raise TypeError(
                f"TrainingManager({name}=...) holds {self._data.element_type}, but the model takes {batch_type}; "
                "convert the examples: {'x': ..., 'y': ...}"
            )

    def num_batches(self, batching: Batching) -> int:
        """The number of batches of one pass over the examples.

        Raises:
          ValueError: the examples make no batch, or are repeated beyond what memory should hold.
        """
        stream = int(self._data.sizes[0]) * (batching.num_epochs or 1)
        if batching.num_epochs != 1 and stream > _MOST_REPEATED:  # whoever sent the request must not choose the memory
            raise ValueError(
                f"{batching} repeats the {self._data.sizes[0]} examples of TrainingManager({self._name}=...) beyond "
                f"{_MOST_REPEATED}, which are held in memory; leave num_epochs out, and send n_epoch=... in the request"
            )
        number = int(batching.num_steps(self._data.sizes)[0])
        if number == 0:
            raise ValueError(
                f"TrainingManager({self._name}=...) holds {self._data.sizes[0]} examples, from which {batching} makes "
                "no batch; a round needs at least one"
            )
        return number

    def batches(self, batching: Batching, key: jax.Array | None) -> Iterator[tuple[Any, np.ndarray]]:
        """One pass over the examples: the batches that `FederatedData.cohort` makes for this client with this key.

        Args:
          batching: how examples become batches. A batch size above the number of examples is reduced to it.
          key: draws the shuffling; None if `batching` does not shuffle.

        Yields:
          Pairs of a batch, a pytree of `[B, ...]`, and its mask, bool `[B]`. Padding repeats an example of the batch.

        Raises:
          ValueError: `batching` shuffles and there is no key.
        """
        if batching.shuffle and key is None:
            raise ValueError(
                f"{batching} shuffles and needs a key, got none; use TrainingManager(key=jax.random.key(0))"
            )
        if not batching.drop_remainder:
            assert batching.num_epochs is not None
            stream = int(self._data.sizes[0]) * batching.num_epochs
            batching = dataclasses.replace(batching, batch_size=min(batching.batch_size, stream))
        cohort = self._data.cohort(self._data.client_ids, batching, key=key)
        examples = matched(self._batch_type, self._data[self._data.client_ids[0]])
        for rows in cohort.value.batch_rows(np.zeros(1, np.int64)):
            mask = rows >= 0
            rows = np.where(mask, rows, rows[0])
            yield jax.tree.map(lambda array, rows=rows: array[rows], examples), mask
