"""`ClientBatches`: the data of one client, as a client function receives it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_core import trees, types
from fedjax_core.language._mapped import transformed, warn_of_padding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClientBatches:
    """The batches of one client, in order.

    The engine makes it and passes it to client functions. Only one batch exists at a time, gathered
    from a flat buffer of examples. Axis letters: `R` rows of the buffer, `T` steps of the index,
    `B` examples of a batch.

    Attributes:
      examples: pytree of `[R, ...]`; row 0 is all zeros and stands for "no example".
      index: int32 `[T, B]`, rows of `examples`; 0 is padding.
      first: int32, this client's first step in `index`.
      common: int32, the number of steps that all clients in the same block take.
      bound: int32, the number of steps of the longest client in the block.
      num_batches: int32, the number of steps of this client, `common <= num_batches <= bound`.
      element: the type of a stored batch.
      transforms: functions applied to every batch (see `map`).
      guarded: whether clients in the same block may differ in their number of steps.
      trip_count: the static number of steps if the program must be differentiable, else None.
      repeats: whether padding repeats the batch's first example instead of being zeros (see `filled`).
      declared_size: the number of examples of a batch in the declared type, to which shorter rows of the index are
        padded; None if the type leaves it open.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("<x=float32[?]>*"))
    ... def examples_and_batches(data):
    ...     return fc.federated_sum(fc.federated_map(lambda data: (data.num_examples, data.num_batches), data))
    >>> ada, bob = [{"x": [1.0, 2.0]}, {"x": [3.0]}], [{"x": [4.0]}]
    >>> [int(total) for total in examples_and_batches([ada, bob])]
    [4, 3]
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
    declared_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    def reduce(self, initial, step: Callable):
        """Folds `step` over this client's batches.

        It takes exactly as many steps as THIS client has batches; without any batch it returns `initial`.

        Args:
          initial: the carry before the first batch, a pytree of arrays; a Python number takes the
            dtype that `step` gives it.
          step: `(carry, batch, mask) -> carry`, which keeps the carry's shapes and dtypes. The leaves of
            `batch` are `[B, ...]`, and `mask` is bool `[B]`, False on padding (a scalar if the
            elements have no leading batch dimension).

        Returns:
          The last carry.

        Raises:
          TypeError: `step` changes the structure, a shape or a dtype of the carry.

        Example: the mask keeps padding, which is zeros, out of a maximum of negative numbers.

        >>> import jax.numpy as jnp, fedjax_core as fc
        >>> def largest(data):
        ...     def step(carry, batch, mask):
        ...         return jnp.maximum(carry, jnp.where(mask, batch["x"], -jnp.inf).max())
        ...     return data.reduce(-jnp.inf, step)
        >>> @fc.federated_computation(fc.at_clients("<x=float32[?]>*"))
        ... def largest_of_all(data):
        ...     return fc.federated_max(fc.federated_map(largest, data))
        >>> print(largest_of_all([[{"x": [-3.0, -2.0]}, {"x": [-5.0]}]]))
        -2.0
        """
        initial = jax.tree.map(jnp.asarray, initial)
        step = _checked(step)
        if self.trip_count is not None:
            return self._scan(initial, step)

        def plain(t, carry):
            return step(carry, *self._batch(t))

        def guarded(t, carry):
            # A mask alone is not enough: momentum and weight decay move the weights even where the gradient is zero.
            return trees.where(t < self.num_batches, plain(t, carry), carry)

        # Both bounds are those of the block. If each lane had its own, `vmap` would batch them and select over the
        # whole carry at every step, even in the steps that all lanes take.
        carry = lax.fori_loop(0, self.common, plain, initial)
        return lax.fori_loop(self.common, self.bound, guarded, carry) if self.guarded else carry

    def _scan(self, initial, step):
        """Does the same with a static trip count, so that it can be differentiated.

        A step beyond the client's last batch computes on the last batch again and its result is discarded:
        the gradient is finite only if the discarded result is, too.
        """
        last = jnp.maximum(self.num_batches - 1, 0)

        def guarded(carry, t):
            batch, mask = self._batch(jnp.minimum(t, last))
            # For a client without batches the mask would be all False and a mean over it 0 / 0, and `where` does not
            # keep a NaN of the branch that it does not take out of the gradient.
            mask = mask | (self.num_batches == 0)
            return trees.where(t < self.num_batches, step(carry, batch, mask), carry), None

        return lax.scan(guarded, initial, jnp.arange(self.trip_count, dtype=jnp.int32))[0]

    def map(self, fn: Callable) -> "ClientBatches":
        """The same client with `fn` applied to every batch; the masks stay as they are.

        Padding passes through `fn`, too; `reduce` still masks it, and `sum` leaves it out. A function that combines the
        rows of a batch gets the mask, bool `[B]`, if it has a parameter `mask`. If padding changes what it makes of the
        examples, a UserWarning says so.

        Args:
          fn: `batch -> batch` or `(batch, mask) -> batch`; the result has one row for each row of the batch, or is one
            number.

        Example:

        >>> import fedjax_core as fc
        >>> @fc.federated_computation(fc.at_clients("<x=float32[?]>*"))
        ... def num_large(data):
        ...     large = lambda batch: (batch["x"] > 2).astype("int32")
        ...     return fc.federated_map(lambda data: data.map(large).sum(), data)
        >>> str(num_large.type_signature.result)
        '{int32}@CLIENTS'
        """
        return dataclasses.replace(self, transforms=(*self.transforms, fn))._told()

    def _told(self) -> "ClientBatches":
        """These batches, after a warning if padding changes what `map` makes of the examples."""
        if self.transforms and batch_dimension(self.element) == (None,):
            warn_of_padding(self.transforms, self.element, self.repeats)
        return self

    def filled(self) -> "ClientBatches":
        """The same batches, padded with their first example instead of zeros; the masks stay as they are.

        A model may give NaN for zeros, and `jnp.where` does not keep a NaN of the branch that it does not take
        out of the gradient, so it is safest to differentiate on filled batches. Only a batch without any
        example remains zeros.

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
        return dataclasses.replace(self, repeats=True)._told()

    def sum(self):
        """The sum of all examples, over all batches and without the padding.

        If `map` has turned every batch into one number, it is the sum of these numbers.

        Raises:
          TypeError: `map` has turned batches into something that has not one row for each example.

        Returns:
          A pytree like a batch without its leading dimension: floats in the leaves' dtypes, summed in two words as
          `federated_sum` does; integers in at least 32 bits, and the number of booleans that are true in int32.

        Example:

        >>> import fedjax_core as fc
        >>> @fc.federated_computation(fc.at_clients("<x=float32[?,2]>*"))
        ... def totals(data):
        ...     return fc.federated_map(lambda data: data.sum(), data)
        >>> str(totals.type_signature.result)
        '{<x=float32[2]>}@CLIENTS'
        """

        def measure(batch, mask):
            return jax.tree.map(lambda x: _masked_sum(x, mask), batch)

        batch = jax.eval_shape(lambda: self._batch(0)[0])
        return jax.tree.map(lambda x, a: x.astype(_dtype_of_sum(a.dtype)), self._total(measure), batch)

    @property
    def num_examples(self) -> jax.Array:
        """int32: the number of examples in all batches; an example that occurs in three epochs counts three times."""
        return self._total(lambda batch, mask: jnp.sum(mask, dtype=jnp.int32))

    def _total(self, measure: Callable):
        """The sum over the batches of `measure(batch, mask)`."""
        zero = trees.compensated_zero(jax.eval_shape(lambda: measure(*self._batch(0))))
        return self.reduce(zero, lambda total, batch, mask: trees.compensated_add(total, measure(batch, mask))).high

    def _batch(self, t):
        rows = lax.dynamic_index_in_dim(self.index, self.first + t, keepdims=False)
        if not is_batched(self.element):
            rows = rows[0]
        elif self.declared_size is not None:
            rows = jnp.pad(rows, (0, self.declared_size - rows.shape[0]))
        mask = rows > 0
        if self.repeats and rows.ndim:
            rows = jnp.where(mask, rows, rows[0])
        # The host made the index, so the default check of the bounds would only cost time.
        batch = jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), self.examples)
        return transformed(self.transforms, batch, mask), mask

    @property
    def fedjax_type(self) -> types.SequenceType:
        """The type of this value."""
        if not self.transforms:
            return types.SequenceType(self.element)
        return types.SequenceType(types.type_of(jax.eval_shape(lambda s: s._batch(0)[0], self)))


def _checked(step: Callable) -> Callable:
    """`step`, which raises TypeError with a message of our own if it changes the type of the carry."""

    def checked(carry, batch, mask):
        new = step(carry, batch, mask)
        before, after = types.type_of(carry), types.type_of(new)
        weak = any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(carry))
        same_structure = jax.tree.structure(carry) == jax.tree.structure(new)
        if not same_structure or (before != after and not weak):
            raise TypeError(
                f"the step of ClientBatches.reduce must return a carry of the initial carry's type {before}, got "
                f"{after}" + ("" if before != after else " in another container") + "; convert its result, or start "
                "from an initial value of that type"
            )
        return new

    return checked


def is_batched(element: types.Type) -> bool:
    """Whether a sequence's element is a batch: all its leaves have the same leading dimension."""
    return batch_dimension(element) != ()


def batch_dimension(element: types.Type) -> tuple:
    """`(None,)` for batches of any size, `(B,)` for batches of a fixed size, `()` for elements that are not batches.

    Example:

    >>> batch_dimension(types.parse_type("<x=float32[?,3],y=int32[?]>"))
    (None,)
    >>> batch_dimension(types.parse_type("<x=float32[20,3],y=int32>"))
    ()
    """
    shapes = [types.of_kind(leaf, types.TensorType).shape for _, leaf in types.type_leaves(element)]
    leading = {shape[:1] if shape else () for shape in shapes}
    return leading.pop() if len(leading) == 1 else ()


def _dtype_of_sum(dtype):
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else _wide(dtype)


def _wide(dtype):
    """The dtype in which numbers are summed, of at least 32 bits."""
    return trees.compensated_zero(jax.ShapeDtypeStruct((), dtype)).high.dtype


def _masked_sum(x, mask):
    if jnp.ndim(x) == 0:
        return jnp.asarray(x, _wide(jnp.result_type(x)))
    if mask.ndim and x.shape[0] != mask.shape[0]:
        raise TypeError(
            "ClientBatches.sum takes batches with one row for each example, or numbers, got the shape "
            f"{jnp.shape(x)} for {mask.shape[0]} examples; let the function of `map` return such rows, or add up the "
            "batches with `reduce`"
        )
    mask = jnp.expand_dims(mask, tuple(range(mask.ndim, x.ndim)))
    # A selection, not a product: padding passes through the functions of `map`, which may turn its zeros into NaN.
    return jnp.sum(jnp.where(mask, x, jnp.zeros((), x.dtype)), axis=tuple(range(mask.ndim > 0)), dtype=_wide(x.dtype))
