"""The derivative of a round with respect to the inputs of its clients."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend import core

from fedjax_core import trees


def with_finite_slope(work: Callable) -> Callable:
    """Makes the derivative of a function of one client zero wherever its result is not finite.

    The round leaves such a client out. It is not enough to replace its result by zeros: a derivative of zero, times the
    NaN in each of its steps, is NaN.

    Args:
      work: `(weights, data, ...) -> result`, a pure JAX function of one client; `data` is a `ClientBatches`.

    Returns:
      A function with the same arguments and results. The program changes only where it can be differentiated, in that
      of `as_function`. Second derivatives are still NaN if a client is not finite.
    """

    @functools.wraps(work, updated=())  # the attributes of a computation would make it one
    def of_client(weights, data, *others):
        if data.trip_count is None:
            return work(weights, data, *others)
        pure, captured = _closed(work, weights, data, *others)
        return _with_finite_slope(pure)((weights, data, *others), captured)

    return of_client


def _closed(work: Callable, *args) -> tuple[Callable, list]:
    """`work` as a function of its arguments and of the arrays that it has captured, and these arrays.

    The derivative may be with respect to them, too, for example to a client's learning rate. `jax.closure_convert`
    would leave integers captured, which the derivative of a program that has been traced already cannot read.
    """
    program, result = jax.make_jaxpr(work, return_shape=True)(*args)
    structure = jax.tree.structure(result)

    def pure(args, captured):
        run = core.jaxpr_as_fun(core.ClosedJaxpr(program.jaxpr, captured))
        return structure.unflatten(run(*jax.tree.leaves(args)))

    return pure, program.consts


def _with_finite_slope(fn: Callable) -> Callable:
    function = jax.custom_jvp(fn)

    def derivative(primals, tangents):
        leaves, structure = jax.tree.flatten(primals)
        tangents = jax.tree.leaves(tangents, is_leaf=_is_zero)
        moving = [i for i, tangent in enumerate(tangents) if not _is_zero(tangent)]

        def of_moving(values):
            return fn(*structure.unflatten(_with(leaves, moving, values)))

        result, linear = jax.linearize(of_moving, [leaves[i] for i in moving])
        # The selection comes before the derivative, and therefore after it in reverse mode.
        is_finite = trees.is_finite(result)
        return result, linear([jnp.where(is_finite, tangents[i], 0) for i in moving])

    function.defjvp(derivative, symbolic_zeros=True)
    return function


def _is_zero(tangent) -> bool:
    return isinstance(tangent, SymbolicZero)


def _with(leaves: list, places: list[int], values: list) -> list:
    changed = dict(zip(places, values))
    return [changed.get(i, leaf) for i, leaf in enumerate(leaves)]
