"""Abstract values: what a type looks like to a function that is traced at build time."""

import itertools
import re
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_core import _checks, types
from fedjax_core._own_errors import raise_if_own
from fedjax_core.language._client_batches import ClientBatches, batch_dimension
from fedjax_core.language._graph import user_location

# Dimensions of different scopes cannot be compared, so all programs share one. It holds no
# constraints: a symbol is its name and nothing else.
_SCOPE = jax.export.SymbolicScope()


def symbol(name: str):
    """The symbolic dimension called `name`."""
    return jax.export.symbolic_shape(name, scope=_SCOPE)[0]


_TRIMMED = symbol("trimmed")


def trimmed(abstract: Any) -> Any:
    """The abstract value of rows that a call will trim to the first few."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((_TRIMMED, *a.shape[1:]), a.dtype), abstract)


def is_trimmed(abstract: Any) -> bool:
    """Whether an abstract value contains trimmed rows."""
    return any(a.shape[:1] == (_TRIMMED,) for a in jax.tree.leaves(abstract))


def abstract_of(type_: types.Type, prefix: str) -> Any:
    """The abstract value of a member type.

    Every `?` becomes a symbolic dimension: one symbol, `b`, for the batch dimension of all
    sequence elements, a fresh one elsewhere.

    Args:
      type_: a type of tensors, structs and sequences.
      prefix: the start of the fresh dimensions' names; it must be unique within a computation.

    Returns:
      The type's pytree of `jax.ShapeDtypeStruct` and abstract `ClientBatches`.

    Example:

    >>> abstract_of(types.parse_type("<x=float32[?,3],y=float32[?]>"), "data")
    {'x': ShapeDtypeStruct(shape=(data0, 3), dtype=float32), 'y': ShapeDtypeStruct(shape=(data1,), dtype=float32)}
    """
    prefix = re.sub(r"\W", "_", prefix)
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
            f"{tensor} has an unknown rank, and a program needs to know it; write its dimensions, "
            f"for example {types.TensorType(tensor.dtype, (None,))}"
        )
    return tensor.shape


def _tensor(tensor, shape):
    if jnp.issubdtype(tensor.dtype, jnp.number) and jax.dtypes.canonicalize_dtype(tensor.dtype) != tensor.dtype:
        narrow = types.TensorType(jax.dtypes.canonicalize_dtype(tensor.dtype), tensor.shape)
        raise TypeError(
            f"{tensor} needs 64-bit numbers, which JAX supports only after jax.config.update('jax_enable_x64', True); "
            f"declare {narrow}"
        )
    return jax.ShapeDtypeStruct(tuple(shape), tensor.dtype)


def _sequence(element: types.Type, fresh) -> ClientBatches:
    batch = batch_dimension(element)
    size = 1 if batch == () else symbol("b") if batch[0] is None else batch[0]
    rows, steps = symbol("rows"), symbol("steps")

    def leaf(tensor):
        shape = _shape(tensor)[len(batch) :]
        return _tensor(tensor, (rows, *(symbol(next(fresh)) if d is None else d for d in shape)))

    scalar = cast(jax.Array, jax.ShapeDtypeStruct((), jnp.int32))  # stands for an array
    return ClientBatches(
        examples=jax.tree.map(leaf, types.tree_of_types(element)),
        index=cast(jax.Array, jax.ShapeDtypeStruct((steps, size), jnp.int32)),
        first=scalar,
        common=scalar,
        bound=scalar,
        num_batches=scalar,
        element=element,
    )


def infer(fn, inputs: tuple, described: str) -> Any:
    """The abstract result of `fn` applied to abstract `inputs`, as `traced` has it.

    Example:

    >>> rows = abstract_of(types.parse_type("float32[?,4]"), "x")
    >>> infer(lambda rows: rows.sum(axis=1), (rows,), "the sum")
    ShapeDtypeStruct(shape=(x0,), dtype=float32)
    """
    return traced(fn, inputs, described).out_info


def traced(fn, inputs: tuple, described: str) -> jax.stages.Traced:
    """`fn` traced with abstract `inputs`.

    Args:
      fn: a pure JAX function.
      inputs: abstract values.
      described: the operator and the function, for the error message.

    Raises:
      TypeError: `fn` cannot be applied, or returns None. The message has the user's line, the types and the reason;
        if the reason is a dimension `?`, it says to fix the dimension in the type. What the user's own code raises
        keeps its class, with the message as a note.
    """
    try:
        result = jax.jit(lambda *values: strong(fn(*values))).trace(*inputs)
    except Exception as error:
        given = ", ".join(str(types.type_of(i)) for i in inputs)
        message = f"{described} at {user_location()} cannot be applied to ({given}): {_reason(error, fn, inputs)}"
        raise_if_own(error, message)
        raise TypeError(message) from error
    _checks.check_returned(f"{described} at {user_location()}", result.out_info)
    return result


def strong(tree: Any) -> Any:
    """Converts the leaves of a pytree to arrays with strong dtypes; Python numbers would have weak ones.

    A type does not record weakness, so no node's value may be weak: the dtypes at run time would
    differ from the inferred ones, and equal types would be compiled twice.

    Example:

    >>> jnp.asarray(0.5).weak_type, strong(0.5).weak_type
    (True, False)
    """

    def leaf(x):
        x = jnp.asarray(x)
        return lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x

    return jax.tree.map(leaf, tree)


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


def _reason(error: Exception, fn, inputs: tuple) -> str:
    # JAX raises several types of error where it needs a known dimension, so only the text identifies the cause.
    text = f"{type(error).__name__}: {error}".strip()
    if any(mark in text for mark in ("a placed value", "__jax_array__", "_placed.Placed")):
        return "it uses a placed value that is not among its arguments; pass that one too"
    if "sorting pytree dictionary keys" in text:
        return "the keys of a dict that it returns must be either all strings or all integers"
    if any(mark in text or mark in repr(error.__cause__) for mark in _SYMBOLIC) or _works_when_fixed(fn, inputs):
        return (
            "it needs to know a dimension that the type leaves open (`?`). Fix the dimension in the type, "
            f"for example float32[20,784] in place of float32[?,784]. ({text})"
        )
    return text


def _works_when_fixed(fn, inputs: tuple) -> bool:
    """Whether `fn` takes the inputs once every open dimension has some size."""

    # 240 is divisible by most small numbers, so a reshape to rows of 20, say, does not fail because of the size tried.
    def fixed(x):
        return jax.ShapeDtypeStruct(tuple(d if isinstance(d, int) else 240 for d in x.shape), x.dtype)

    concrete = jax.tree.map(fixed, inputs)
    if jax.tree.leaves(concrete) == jax.tree.leaves(inputs):
        return False
    try:
        jax.eval_shape(fn, *concrete)
    except Exception:
        return False
    return True
