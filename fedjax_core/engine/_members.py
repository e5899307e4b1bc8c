"""Values that exist once, in the type that an argument declares, for a call and for a trace."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.engine._lists import cohort_of_list
from fedjax_core.engine._packed_cohort import one_sequence
from fedjax_core.engine._values import as_member, conform
from fedjax_core.language import ClientBatches


def concrete_member(value: Any, type_: types.Type, name: str) -> Any:
    """A concrete value in the declared containers and dtypes, with lists of batches as sequences.

    Args:
      value: a pytree of arrays, numbers and lists of batches.
      type_: a type of tensors, structs and sequences.
      name: the name of the argument in error messages.

    Raises:
      TypeError, ValueError: the value has another type.

    Example: a list of batches becomes one sequence.

    >>> data = concrete_member([[1.0, 2.0], [3.0]], types.to_type("float32[?]*"), "data")
    >>> int(data.num_batches), data.examples.tolist()
    (2, [0.0, 1.0, 2.0, 3.0])
    """
    match type_:
        case types.SequenceType() if not isinstance(value, ClientBatches):
            return conform(type_, one_sequence(cohort_of_list([value], type_, f"argument {name!r}")))
        case types.StructType() if type_.contains("sequence"):
            return type_.pack([concrete_member(v, t, name) for t, v in zip(type_.children, type_.unpack(value))])
        case types.SequenceType():
            return value
    return as_member(value, type_, f"argument {name!r}")


def traced_member(value: Any, type_: types.Type, name: str) -> Any:
    """A value that may hold tracers, in the declared containers and dtypes; arguments as in `concrete_member`."""
    if isinstance(type_, types.StructType) and not isinstance(value, ClientBatches):
        children = zip(type_.children, type_.unpack(value))
        return type_.pack([traced_member(child, t, name) for t, child in children])
    if isinstance(type_, types.SequenceType) and not isinstance(value, ClientBatches):
        return concrete_member(value, type_, name)
    if not isinstance(value, ClientBatches | jax.core.Tracer):
        # Outside `jit` a NumPy array would reach the user's function as it is, and a `scan`'s tracer cannot index it.
        value = jax.tree.map(jnp.asarray, concrete_member(value, type_, name))
    found = types.type_of(value)
    if not type_.is_assignable_from(found):
        raise TypeError(f"argument {name!r}: expected {type_}, got {found}")
    return value
