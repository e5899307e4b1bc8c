"""The options with which XLA compiles the engine's programs."""

import functools
from collections.abc import Callable

import jax
import jax.core
from jax.extend.core import get_opaque_trace_state

# What the server computes has hundreds of small kernels, is bound by memory, and often runs once. XLA's older emitters
# and a lower level compile it in a third of the time, and it runs as fast. A pass over the clients keeps the defaults:
# it would compile in half of the time, but run 14 % longer (W1).
_OF_PHASES = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


class JittedPhase:
    """`jax.jit` of what the server computes on a platform: "cpu", "gpu" or "tpu"."""

    def __init__(self, fn: Callable, platform: str):
        self._nested = jax.jit(fn)
        has_options = platform == "cpu" and _are_known()
        self._outermost = jax.jit(fn, compiler_options=_OF_PHASES) if has_options else self._nested
        self.lower = self._outermost.lower

    def __call__(self, *args):
        # Inside another program, where JAX refuses options, are calls without tracers: `initialize()` under `jit`.
        return (self._outermost if get_opaque_trace_state() == _untraced() else self._nested)(*args)


@functools.cache
def _are_known() -> bool:
    """Whether this version of XLA has the options, of which it promises none; programs are right without them."""
    with jax.core.eval_context():
        try:
            jax.jit(lambda: 0, compiler_options=_OF_PHASES).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
    return True


@functools.cache
def _untraced():
    """JAX's state while nothing is traced."""
    with jax.core.eval_context():
        return get_opaque_trace_state()
