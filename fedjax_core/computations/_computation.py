"""`Computation`: a typed function, called with ordinary values, tracers or placed values."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Mapping

import jax
import jax.core

from fedjax_core import _checks, types
from fedjax_core.computations._body import Body
from fedjax_core.engine import CallEstimate, Cohort, EngineConfig, Layout, read_streams
from fedjax_core.language.graph import is_placed
from fedjax_core.types import laid_out

# Whether a computation is being traced: a call without arguments has no placed value from which it could tell.
_tracing = contextvars.ContextVar("tracing", default=False)


@contextlib.contextmanager
def tracing():
    """While it is open, calls of computations without arguments become part of the one being traced."""
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


class Computation:
    """A typed function, traced once and compiled at its first use.

    `federated_computation` and `computation` make it. A call with ordinary values (NumPy, JAX or Python
    values, cohorts of clients) runs it; a call with placed values inside another computation makes it
    a part of that one.

    Attributes:
      type_signature: a `FunctionType`, for example `({float32}@CLIENTS -> float32@SERVER)`.
      parameters: `(name, type)` of each argument, in order.
      name: the function's name.

    Example: one computation calls another.

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def mean(values):
    ...     return fc.federated_mean(values)
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def distances_to_mean(values):
    ...     return fc.federated_map(lambda v, m: abs(v - m), values, fc.federated_broadcast(mean(values)))
    >>> str(distances_to_mean.type_signature)
    '({float32}@CLIENTS -> {float32}@CLIENTS)'
    """

    type_signature: types.FunctionType
    parameters: tuple[tuple[str, types.Type], ...]
    name: str

    def __init__(self, name: str, parameters: tuple[tuple[str, types.Type], ...], result: types.Type, body: Body):
        self.name = name
        self.parameters = parameters
        self.type_signature = types.FunctionType(_parameter_type(parameters), result)
        self._body = body
        # The arguments that may contain generators. The state is not among them: its many leaves would be searched at
        # every call.
        self._streamed = {name for name, type_ in parameters if any(map(_holds_streams, types.type_leaves(type_)))}
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        """Runs the computation.

        For `{D*}@CLIENTS` pass a `Cohort`, or a list with one entry per client, each a list of batches or one
        batch; for `{T}@CLIENTS` pass a list or stacked arrays; pass anything else as it is. In place of a list
        of clients you may pass a dict `{id: client}`, whose clients draw the same random numbers as those of a
        cohort with these ids, and in place of a list of clients or of batches a generator. A dict that is
        passed for a struct is matched by name, whatever its order.

        Raises:
          TypeError: an argument is missing or has another type, or the computation has placements and gets tracers.
          ValueError: the fields of the clients do not agree, an argument has thousands of levels, a secure sum is out
            of range, or a sum of integers does not fit its dtype.
        """
        try:
            values = self._bind(args, kwargs)
            leaves = _leaves(values, self.name)
        except _checks.TOO_DEEP:
            raise _checks.too_deep(f"an argument of {self.name}") from None
        if any(map(is_placed, leaves)) or (not values and _tracing.get()):
            return self._body.inline(values)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._body.trace(values)
        return self._body.run(values)

    def as_function(self) -> Callable:
        """The computation as a pure JAX function, for `jit`, `grad`, `vmap` and `scan`.

        For an argument at CLIENTS the function takes a `PackedCohort` (from `pack_cohort`) or stacked arrays. It
        returns what the computation returns, with `TrimmedRows` in place of every array that a call would trim, and
        all of it inside a `CheckedResult` if there are secure sums. A `federated_sum` of integers that does not fit
        its dtype wraps around, where a call raises an error. JAX decides where the function runs, so its weights may
        be sharded over a mesh; a call raises an error for such weights.

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
            return self._body.function(self._bind(args, kwargs))

        return function

    def prefetch(self, cohort: Cohort) -> None:
        """Reads the examples of a cohort ahead of the call that takes it, while the devices compute something else.

        A call returns before its result has been computed. Prefetch the next cohort after a call and before you read
        its result, so that the devices never wait. Prefetching does not change any result: a call reads whatever has
        not been prefetched. The cohort keeps what was read until the call, at most half the memory budget. For a
        cohort that needs several waves only the schedule is computed; while lanes="auto" is undecided, nothing is.

        Args:
          cohort: the only argument at CLIENTS of the calls to come.

        Raises:
          TypeError: `cohort` is not a `Cohort` of the declared clients, or the computation does not have exactly one
            argument at CLIENTS.

        Example:

        >>> import jax, optax, fedjax_core as fc
        >>> data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0))
        >>> model = fc.models.logistic_regression(60, 10)
        >>> process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1))
        >>> cohorts = [data.cohort(data.client_ids[i : i + 5], fc.data.Batching(20)) for i in (0, 5, 10)]
        >>> state, losses = process.initialize(), []
        >>> for now, following in zip(cohorts, cohorts[1:]):
        ...     state, metrics = process.next(state, now)
        ...     process.next.prefetch(following)
        ...     losses.append(float(metrics["client_work"]["train"]["loss"]))
        >>> losses[1] < losses[0]
        True
        """
        self._body.prefetch(cohort)

    def estimate(self, cohort: Cohort) -> CallEstimate:
        """Estimates the bytes, waves and programs of a call on a cohort, without reading examples or compiling.

        Args:
          cohort: the only argument at CLIENTS of the call.

        Raises:
          TypeError: `cohort` is not a `Cohort` of the declared clients, or the computation does not have exactly one
            argument at CLIENTS.

        Example:

        >>> import jax, optax, fedjax_core as fc
        >>> data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0))
        >>> model = fc.models.logistic_regression(60, 10)
        >>> process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1))
        >>> estimate = process.next.estimate(data.cohort(data.client_ids, fc.data.Batching(20)))
        >>> estimate.received_bytes, estimate.num_waves
        (2448, 1)
        """
        return self._body.estimate(cohort)

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration; after the first call it has the number of lanes that "auto" chose."""
        return self._body.config

    @property
    def layout(self) -> Layout | None:
        """Where it runs on this machine; None for a computation without placements."""
        return self._body.layout

    def with_config(self, config: EngineConfig) -> "Computation":
        """The same computation with other lanes, devices or memory.

        Raises:
          TypeError: `config` is not an `EngineConfig`.

        Example:

        >>> import fedjax_core as fc
        >>> @fc.federated_computation(fc.at_clients("float32"))
        ... def mean(values):
        ...     return fc.federated_mean(values)
        >>> mean.with_config(fc.EngineConfig(lanes=8)).config.lanes, mean.config.lanes
        (8, None)
        """
        if not isinstance(config, EngineConfig):
            raise TypeError(
                f"with_config takes an EngineConfig, got {config!r}; write with_config(fc.EngineConfig(lanes=8))"
            )
        return Computation(self.name, self.parameters, self.type_signature.result, self._body.with_config(config))

    def fingerprints(self) -> dict[str, str]:
        """Digests of what it computes, by the names of its functions; that of "operators" is of their connections.

        Two processes with the same version of JAX get the same digests if they compute the same with the same
        constants, such as learning rates. A run compares them with those of its checkpoint.

        Example:

        >>> import fedjax_core as fc
        >>> def scaled(factor):
        ...     return fc.computation(lambda x: factor * x, "float32")
        >>> one, same, other = (scaled(factor).fingerprints() for factor in (2.0, 2.0, 3.0))
        >>> one == same, one == other
        (True, False)
        """
        return self._body.fingerprints()

    def describe(self) -> str:
        """A text that describes how the computation runs.

        It lists the passes over the clients with the number of their virtual shards, which decides the last bits of the
        results (see `EngineConfig`), the values that the server and each client send one another, what is
        computed where, and at the end the bytes that one client receives and sends.

        The sizes are those of the values that the program sends, 1 kB = 1000 bytes:

        * Every array counts once: a value that is broadcast twice, or that a later pass needs again, is received once,
          and a value that several aggregates of a pass take is sent once. Structs add nothing. A field that no client
          reads counts as well.
        * A mean sends the weighted value, in at least float32, and the weight, which is 1 if none is given. A general
          aggregate sends the client's value, not its accumulator. A collected value is sent; a result that remains at
          the client is not.
        * The integers of a secure sum count in the size of their dtype. A protocol may need fewer bits for each of
          them, and adds messages of its own.
        * For `federated_split_key` a client receives the server's key, which counts with the size of its data, and
          derives its own.
        * For `federated_select` a client receives the whole table and selects its rows itself, since the program runs
          this way. In a system whose server answers requests, the keys and the rows would be sent instead.
        * A client already has its data, its identity and its index, the program's constants, and whatever its
          functions capture.
        * A client also has what `federated_client_value` reads, which comes in with the cohort: it is shown but does
          not count as received.
        * A value that a client function compresses and decodes counts with its decoded size (see
          `aggregators.compress`).
        * If a dimension is `?`, the size is that of the remaining dimensions, marked "at least".

        Example:

        >>> import fedjax_core as fc
        >>> @fc.federated_computation(fc.at_server("float32"), fc.at_clients("float32"))
        ... def mean_square(center, values):
        ...     def square(c, v):
        ...         return (v - c) ** 2
        ...     return fc.federated_sum(fc.federated_map(square, fc.federated_broadcast(center), values))
        >>> print(mean_square.describe())
        mean_square: (<center=float32@SERVER,values={float32}@CLIENTS> -> float32@SERVER)
        pass 1 over the clients (16 virtual shards)
          receives 4 B: float32 (center)
          computes square -> float32
          sends 4 B: federated_sum of float32 (square)
        per client: receives 4 B, sends 4 B
        """
        return f"{signature_text(self.name, self, {})}\n{plan_text(self, {})}"

    def _bind(self, args: tuple, kwargs: dict) -> list:
        names = [name for name, _ in self.parameters]
        values = dict(zip(names, args))
        unknown = [k for k in kwargs if k not in names or k in values]
        values |= kwargs
        missing = [name for name in names if name not in values]
        surplus = [str(len(args) - len(names))] if len(args) > len(names) else []
        if surplus or unknown or missing:
            problems = {"missing": missing, "unknown or given twice": unknown, "too many": surplus}
            found = "; ".join(f"{what}: {', '.join(which)}" for what, which in problems.items() if which)
            raise TypeError(f"{self.name} takes {len(names)} arguments ({', '.join(names)}), {found}")
        return [
            read_streams(values[name], f"argument {name!r}") if name in self._streamed else values[name]
            for name in names
        ]

    def __repr__(self) -> str:
        return f"<{self.name}: {self.type_signature}>"


def _holds_streams(path_and_leaf: tuple[str, types.Type]) -> bool:
    leaf = path_and_leaf[1]
    return leaf.contains("sequence") or (isinstance(leaf, types.FederatedType) and leaf.placement is types.CLIENTS)


def signature_text(name: str, computation: Computation, names: Mapping[types.Type, str]) -> str:
    """The name and the type of a computation, laid out in lines, with `names` in place of some types."""
    return f"{name}: {laid_out(computation.type_signature, names, start=len(name) + 2)}"


def plan_text(computation: Computation, names: Mapping[types.Type, str]) -> str:
    """The text of `Computation.describe` without its first line, with `names` in place of some types."""
    return computation._body.describe(names)


def _parameter_type(parameters) -> types.Type | None:
    if not parameters:
        return None
    return parameters[0][1] if len(parameters) == 1 else types.StructType(parameters)


def _leaves(values: list, name: str) -> list:
    try:
        # A dict `{id: client}` may have both strings and integers as keys, as data may, and JAX could not sort them.
        return jax.tree.leaves([list(v.values()) if type(v) is dict else v for v in values])
    except ValueError as error:
        raise TypeError(
            f"{name}: an argument cannot be flattened ({str(error).splitlines()[0]}); the keys of a dict must be "
            "either all strings or all integers"
        ) from None
