"""The body of a computation with placements: a graph, and the programs that it is compiled to."""

import dataclasses
import functools
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from fedjax_core import types
from fedjax_core.computations._plain_body import plain_member, traced_member
from fedjax_core.engine import EngineConfig
from fedjax_core.engine._binding import bind_clients
from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._describe import describe
from fedjax_core.engine._machine import warn_if_cores_idle
from fedjax_core.engine._packing import pack
from fedjax_core.engine._plan import Plan, make_plan
from fedjax_core.engine._run import Program
from fedjax_core.engine._traced import run_traced
from fedjax_core.engine._tuning import tuned_lanes
from fedjax_core.engine._values import as_member, conform
from fedjax_core.language._graph import Map, Node, Parameter, Trim, ancestors, user_location
from fedjax_core.language._inlining import replaced
from fedjax_core.language._placed import Placed, derive, is_placed, node_of, placed_argument
from fedjax_core.language._trim import first_rows


class CheckedResult(NamedTuple):
    """What `as_function` returns of a computation with secure sums.

    Attributes:
      result: the computation's result.
      num_refused: int32, how many clients held an entry out of range, and how many sums did not
        fit; a call would have raised a `ValueError` unless it is zero.
    """

    result: Any
    num_refused: jax.Array


class FederatedBody:
    """A graph of placed values.

    Args:
      parameters: the parameter nodes of each argument, as a pytree with a `Placed` per leaf.
      result: the result, a pytree whose leaves are `Placed` or constants.
      config: how it runs.
    """

    def __init__(self, parameters: tuple, result: Any, config: EngineConfig):
        self._parameters = parameters
        self._leaves, self._structure = jax.tree.flatten(result)
        self._config = config
        self._plan = _plan(parameters, self._leaves)
        self._sequences = [n.type for n in self._plan.outputs if n.member_type.contains("sequence")]
        self._trims = any(isinstance(n.operation, Trim) for n in ancestors(self._plan.outputs))
        self._program = None
        self._unchanged = set()
        self._lock = threading.Lock()

    @property
    def config(self) -> EngineConfig:
        return self._config

    def with_config(self, config: EngineConfig) -> "FederatedBody":
        return FederatedBody(self._parameters, jax.tree.unflatten(self._structure, self._leaves), config)

    def run(self, owner, values: list):
        self._refuse_sequences(owner)
        members = self._split(owner, values)
        clients = [members.pop(node) for node in self._plan.client_parameters]
        server = {n: self._server_member(n, v) for n, v in members.items()}
        cohort = bind_clients(self._plan, clients)
        outputs = self._compiled(server, cohort)(server, cohort)
        return self._join(first_rows(outputs) if self._trims else outputs)

    def prefetch(self, owner, cohort):
        number = len(self._plan.client_parameters)
        if number != 1 or not isinstance(cohort, Cohort):
            found = f"got {type(cohort).__name__}" if number == 1 else f"not {number}"
            raise TypeError(
                f"{owner.name}.prefetch takes the cohort of a computation with one argument at CLIENTS, {found}; "
                "a call reads its own arguments, leave prefetch out"
            )
        bind_clients(self._plan, [cohort])
        if self._plan.passes and self._config.lanes != "auto":
            pack(cohort, self._config.resolve())

    def _server_member(self, node: Node, value):
        """The value as declared; a value of the same shapes as an earlier one needs no second check."""
        leaves, structure = jax.tree.flatten(value)
        arrays = all(isinstance(leaf, jax.Array) for leaf in leaves)
        key = arrays and (node, structure, *((leaf.shape, leaf.dtype, _is_weak(leaf)) for leaf in leaves))
        if key in self._unchanged:
            return value
        member = plain_member(value, node.member_type, node.operation.name)
        if arrays and jax.tree.structure(member) == structure and not any(map(_is_weak, leaves)):
            self._unchanged.add(key)
        return member

    def _compiled(self, server: dict, cohort) -> Program:
        """The program for the devices, which do not change once JAX is in use."""
        with self._lock:
            if self._config.lanes == "auto":
                lanes = tuned_lanes(self._plan, self._config, server, cohort)
                tuned = dataclasses.replace(self._config, lanes=lanes)
                if self._plan.passes and not len(cohort):
                    return Program(self._plan, tuned.resolve())  # there was nobody to measure
                self._config = tuned
            if self._program is None:
                layout = self._config.resolve()
                if self._config.devices is None and self._plan.passes:
                    warn_if_cores_idle(layout.devices)
                self._program = Program(self._plan, layout)
            return self._program

    def _refuse_sequences(self, owner):
        if self._sequences:
            raise TypeError(
                f"{owner.name} returns {self._sequences[0]}, and a sequence exists only at its client: call it inside "
                "another computation, or return what is computed from it, as in "
                "fc.federated_map(lambda data: data.sum(), value)"
            )

    def trace(self, owner, values: list):
        """A call on tracers: there is no host to pack a cohort, so only without placements."""
        if not owner.type_signature.contains("federated"):
            return self.function(owner, values)
        raise TypeError(
            f"{owner.name} has placements and was called under jit, grad, vmap or scan, where no cohort can be "
            f"packed; write {owner.name}.as_function()(...), with fc.pack_cohort(cohort) for a cohort"
        )

    def function(self, owner, values: list):
        self._refuse_sequences(owner)
        members = self._split(owner, values)
        clients = [members.pop(node) for node in self._plan.client_parameters]
        server = {n: traced_member(v, n.member_type, n.operation.name) for n, v in members.items()}
        outputs, refused = run_traced(self._plan, server, clients)
        result = self._join(outputs)
        return CheckedResult(result, refused) if self._plan.checks else result

    def inline(self, owner, values: list):
        """The graph with its parameters replaced by the arguments' nodes."""
        nodes = {}
        for (name, type_), declared, value in zip(owner.parameters, self._parameters, values):
            _bind_nodes(declared, value, type_, f"argument {name!r} of {owner.name}", nodes)
        roots = [node_of(leaf) for leaf in self._leaves if is_placed(leaf)]
        for node in ancestors(roots):
            if node not in nodes:
                nodes[node] = replaced(node, nodes)
        return jax.tree.unflatten(
            self._structure, [Placed(nodes[node_of(x)]) if is_placed(x) else x for x in self._leaves]
        )

    def describe(self, names: Mapping[types.Type, str]) -> str:
        return describe(self._plan, names)

    def _split(self, owner, values: list) -> dict[Node, Any]:
        """The value of each parameter node."""
        members = {}
        for (name, type_), declared, value in zip(owner.parameters, self._parameters, values):
            _split_struct(declared, value, type_, f"argument {name!r}", members)
        return members

    def _join(self, outputs: list):
        values = iter(outputs)
        leaves = [next(values) if is_placed(leaf) else leaf for leaf in self._leaves]
        return jax.tree.unflatten(self._structure, leaves)


def _is_weak(leaf: jax.Array) -> bool:
    return getattr(leaf, "weak_type", False)  # arrays of keys have no such attribute


def _plan(parameters: tuple, leaves: list) -> Plan:
    inputs = tuple(node_of(leaf) for leaf in jax.tree.leaves(parameters))
    outputs = tuple(node_of(leaf) for leaf in leaves if is_placed(leaf))
    _refuse_foreign(ancestors(outputs), inputs)
    plan = make_plan(inputs, outputs)
    if plan.passes and not plan.client_parameters:
        raise TypeError(
            "the program combines or returns values of clients but has no argument at CLIENTS, so nobody knows how "
            "many clients there are; add one, for example fc.at_clients('int32')"
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
    try:
        children = type_.unpack(value)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    for part, child, child_type in zip(type_.unpack(declared), children, type_.children):
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
        member = as_member(value, node.member_type, what)
        nodes[node] = Node(Map(lambda: member), (), node.abstract, None, True, user_location())
        return
    given = node_of(value) if is_placed(value) else placed_argument(value, what, repaired="fc.federated_zip(value)")
    found = given.type if node.type.is_assignable_from(given.type) else types.matched_type(node.type, given.type)
    if not node.type.is_assignable_from(found):
        try:
            node.type.check_assignable_from(found)
        except TypeError as error:
            raise type(error)(f"{what} at {user_location()}: {error}") from None
    nodes[node] = _in_containers_of(node, given)


def _in_containers_of(node: Node, given: Node) -> Node:
    """`given` in the Python containers that the functions of a computation expect of `node`."""
    if jax.tree.structure(node.abstract) == jax.tree.structure(given.abstract):
        return given
    operation = Map(functools.partial(conform, node.member_type), structural=True)
    return derive(operation, (given,), operation.fn(given.abstract))
