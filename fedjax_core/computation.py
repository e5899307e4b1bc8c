"""Computations: typed functions, with placements (`federated_computation`) or without (`computation`)."""

import contextlib
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.engine import EngineConfig
from fedjax_core.engine._binding import bind_clients
from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._lists import cohort_of_list, member_type_of_list
from fedjax_core.engine._plan import Plan, make_plan
from fedjax_core.engine._run import Program
from fedjax_core.engine._traced import one_sequence, run_traced
from fedjax_core.engine._values import as_member, conform
from fedjax_core.language._abstract import abstract_of, infer
from fedjax_core.language._graph import Map, Node, Parameter, ancestors, user_location
from fedjax_core.language._inlining import replaced
from fedjax_core.language._placed import Placed, derive, is_placed, node_of, placed_argument
from fedjax_core.language._sequence import Sequence

_tracing = contextvars.ContextVar("tracing", default=False)


class Checked(NamedTuple):
    """What `as_function` returns of a computation with secure sums.

    Attributes:
      result: the computation's result.
      num_refused: int32, how many clients held an entry out of range, and how many sums did not
        fit; a call would have raised a `ValueError` unless it is zero.
    """

    result: Any
    num_refused: jax.Array


class Computation:
    """A typed function, traced once and compiled at its first use.

    Made by `federated_computation` or `computation`. Called with ordinary values (NumPy, JAX or Python
    ones, cohorts of clients) it runs; called inside another computation with placed values it becomes
    a part of it.

    Attributes:
      type_signature: a `FunctionType`, for example `({float32}@CLIENTS -> float32@SERVER)`.
      parameters: `(name, type)` of each argument, in order.
      name: the function's name.
    """

    def __init__(self, name: str, parameters: tuple[tuple[str, types.Type], ...], result: types.Type, body):
        self.name = name
        self.parameters = parameters
        self.type_signature = types.FunctionType(_parameter_type(parameters), result)
        self._body = body
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        """Runs the computation.

        For `{D*}@CLIENTS` give a `Cohort`, or a list with one entry per client, each a list of batches
        or one batch; for `{T}@CLIENTS` a list or stacked arrays; anything else as it is.

        Raises:
          TypeError: an argument of another type, or tracers for a computation with placements.
          ValueError: clients whose fields disagree, or a value that a secure sum refuses.
        """
        values = self._bind(args, kwargs)
        leaves = _leaves(values, self.name)
        if any(map(is_placed, leaves)) or (not values and _tracing.get()):
            return self._body.inline(self, values)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._body.trace(self, values)
        return self._body.run(self, values)

    def as_function(self) -> Callable:
        """The computation as a pure JAX function, for `jit`, `grad`, `vmap` and `scan`.

        It takes a `PackedCohort` (from `pack_cohort`) or stacked arrays for an argument at CLIENTS, and
        returns what the computation returns, within `Checked` if it has secure sums.

        Example:

        >>> import jax, jax.numpy as jnp, fedjax_core as fc
        >>> @fc.federated_computation(fc.at_clients("float32"))
        ... def mean(values):
        ...     return fc.federated_mean(values)
        >>> jax.grad(mean.as_function())(jnp.array([1.0, 3.0])).tolist()
        [0.5, 0.5]
        """

        @functools.wraps(self.__call__)
        def function(*args, **kwargs):
            return self._body.function(self, self._bind(args, kwargs))

        return function

    def with_config(self, config: EngineConfig) -> "Computation":
        """The same computation with other lanes or devices.

        Raises:
          TypeError: `config` is no `EngineConfig`.
        """
        if not isinstance(config, EngineConfig):
            raise TypeError(
                f"with_config takes an EngineConfig, got {config!r}; write with_config(fc.EngineConfig(lanes=8))"
            )
        return Computation(self.name, self.parameters, self.type_signature.result, self._body.with_config(config))

    def _bind(self, args: tuple, kwargs: dict) -> list:
        names = [name for name, _ in self.parameters]
        values = dict(zip(names, args))
        unknown = [k for k in kwargs if k not in names or k in values]
        values |= kwargs
        if len(args) > len(names) or unknown or len(values) < len(names):
            raise TypeError(
                f"{self.name} takes {len(names)} arguments ({', '.join(names)}), got {len(args)} by position and "
                f"{sorted(kwargs)} by name; its type is {self.type_signature}"
            )
        return [values[name] for name in names]

    def __repr__(self) -> str:
        return f"<{self.name}: {self.type_signature}>"


def _parameter_type(parameters) -> types.Type | None:
    if not parameters:
        return None
    return parameters[0][1] if len(parameters) == 1 else types.StructType(parameters)


def _leaves(values: list, name: str) -> list:
    try:
        return jax.tree.leaves(values)
    except ValueError as error:
        raise TypeError(
            f"{name}: an argument cannot be flattened ({str(error).splitlines()[0]}); a dict's keys are all "
            "strings, or all integers"
        ) from None


class _PlainBody:
    """A pure JAX function without placements."""

    def __init__(self, fn: Callable):
        self._fn = fn
        self._jitted = jax.jit(fn)

    def with_config(self, config: EngineConfig) -> "_PlainBody":
        return self

    def inline(self, owner: Computation, values: list):
        if not values:
            return self._fn()
        raise TypeError(
            f"{owner.name} has no placements and got placed values at {user_location()}; write "
            f"fc.federated_map({owner.name}, ...)"
        )

    def trace(self, owner: Computation, values: list):
        return self._fn(*(_traced_member(v, t, name) for v, (name, t) in zip(values, owner.parameters)))

    function = trace

    def run(self, owner: Computation, values: list):
        return self._jitted(*(_plain_member(v, t, name) for v, (name, t) in zip(values, owner.parameters)))


class _FederatedBody:
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
        self._programs = {}
        self._unchanged = set()
        self._lock = threading.Lock()

    def with_config(self, config: EngineConfig) -> "_FederatedBody":
        return _FederatedBody(self._parameters, jax.tree.unflatten(self._structure, self._leaves), config)

    def run(self, owner: Computation, values: list):
        self._refuse_sequences(owner)
        members = self._split(owner, values)
        clients = [members.pop(node) for node in self._plan.client_parameters]
        server = {n: self._server_member(n, v) for n, v in members.items()}
        cohort = bind_clients(self._plan.client_parameters, clients)
        return self._join(self._program()(server, cohort))

    def _server_member(self, node: Node, value):
        """The value as declared; a value of the same shapes as an earlier one needs no second check."""
        leaves, structure = jax.tree.flatten(value)
        arrays = all(isinstance(leaf, jax.Array) for leaf in leaves)
        key = arrays and (node, structure, *((leaf.shape, leaf.dtype, _is_weak(leaf)) for leaf in leaves))
        if key in self._unchanged:
            return value
        member = _plain_member(value, node.member_type, node.operation.name)
        if arrays and jax.tree.structure(member) == structure and not any(map(_is_weak, leaves)):
            self._unchanged.add(key)
        return member

    def _program(self) -> Program:
        with self._lock:
            layout = self._config.resolve()
            if layout not in self._programs:
                self._programs[layout] = Program(self._plan, layout)
            return self._programs[layout]

    def _refuse_sequences(self, owner: Computation):
        if self._sequences:
            raise TypeError(
                f"{owner.name} returns {self._sequences[0]}, and a sequence exists only at its client: call it inside "
                "another computation, or return what is computed from it, as in "
                "fc.federated_map(lambda data: data.sum(), value)"
            )

    def trace(self, owner: Computation, values: list):
        raise TypeError(
            f"{owner.name} has placements and was called under jit, grad, vmap or scan, where no cohort can be "
            f"packed; write {owner.name}.as_function()(...), with fc.pack_cohort(cohort) for a cohort"
        )

    def function(self, owner: Computation, values: list):
        self._refuse_sequences(owner)
        members = self._split(owner, values)
        clients = [members.pop(node) for node in self._plan.client_parameters]
        server = {n: _traced_member(v, n.member_type, n.operation.name) for n, v in members.items()}
        outputs, refused = run_traced(self._plan, server, clients)
        result = self._join(outputs)
        return Checked(result, refused) if self._plan.checks else result

    def inline(self, owner: Computation, values: list):
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

    def _split(self, owner: Computation, values: list) -> dict[Node, Any]:
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
        raise TypeError(f"{what}: expected {type_}: {error}") from None
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
    if not node.type.is_assignable_from(given.type):
        try:
            node.type.check_assignable_from(given.type)
        except TypeError as error:
            raise type(error)(f"{what} at {user_location()}: {error}") from None
    nodes[node] = _in_containers_of(node, given)


def _in_containers_of(node: Node, given: Node) -> Node:
    """`given` in the Python containers that the functions of a computation expect of `node`."""
    if jax.tree.structure(node.abstract) == jax.tree.structure(given.abstract):
        return given
    operation = Map(functools.partial(conform, node.member_type), structural=True)
    return derive(operation, (given,), operation.fn(given.abstract))


def _traced_member(value, type_: types.Type, name: str):
    """A value that may hold tracers, in the declared containers."""
    if isinstance(value, Sequence) or not isinstance(type_, types.StructType | types.SequenceType):
        if not isinstance(value, Sequence | jax.core.Tracer):
            value = jax.tree.map(jnp.asarray, _plain_member(value, type_, name))
        found = types.type_of(value)
        if not type_.is_assignable_from(found):
            raise TypeError(f"argument {name!r}: expected {type_}, got {found}")
        return value
    if isinstance(type_, types.SequenceType):
        return _plain_member(value, type_, name)
    children = zip(type_.children, type_.unpack(value))
    return type_.pack([_traced_member(child, t, name) for t, child in children])


def _plain_member(value, type_: types.Type, name: str):
    """A concrete value, with lists of batches as sequences."""
    match type_:
        case types.SequenceType() if not isinstance(value, Sequence):
            return one_sequence(cohort_of_list([value], type_, f"argument {name!r}"))
        case types.StructType() if type_.contains("sequence"):
            return type_.pack([_plain_member(v, t, name) for t, v in zip(type_.children, type_.unpack(value))])
        case types.SequenceType():
            return value
    return as_member(value, type_, f"argument {name!r}")


def federated_computation(*args):
    """Makes a function of placed values a computation.

    The function is traced once, with a placed value for every argument, and may use the operators
    (`federated_map`, `federated_sum`, ...) and other computations.

    Args:
      *args: the arguments' types: `at_server(...)`, `at_clients(...)`, their notation
        (`"{float32}@CLIENTS"`), or pytrees of these. The function may come first; else this is a
        decorator. A function with arguments but without types is typed at each first use by its
        arguments, a Python list standing for clients.

    Returns:
      A `Computation`.

    Raises:
      TypeError: not as many types as the function has arguments; or what the function does to the
        placed values does not type-check, with the line.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def mean_temperature(readings):
    ...     return fc.federated_mean(readings)
    >>> str(mean_temperature.type_signature)
    '({float32}@CLIENTS -> float32@SERVER)'
    >>> mean_temperature([68.0, 70.0, 71.5])
    Array(69.833336, dtype=float32)
    """
    return _decorated(args, _federated, "federated_computation")


def computation(*args):
    """Makes a pure JAX function, without placements, a computation.

    Args:
      *args: the arguments' types (tensors, structs, sequences), and optionally the function first.

    Returns:
      A `Computation`.

    Raises:
      TypeError: a federated type, not as many types as arguments, or a function that fails when traced.

    Example:

    >>> import fedjax_core as fc
    >>> half = fc.computation(lambda x: x / 2, "float32")
    >>> str(half.type_signature), float(half(3.0))
    ('(float32 -> float32)', 1.5)
    """
    return _decorated(args, _plain, "computation")


def _decorated(args: tuple, make: Callable, name: str):
    def decorate(fn: Callable, given: tuple):
        names = _argument_names(fn, len(given))
        if not given and names:
            return PolymorphicComputation(fn, make)
        if len(names) != len(given):
            raise TypeError(
                f"{name}: {fn.__name__} takes {len(names)} arguments ({', '.join(names)}) and {len(given)} types were "
                f"given; write @fc.{name}({', '.join(f'type_of_{n}' for n in names)})"
            )
        return make(fn, tuple(zip(names, map(types.to_type, given))))

    if args and callable(args[0]) and not isinstance(args[0], types.Type | type):
        return decorate(args[0], args[1:])
    return lambda fn: decorate(fn, args)


def _argument_names(fn: Callable, number: int) -> list[str]:
    kinds = inspect.Parameter
    parameters = inspect.signature(fn).parameters.values()
    names = [
        p.name
        for i, p in enumerate(parameters)
        if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD) and (p.default is kinds.empty or i < number)
    ]
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
        names += [f"arg{i}" for i in range(len(names), number)]
    return names


def _federated(fn: Callable, parameters) -> Computation:
    placed = tuple(_place(type_, name, name) for name, type_ in parameters)
    with _trace():
        result = fn(*placed)
    result = jax.tree.map(_result_leaf, result)
    body = _FederatedBody(placed, result, EngineConfig())
    return Computation(_name(fn), tuple(parameters), types.type_of(result), body)


def _result_leaf(leaf):
    if is_placed(leaf):
        return leaf
    try:
        types.type_of(leaf)
    except TypeError as error:
        raise TypeError(f"a federated computation returns placed values or constants: {error}") from None
    return jnp.asarray(leaf)


@contextlib.contextmanager
def _trace():
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


def _place(type_: types.Type, name: str, path: str):
    """The placed value of an argument, or a pytree of them where its type is a struct of federated ones."""
    federated = any(isinstance(leaf, types.FederatedType) for _, leaf in types.leaves(type_))
    if isinstance(type_, types.StructType) and federated:
        labels = [n or str(i) for i, n in enumerate(type_.names)]
        return type_.pack([_place(t, name, f"{path}.{label}") for t, label in zip(type_.children, labels)])
    if isinstance(type_, types.FunctionType):
        raise TypeError(f"argument {path!r}: a function is no argument of a computation, got {type_}")
    member = type_.member if isinstance(type_, types.FederatedType) else type_
    placement = type_.placement if isinstance(type_, types.FederatedType) else None
    abstract = abstract_of(member, f"{path.replace('.', '_')}_")
    equal = type_.all_equal if placement is not None else True
    return Placed(Node(Parameter(path), (), abstract, placement, equal, user_location()))


def _plain(fn: Callable, parameters) -> Computation:
    for name, type_ in parameters:
        if any(isinstance(leaf, types.FederatedType | types.FunctionType) for _, leaf in types.leaves(type_)):
            raise TypeError(
                f"computation: argument {name!r} is {type_}; a computation has no placements, write "
                "@fc.federated_computation for one that has"
            )
    abstracts = tuple(abstract_of(type_, f"{name}_") for name, type_ in parameters)
    result = types.type_of(infer(fn, abstracts, f"computation({_name(fn)})"))
    return Computation(_name(fn), tuple(parameters), result, _PlainBody(fn))


def _name(fn) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


class PolymorphicComputation:
    """A computation that is typed at each first use by its arguments."""

    def __init__(self, fn: Callable, make: Callable):
        self._fn = fn
        self._make = make
        self._typed = {}
        self.__name__ = _name(fn)

    def __call__(self, *args, **kwargs):
        try:
            bound = inspect.signature(self._fn).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__name__}{inspect.signature(self._fn)}: {error}") from None
        return self.typed(*(self._argument_type(v) for v in bound.args))(*bound.args)

    def typed(self, *specs) -> Computation:
        """The computation for arguments of these types.

        Raises:
          TypeError: not as many types as arguments, or a function that does not type-check.
        """
        given = tuple(map(types.to_type, specs))
        key = tuple((t, jax.tree.structure(types.tree_of_types(t))) for t in given)
        if key not in self._typed:
            names = _argument_names(self._fn, len(given))
            if len(names) != len(given):
                raise TypeError(
                    f"{self.__name__} takes {len(names)} arguments ({', '.join(names)}), got {len(given)} types"
                )
            self._typed[key] = self._make(self._fn, tuple(zip(names, given)))
        return self._typed[key]

    def __getattr__(self, name: str):
        if name in ("as_function", "parameters", "type_signature", "with_config"):
            raise AttributeError(
                f"{self.__name__} has no {name!r} before its types are known; write "
                f"{self.__name__}.typed(fc.at_clients('float32')).{name}, or declare the types: "
                "@fc.federated_computation(fc.at_clients('float32'))"
            )
        raise AttributeError(name)

    def _argument_type(self, value) -> types.Type:
        if self._make is _plain or is_placed(value):
            return types.type_of(value)
        if isinstance(value, Cohort):
            return types.at_clients(value.member_type)
        if isinstance(value, list):
            return types.at_clients(member_type_of_list(value))
        leaves = jax.tree.leaves(value)
        if any(map(is_placed, leaves)):
            return types.type_of(value)
        return types.at_server(types.type_of(value))

    def __repr__(self) -> str:
        return f"<{self.__name__}: typed at each first use>"
