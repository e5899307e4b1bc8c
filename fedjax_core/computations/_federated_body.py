"""The body of a computation with placements: a graph and its executable."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from fedjax_core import engine, types
from fedjax_core.language.graph import (
    Map,
    Node,
    Parameter,
    Placed,
    ancestors,
    derive,
    fingerprints,
    is_placed,
    node_of,
    placed_argument,
    replaced,
    user_location,
)


class CheckedResult(NamedTuple):
    """What `as_function` of a computation with secure sums returns.

    Attributes:
      result: the computation's result.
      num_refused: int32, the number of clients with an entry out of range plus the number of sums, secure or not,
        that do not fit their dtype. Unless it is zero, a call would have raised ValueError.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def votes(ballots):
    ...     return fc.federated_secure_sum(ballots, 1)
    >>> int(votes.as_function()(jnp.array([1, 0, 5])).num_refused)
    1
    """

    result: Any
    num_refused: jax.Array


class Graph(NamedTuple):
    """A function of placed values, after tracing.

    Attributes:
      name: its name in messages.
      parameters: `(name, type)` of each argument, in order.
      placed: each argument as the function got it, a pytree with a `Placed` per leaf.
      result: what the function returned, a pytree whose leaves are `Placed` or constants.
    """

    name: str
    parameters: tuple[tuple[str, types.Type], ...]
    placed: tuple
    result: Any

    def outputs(self) -> list[Node]:
        """The nodes of the result, in order."""
        return [node_of(leaf) for leaf in jax.tree.leaves(self.result) if is_placed(leaf)]

    def split(self, values: list) -> dict[Node, Any]:
        """The value of each parameter node, from one value for each argument."""
        members = {}
        for (name, type_), declared, value in zip(self.parameters, self.placed, values):
            _split_struct(declared, value, type_, f"argument {name!r}", members)
        return members


class FederatedBody:
    """A graph of placed values, which runs on the devices of a configuration.

    Raises:
      TypeError: the graph uses values of another computation, or values of clients whose number is unknown since no
        argument is at CLIENTS.
    """

    def __init__(self, graph: Graph, config: engine.EngineConfig):
        self._graph = graph
        self._leaves, self._structure = jax.tree.flatten(graph.result)
        self._executable = engine.Executable(_plan(graph), config)
        self._sequences = [n.type for n in graph.outputs() if n.member_type.contains("sequence")]

    @property
    def config(self) -> engine.EngineConfig:
        return self._executable.config

    @property
    def layout(self) -> engine.Layout:
        """Where it runs."""
        return self._executable.layout

    def with_config(self, config: engine.EngineConfig) -> "FederatedBody":
        return FederatedBody(self._graph, config)

    def run(self, values: list):
        self._refuse_sequences()
        return self._join(self._executable.run(self._graph.split(values)))

    def trace(self, values: list):
        """A call on tracers. No cohort can be packed while tracing, so it works only without placements."""
        name = self._graph.name
        if not any(t.contains("federated") for t in self._types()):
            return self.function(values)
        raise TypeError(
            f"{name} has placements and was called under jit, grad, vmap or scan, where no cohort can be "
            f"packed; write {name}.as_function()(...), and pass fc.pack_cohort(cohort) for a cohort"
        )

    def function(self, values: list):
        self._refuse_sequences()
        outputs, refused = self._executable.traced(self._graph.split(values))
        result = self._join(outputs)
        return CheckedResult(result, refused) if any(c.reported for c in self._executable.plan.checks) else result

    def inline(self, values: list):
        """The result with its parameters replaced by the arguments' nodes."""
        graph, nodes = self._graph, {}
        for (name, type_), declared, value in zip(graph.parameters, graph.placed, values):
            _bind_nodes(declared, value, type_, f"argument {name!r} of {graph.name}", nodes)
        for node in ancestors(graph.outputs()):
            if node not in nodes:
                nodes[node] = replaced(node, nodes)
        return self._join([Placed(nodes[node]) for node in graph.outputs()])

    def prefetch(self, cohort):
        self._executable.prefetch(cohort, self._graph.name)

    def estimate(self, cohort) -> engine.CallEstimate:
        return self._executable.estimate(cohort, self._graph.name)

    def fingerprints(self) -> dict[str, str]:
        return fingerprints(self._graph.outputs())

    def describe(self, names: Mapping[types.Type, str]) -> str:
        return self._executable.describe(names)

    def _join(self, outputs: list) -> Any:
        """The result with its placed values replaced by `outputs`, in order."""
        values = iter(outputs)
        leaves = [next(values) if is_placed(leaf) else leaf for leaf in self._leaves]
        return jax.tree.unflatten(self._structure, leaves)

    def _types(self) -> list[types.Type]:
        return [*(type_ for _, type_ in self._graph.parameters), types.type_of(self._graph.result)]

    def _refuse_sequences(self):
        if self._sequences:
            raise TypeError(
                f"{self._graph.name} returns {self._sequences[0]}, and a sequence exists only at its client: call it "
                "inside another computation, or return something computed from the sequence, as in "
                "fc.federated_map(lambda data: data.sum(), value)"
            )


def _plan(graph: Graph):
    """The graph cut into passes."""
    inputs = tuple(node_of(leaf) for leaf in jax.tree.leaves(graph.placed))
    outputs = tuple(graph.outputs())
    _refuse_foreign(ancestors(outputs), inputs)
    plan = engine.plan_of(inputs, outputs)
    if plan.passes and not plan.client_parameters:
        raise TypeError(
            "the program combines or returns values of clients but has no argument at CLIENTS, so the number of "
            "clients is unknown; add one, for example fc.at_clients('int32')"
        )
    return plan


def _refuse_foreign(nodes, inputs: tuple[Node, ...]):
    for node in nodes:
        for used in (node, *node.inputs):
            if isinstance(used.operation, Parameter) and used not in inputs:
                raise TypeError(
                    f"the placed value {used.type}, argument {used.operation.name!r} of another computation, is used "
                    f"at {node.location}; declare it as an argument of this computation and pass it"
                )


def _split_struct(declared, value, type_: types.Type, what: str, members: dict):
    if is_placed(declared):
        members[node_of(declared)] = value
        return
    struct = types.of_kind(type_, types.StructType)
    try:
        children = struct.unpack(value)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    for part, child, child_type in zip(struct.unpack(declared), children, struct.children):
        _split_struct(part, child, child_type, what, members)


def _bind_nodes(declared, value, type_: types.Type, what: str, nodes: dict):
    """Maps the parameter nodes in `declared` to the nodes of `value`."""
    if not is_placed(declared):
        members = {}
        _split_struct(declared, value, type_, what, members)
        for node, member in members.items():
            _bind_nodes(Placed(node), member, node.type, what, nodes)
        return
    node = node_of(declared)
    if node.placement is None and not any(map(is_placed, jax.tree.leaves(value))):
        member = engine.as_member(value, node.member_type, what)
        nodes[node] = Node(Map(lambda: member), (), node.abstract, None, True, user_location())
        return
    given = node_of(value) if is_placed(value) else placed_argument(value, what, repaired="fc.federated_zip(value)")
    found = given.type if node.type.is_assignable_from(given.type) else types.matched_type(node.type, given.type)
    if not node.type.is_assignable_from(found):
        try:
            node.type.check_assignable_from(found)
        except TypeError as error:
            raise type(error)(f"{what} at {user_location()}: {error}") from None
    try:
        nodes[node] = _in_containers_of(node, given)
    except TypeError as error:
        raise TypeError(f"{what} at {user_location()}: {error}") from None


def _in_containers_of(node: Node, given: Node) -> Node:
    """`given` in the Python containers that the computation's functions expect `node` to have."""
    if jax.tree.structure(node.abstract) == jax.tree.structure(given.abstract):
        return given
    operation = Map(functools.partial(engine.conform, node.member_type), structural=True)
    return derive(operation, (given,), operation.fn(given.abstract))
