"""The decorators that make computations of functions: `federated_computation` and `computation`."""

import inspect
from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp

from fedjax_core import _checks, types
from fedjax_core.computations._computation import Computation, tracing
from fedjax_core.computations._federated_body import FederatedBody, Graph
from fedjax_core.computations._plain_body import PlainBody
from fedjax_core.engine import Cohort, EngineConfig, member_type_of_list, read_streams
from fedjax_core.language.graph import Node, Parameter, Placed, abstract_of, explained, infer, is_placed, user_location


@overload
def federated_computation(spec: type, /, *specs: Any) -> Callable[[Callable], Computation]: ...
@overload
def federated_computation(fn: Callable[[], Any], /) -> Computation: ...
@overload
def federated_computation(fn: Callable, /) -> "PolymorphicComputation": ...
@overload
def federated_computation(fn: Callable, /, *specs: Any) -> Computation: ...
@overload
def federated_computation(*specs: Any) -> Callable[[Callable], Computation]: ...
def federated_computation(*args):
    """Makes a computation of a function of placed values.

    The function is traced once, with a placed value for every argument, and may use the operators
    (`federated_map`, `federated_sum`, ...) and other computations.

    Args:
      *args: the arguments' types: `at_server(...)`, `at_clients(...)`, their notation
        (`"{float32}@CLIENTS"`), or pytrees of these. The function may come first; otherwise the result is
        a decorator.

    Returns:
      A `Computation`; a `PolymorphicComputation` if the function has arguments and no types are given.

    Raises:
      TypeError: the number of types is not the number of the function's arguments, the function returns None, or an
        operation on the placed values does not type-check; the message has the line.

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


@overload
def computation(spec: type, /, *specs: Any) -> Callable[[Callable], Computation]: ...
@overload
def computation(fn: Callable[[], Any], /) -> Computation: ...
@overload
def computation(fn: Callable, /) -> "PolymorphicComputation": ...
@overload
def computation(fn: Callable, /, *specs: Any) -> Computation: ...
@overload
def computation(*specs: Any) -> Callable[[Callable], Computation]: ...
def computation(*args):
    """Makes a computation without placements of a pure JAX function.

    Args:
      *args: the arguments' types (tensors, structs, sequences). The function may come first; otherwise the
        result is a decorator.

    Returns:
      A `Computation`; a `PolymorphicComputation` if the function has arguments and no types are given.

    Raises:
      TypeError: a type is federated, the number of types is not the number of the function's arguments, or the
        function fails when it is traced or returns None.

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
                f"{name}: {_name(fn)} takes {len(names)} arguments ({', '.join(names)}) and {len(given)} types were "
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
    with tracing(), explained():
        result = fn(*placed)
    _checks.check_returned(f"federated_computation({_name(fn)})", result)
    try:
        types.type_of(result)
    except TypeError as error:
        raise TypeError(f"a federated computation returns placed values or constants: {error}") from None
    result = jax.tree.map(lambda leaf: leaf if is_placed(leaf) else jnp.asarray(leaf), result)
    graph = Graph(_name(fn), tuple(parameters), placed, result)
    return Computation(graph.name, graph.parameters, types.type_of(result), FederatedBody(graph, EngineConfig()))


def _place(type_: types.Type, name: str, path: str):
    """The placed value of an argument, or a pytree of placed values if its type is a struct of federated types."""
    federated = any(isinstance(leaf, types.FederatedType) for _, leaf in types.type_leaves(type_))
    if isinstance(type_, types.StructType) and federated:
        labels = [n or str(i) for i, n in enumerate(type_.names)]
        return type_.pack([_place(t, name, f"{path}.{label}") for t, label in zip(type_.children, labels)])
    if isinstance(type_, types.FunctionType):
        raise TypeError(f"argument {path!r}: a function cannot be an argument of a computation, got {type_}")
    if isinstance(type_, types.FederatedType):
        member, placement, equal = type_.member, type_.placement, bool(type_.all_equal)
    else:
        member, placement, equal = type_, None, True
    abstract = abstract_of(member, f"{path.replace('.', '_')}_")
    return Placed(Node(Parameter(path), (), abstract, placement, equal, user_location()))


def _plain(fn: Callable, parameters) -> Computation:
    for name, type_ in parameters:
        if any(isinstance(leaf, types.FederatedType | types.FunctionType) for _, leaf in types.type_leaves(type_)):
            raise TypeError(
                f"computation: argument {name!r} is {type_}; a computation has no placements, write "
                "@fc.federated_computation for one that has"
            )
    abstracts = tuple(abstract_of(type_, f"{name}_") for name, type_ in parameters)
    result = types.type_of(infer(fn, abstracts, f"computation({_name(fn)})"))
    return Computation(_name(fn), tuple(parameters), result, PlainBody(_name(fn), tuple(parameters), fn))


def _name(fn) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


class PolymorphicComputation:
    """A computation whose types are those of the arguments of each call; it is traced once for each of them.

    For `federated_computation` a Python list and a `Cohort` are values at CLIENTS, anything else is at SERVER.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation
    ... def total(values):
    ...     return fc.federated_sum(values)
    >>> total([1, 2]).dtype, total([1.0, 2.0]).dtype
    (dtype('int32'), dtype('float32'))
    """

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
        try:
            args = [read_streams(value, f"argument {i}") for i, value in enumerate(bound.args)]
        except _checks.TOO_DEEP:
            raise _checks.too_deep(f"an argument of {self.__name__}") from None
        return self.typed(*map(self._argument_type, args))(*args)

    def typed(self, *specs) -> Computation:
        """The computation for arguments of these types.

        Raises:
          TypeError: the number of types is not the number of arguments, or the function does not type-check.

        Example:

        >>> import fedjax_core as fc
        >>> total = fc.federated_computation(lambda values: fc.federated_sum(values))
        >>> str(total.typed("{float32[3]}@CLIENTS").type_signature)
        '({float32[3]}@CLIENTS -> float32[3]@SERVER)'
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
        if not name.startswith("_") and (hasattr(Computation, name) or name in Computation.__annotations__):
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
