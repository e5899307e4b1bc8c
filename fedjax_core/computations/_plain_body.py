"""The body of a computation without placements: a pure JAX function."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.engine import EngineConfig
from fedjax_core.engine._lists import cohort_of_list
from fedjax_core.engine._traced import one_sequence
from fedjax_core.engine._values import as_member
from fedjax_core.language._client_batches import ClientBatches
from fedjax_core.language._graph import user_location
from fedjax_core.language._placed import Placed, is_placed, map_nodes, node_of


class PlainBody:
    """A pure JAX function without placements."""

    config = EngineConfig()

    def __init__(self, fn: Callable):
        self._fn = fn
        self._jitted = jax.jit(fn)

    def with_config(self, config: EngineConfig) -> "PlainBody":
        return self

    def inline(self, owner, values: list):
        if not values:
            return self._fn()
        nodes = tuple(node_of(value) for value in values if is_placed(value))
        if len(nodes) == len(values) and all(node.placement is None for node in nodes):
            return Placed(map_nodes(owner, nodes, owner.name))
        raise TypeError(
            f"{owner.name} has no placements and got placed values at {user_location()}; write "
            f"fc.federated_map({owner.name}, ...)"
        )

    def trace(self, owner, values: list):
        return self._fn(*(traced_member(v, t, name) for v, (name, t) in zip(values, owner.parameters)))

    function = trace

    def prefetch(self, owner, cohort):
        raise TypeError(f"{owner.name} has no placements and no clients to read the examples of; leave prefetch out")

    def describe(self, names: Mapping[types.Type, str]) -> str:
        return "one function, without placements"

    def run(self, owner, values: list):
        return self._jitted(*(plain_member(v, t, name) for v, (name, t) in zip(values, owner.parameters)))


def traced_member(value, type_: types.Type, name: str):
    """A value that may hold tracers, in the declared containers."""
    if isinstance(value, ClientBatches) or not isinstance(type_, types.StructType | types.SequenceType):
        if not isinstance(value, ClientBatches | jax.core.Tracer):
            value = jax.tree.map(jnp.asarray, plain_member(value, type_, name))
        found = types.type_of(value)
        if not type_.is_assignable_from(found):
            raise TypeError(f"argument {name!r}: expected {type_}, got {found}")
        return value
    if isinstance(type_, types.SequenceType):
        return plain_member(value, type_, name)
    children = zip(type_.children, type_.unpack(value))
    return type_.pack([traced_member(child, t, name) for t, child in children])


def plain_member(value, type_: types.Type, name: str):
    """A concrete value, with lists of batches as sequences."""
    match type_:
        case types.SequenceType() if not isinstance(value, ClientBatches):
            return one_sequence(cohort_of_list([value], type_, f"argument {name!r}"))
        case types.StructType() if type_.contains("sequence"):
            return type_.pack([plain_member(v, t, name) for t, v in zip(type_.children, type_.unpack(value))])
        case types.SequenceType():
            return value
    return as_member(value, type_, f"argument {name!r}")
