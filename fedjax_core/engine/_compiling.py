"""The options with which XLA compiles the engine's programs."""

import functools

import jax

# A round has hundreds of small kernels. XLA's fusion emitters for CPU take longer to compile them than its older ones:
# README's program took 9.4 processor seconds with them and 6.8 without, and the workloads W1, W2 and W4 run as fast.
_OF_PASSES = {"xla_cpu_use_fusion_emitters": False}
# What the server computes is bound by memory or runs once: `initialize` compiles in a quarter of the time.
_OF_PHASES = _OF_PASSES | {"xla_backend_optimization_level": 1}


def pass_options(platform: str) -> dict[str, bool | int]:
    """The `compiler_options` of `jax.jit` for a pass over the clients on "cpu", "gpu" or "tpu"."""
    return _OF_PASSES if platform == "cpu" and _are_known() else {}


def phase_options(platform: str) -> dict[str, bool | int]:
    """Those for what the server computes."""
    return _OF_PHASES if platform == "cpu" and _are_known() else {}


@functools.cache
def _are_known() -> bool:
    """Whether this version of XLA has the options, of which it promises none; programs are right without them."""
    try:
        jax.jit(lambda: 0, compiler_options=_OF_PHASES).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
