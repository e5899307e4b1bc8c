"""The body of a computation without placements: a pure JAX function."""

from collections.abc import Callable, Mapping

import jax

from fedjax_core import types
from fedjax_core.engine import EngineConfig, concrete_member, traced_member
from fedjax_core.language.graph import (
    Placed,
    abstract_of,
    fingerprint,
    is_placed,
    map_nodes,
    node_of,
    traced,
    user_location,
)


class PlainBody:
    """A pure JAX function without placements.

    Args:
      name: its name in messages.
      parameters: `(name, type)` of each argument, in order.
      fn: the function.
    """

    config = EngineConfig()
    layout = None

    def __init__(self, name: str, parameters: tuple[tuple[str, types.Type], ...], fn: Callable):
        self._name = name
        self._parameters = parameters
        self._fn = fn
        self._jitted = jax.jit(fn)

    def with_config(self, config: EngineConfig) -> "PlainBody":
        return self

    def run(self, values: list):
        return self._jitted(*(concrete_member(v, t, name) for v, (name, t) in zip(values, self._parameters)))

    def trace(self, values: list):
        return self._fn(*(traced_member(v, t, name) for v, (name, t) in zip(values, self._parameters)))

    function = trace

    def inline(self, values: list):
        if not values:
            return self._fn()
        nodes = tuple(node_of(value) for value in values if is_placed(value))
        if len(nodes) == len(values) and all(node.placement is None for node in nodes):
            return Placed(map_nodes(self._mapped(), nodes, self._name))
        raise TypeError(
            f"{self._name} has no placements and got placed values at {user_location()}; write "
            f"fc.federated_map({self._name}, ...)"
        )

    def _mapped(self) -> Callable:
        """The function of the members, under the computation's name."""

        def call(*members):
            return self.trace(list(members))

        call.__name__ = self._name
        return call

    def prefetch(self, cohort):
        raise TypeError(f"{self._name} has no placements, so there are no clients to prefetch; leave prefetch out")

    def estimate(self, cohort):
        raise TypeError(f"{self._name} has no placements, so there is no cohort to estimate; leave estimate out")

    def fingerprints(self) -> dict[str, str]:
        abstracts = tuple(abstract_of(type_, f"{name}_") for name, type_ in self._parameters)
        return {self._name: fingerprint(traced(self._fn, abstracts, self._name))}

    def describe(self, names: Mapping[types.Type, str]) -> str:
        return "one function, without placements"
