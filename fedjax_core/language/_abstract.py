"""Abstract values: what a type looks like to a function that is traced at build time."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.language._graph import user_location
from fedjax_core.language._sequence import Sequence, batch_dimension

# Dimensions of different scopes cannot be compared, so all programs share one. It holds no
# constraints: a symbol is its name and nothing else.
_SCOPE = jax.export.SymbolicScope()


def symbol(name: str):
    """The symbolic dimension called `name`."""
    return jax.export.symbolic_shape(name, scope=_SCOPE)[0]


def abstract_of(type_: types.Type, prefix: str) -> Any:
    """The abstract value of a member type.

    Every `?` becomes a symbolic dimension: one symbol, `b`, for the batch dimension of all
    sequence elements, a fresh one elsewhere.

    Args:
      type_: a type of tensors, structs and sequences.
      prefix: begins the names of the fresh dimensions; distinct within a computation.

    Returns:
      The type's pytree of `jax.ShapeDtypeStruct` and abstract `Sequence`.
    """
    fresh = (f"{prefix}{i}" for i in itertools.count())
    return _abstract(type_, fresh)


def _abstract(type_, fresh):
    match type_:
        case types.TensorType():
            return _tensor(type_, [symbol(next(fresh)) if d is None else d for d in _shape(type_)])
        case types.SequenceType():
            return _sequence(type_.element, fresh)
        case types.StructType():
            return type_.pack([_abstract(child, fresh) for child in type_.children])
        case _:
            raise TypeError(f"expected a type of tensors, structs and sequences, got {type_}")


def _shape(tensor: types.TensorType) -> tuple:
    if tensor.shape is None:
        raise TypeError(
            f"{tensor} has no known rank and a program needs one; write its dimensions, "
            f"for example {types.TensorType(tensor.dtype, (None,))}"
        )
    return tensor.shape


def _tensor(tensor, shape):
    return jax.ShapeDtypeStruct(tuple(shape), tensor.dtype)


def _sequence(element: types.Type, fresh) -> Sequence:
    batch = batch_dimension(element)
    size = 1 if batch == () else symbol("b") if batch[0] is None else batch[0]
    rows, steps = symbol("rows"), symbol("steps")

    def leaf(tensor):
        shape = _shape(tensor)[len(batch) :]
        return _tensor(tensor, (rows, *(symbol(next(fresh)) if d is None else d for d in shape)))

    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    return Sequence(
        examples=jax.tree.map(leaf, types.tree_of_types(element)),
        index=jax.ShapeDtypeStruct((steps, size), jnp.int32),
        first=scalar,
        common=scalar,
        bound=scalar,
        num_batches=scalar,
        element=element,
    )


def abstract_batch(element: types.Type) -> tuple:
    """The abstract `(batch, mask)` that a client function sees of a sequence of `element`."""
    return jax.eval_shape(lambda sequence: sequence._batch(0), _sequence(element, map("batch{}".format, itertools.count())))


def infer(fn, inputs: tuple, described: str) -> Any:
    """The abstract result of `fn` applied to abstract `inputs`.

    Args:
      fn: a pure JAX function.
      inputs: abstract values.
      described: the operator and the function, for the error message.

    Raises:
      TypeError: `fn` cannot be applied, with the user's line, the types and the reason; where the
        reason is a dimension `?`, the message says to fix it in the type.
    """
    try:
        return jax.eval_shape(fn, *inputs)
    except Exception as error:
        given = ", ".join(str(types.type_of(i)) for i in inputs)
        raise TypeError(
            f"{described} at {user_location()} cannot be applied to ({given}): {_reason(error)}"
        ) from error


_SYMBOLIC = (
    "InconclusiveDimensionOperation",
    "symbolic dimension",
    "Symbolic dimension",
    "_DimExpr",
    "data-dependent",
    "Shapes must be 1D sequences of concrete values",
    "polymorphic shape",
    "not constant",
)


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    if any(mark in text for mark in _SYMBOLIC) or any(mark in repr(error.__cause__) for mark in _SYMBOLIC):
        return (
            "it needs to know a dimension that the type leaves open (`?`). Fix the dimension in the type, "
            f"for example float32[20,784] in place of float32[?,784]. ({text})"
        )
    return text
