"""The options with which XLA compiles the engine's programs."""

import functools
from collections.abc import Callable

import jax
from jax.extend.core import get_opaque_trace_state

# A round has hundreds of small kernels. XLA's fusion emitters for CPU take longer to compile them than its older ones:
# README's program took 9.4 processor seconds with them and 6.8 without, and the workloads W1, W2 and W4 run as fast.
_OF_PASSES = {"xla_cpu_use_fusion_emitters": False}
# What the server computes is bound by memory or runs once: `initialize` compiles in a quarter of the time.
_OF_PHASES = _OF_PASSES | {"xla_backend_optimization_level": 1}


class Jitted:
    """`jax.jit` of a function, with options of XLA."""

    def __init__(self, fn: Callable, options: dict[str, bool | int], **of_jit):
        self._outermost = jax.jit(fn, compiler_options=options, **of_jit)
        self._nested = jax.jit(fn, **of_jit)
        self.lower = self._outermost.lower

    def __call__(self, *args):
        # Inside another program, where JAX refuses options, are calls without tracers: `initialize()` under `jit`.
        return (self._outermost if get_opaque_trace_state() == _untraced() else self._nested)(*args)


def pass_options(platform: str) -> dict[str, bool | int]:
    """The options for a pass over the clients on "cpu", "gpu" or "tpu"."""
    return _OF_PASSES if platform == "cpu" and _are_known() else {}


def phase_options(platform: str) -> dict[str, bool | int]:
    """The options for what the server computes."""
    return _OF_PHASES if platform == "cpu" and _are_known() else {}


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
