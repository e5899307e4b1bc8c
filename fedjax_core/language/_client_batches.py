"""`ClientBatches`: the batches of one client, as a client function sees them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_core import trees, types


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClientBatches:
    """The batches of one client, in order.

    Made by the engine and handed to client functions; its batches exist one at a time, gathered
    from a flat buffer of examples. Axis letters: `R` rows of the buffer, `T` steps of the index,
    `B` examples of a batch.

    Attributes:
      examples: pytree of `[R, ...]`; row 0 is all zeros and stands for "no example".
      index: int32 `[T, B]`, rows of `examples`; 0 is padding.
      first: int32, this client's first step in `index`.
      common: int32, steps that all clients which run together take.
      bound: int32, steps that the longest of them takes.
      num_batches: int32, the steps of this client, `common <= num_batches <= bound`.
      element: the type of a stored batch.
      transforms: functions applied to every batch (see `map`).
      guarded: whether clients which run together may differ in their number of steps.
      trip_count: the static number of steps where the program must be differentiable, or None.
      repeats: whether padding repeats the batch's first example and is not zeros (see `filled`).
    """

    examples: Any
    index: jax.Array | np.ndarray
    first: jax.Array | np.int32
    common: jax.Array | np.int32
    bound: jax.Array | np.int32
    num_batches: jax.Array | np.ndarray
    element: types.Type = dataclasses.field(metadata={"static": True})
    transforms: tuple[Callable, ...] = dataclasses.field(default=(), metadata={"static": True})
    guarded: bool = dataclasses.field(default=True, metadata={"static": True})
    trip_count: int | None = dataclasses.field(default=None, metadata={"static": True})
    repeats: bool = dataclasses.field(default=False, metadata={"static": True})

    def reduce(self, initial, step: Callable):
        """Folds `step` over this client's batches.

        As many steps as THIS client has batches: a client without any returns `initial`.

        Args:
          initial: the carry before the first batch, a pytree of arrays; a Python number takes the
            dtype that `step` makes of it.
          step: `(carry, batch, mask) -> carry`, the carry's shapes and dtypes unchanged; `batch`
            has leaves `[B, ...]` and `mask` is bool `[B]`, False on padding (a scalar where an
            element has no leading batch dimension).

        Returns:
          The last carry.

        Raises:
          TypeError: `step` changes the structure, a shape or a dtype of the carry.
        """
        initial = jax.tree.map(jnp.asarray, initial)
        step = _checked(step)
        if self.trip_count is not None:
            return self._scan(initial, step)

        def plain(t, carry):
            return step(carry, *self._batch(t))

        def guarded(t, carry):
            # The mask is not enough: momentum and weight decay move the weights on gradients of zero, too.
            return trees.where(t < self.num_batches, plain(t, carry), carry)

        # Both bounds are those of the block. If each lane had its own, `vmap` would batch it and select over the whole
        # carry at every step, in the steps that all lanes take as well.
        carry = lax.fori_loop(0, self.common, plain, initial)
        return lax.fori_loop(self.common, self.bound, guarded, carry) if self.guarded else carry

    def _scan(self, initial, step):
        """The same with a static trip count, so that it can be differentiated.

        A step beyond the client's last looks at the last batch again, whole, and is discarded:
        what is thrown away must be finite for its gradient to be.
        """
        last = jnp.maximum(self.num_batches - 1, 0)

        def guarded(carry, t):
            batch, mask = self._batch(jnp.minimum(t, last))
            # Where nobody has an example the mask would be all False and a mean over it 0 / 0, and `where` keeps no NaN
            # of the branch that it does not take out of the gradient.
            mask = mask | (self.num_batches == 0)
            return trees.where(t < self.num_batches, step(carry, batch, mask), carry), None

        return lax.scan(guarded, initial, jnp.arange(self.trip_count, dtype=jnp.int32))[0]

    def map(self, fn: Callable) -> "ClientBatches":
        """A sequence of the batches `fn(batch)`; the masks stay as they are."""
        return dataclasses.replace(self, transforms=(*self.transforms, fn))

    def filled(self) -> "ClientBatches":
        """The same batches with their first example in place of zeros where they are padded; the masks stay.

        What a model makes of zeros may be NaN, and `jnp.where` stops no NaN in the gradient of what it does
        not take, so a gradient is best taken of filled batches. Only a batch without any example has zeros.

        Example:

        >>> import jax.numpy as jnp, fedjax_core as fc
        >>> def inverses(data):
        ...     return data.filled().reduce(0.0, lambda c, batch, mask: c + jnp.where(mask, 1 / batch["x"], 0).sum())
        >>> program = fc.federated_computation(
        ...     lambda data: fc.federated_sum(fc.federated_map(inverses, data)), fc.at_clients("<x=float32[?]>*")
        ... )
        >>> print(program([[{"x": [1.0, 2.0]}, {"x": [4.0]}]]))
        1.75
        """
        return dataclasses.replace(self, repeats=True)

    def sum(self):
        """The sum of all examples, over all batches and without the padding.

        Where `map` made one number of every batch, the sum of these.

        Returns:
          A pytree like a batch without its leading dimension, in the leaves' dtypes.
        """
        return self._total(lambda batch, mask: jax.tree.map(lambda x: _masked_sum(x, mask), batch))

    @property
    def num_examples(self) -> jax.Array:
        """int32: the examples in all batches; one that occurs in three epochs counts three times."""
        return self._total(lambda batch, mask: jnp.sum(mask, dtype=jnp.int32))

    def _total(self, measure: Callable):
        """The sum over the batches of `measure(batch, mask)`."""
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: measure(*self._batch(0))))
        return self.reduce(zero, lambda total, batch, mask: jax.tree.map(jnp.add, total, measure(batch, mask)))

    def _batch(self, t):
        rows = lax.dynamic_index_in_dim(self.index, self.first + t, keepdims=False)
        if not is_batched(self.element):
            rows = rows[0]
        mask = rows > 0
        if self.repeats and rows.ndim:
            rows = jnp.where(mask, rows, rows[0])
        # The host has made the index: the check of bounds that is the default would only cost time.
        batch = jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), self.examples)
        for transform in self.transforms:
            batch = transform(batch)
        return batch, mask

    @property
    def fedjax_type(self) -> types.SequenceType:
        """The type of this value."""
        if not self.transforms:
            return types.SequenceType(self.element)
        return types.SequenceType(types.type_of(jax.eval_shape(lambda s: s._batch(0)[0], self)))


def _checked(step: Callable) -> Callable:
    """`step`, refused with a message of our own where it changes the type of the carry."""

    def checked(carry, batch, mask):
        new = step(carry, batch, mask)
        before, after = types.type_of(carry), types.type_of(new)
        weak = any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(carry))
        same_structure = jax.tree.structure(carry) == jax.tree.structure(new)
        if not same_structure or (before != after and not weak):
            raise TypeError(
                f"the step of ClientBatches.reduce must return a carry of the type of the initial one, {before}, got "
                f"{after}" + ("" if before != after else " in another container") + "; convert its result, or start "
                "from an initial value of that type"
            )
        return new

    return checked


def is_batched(element: types.Type) -> bool:
    """Whether a sequence's element is a batch: all its leaves have the same leading dimension."""
    return batch_dimension(element) != ()


def batch_dimension(element: types.Type) -> tuple:
    """`(None,)` for batches of any size, `(B,)` for batches of a fixed one, else `()`."""
    shapes = [types.of_kind(leaf, types.TensorType).shape for _, leaf in types.type_leaves(element)]
    leading = {shape[:1] if shape else () for shape in shapes}
    return leading.pop() if len(leading) == 1 else ()


def _masked_sum(x, mask):
    if jnp.ndim(x) == 0:
        return jnp.asarray(x)
    mask = jnp.expand_dims(mask, tuple(range(mask.ndim, x.ndim)))
    # A choice, not a product: padding passes through the functions of `map`, which may make NaN of its zeros.
    return jnp.sum(jnp.where(mask, x, jnp.zeros((), x.dtype)), axis=tuple(range(mask.ndim > 0)), dtype=x.dtype)
