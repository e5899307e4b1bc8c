"""Randomness on the host: numbers that are a pure function of a key and of what they are drawn for."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from fedjax_core.engine import GOLDEN, mix


def seed(key: jax.Array | None, purpose: str) -> np.ndarray:
    """Condenses a typed key and its purpose into one uint64, `[1]`.

    Args:
      key: a scalar `jax.random.key`, not traced.
      purpose: the name of the function that draws. Different purposes give independent draws, and errors name it.

    Raises:
      TypeError: `key` is not a typed key, not a scalar, or traced.
    """
    if (
        not isinstance(key, jax.Array)
        or isinstance(key, jax.core.Tracer)
        or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        or key.shape
    ):
        raise TypeError(
            f"{purpose} draws on the host and needs one typed key with a known value, got {_described(key)}; "
            "pass key=jax.random.key(0)"
        )
    words = np.asarray(jax.random.key_data(key)).astype(np.uint64)
    return fold(np.zeros(1, np.uint64), *words, *purpose.encode())


def _described(key) -> str:
    if isinstance(key, jax.Array):
        return f"{'a traced ' if isinstance(key, jax.core.Tracer) else ''}{key.dtype}{list(key.shape)}"
    return repr(key)


def fold(state: np.ndarray, *numbers: int | np.ndarray) -> np.ndarray:
    """Folds integers (or uint64 arrays that broadcast with `state`) into a uint64 state, one by one."""
    for number in numbers:
        state = mix((state ^ np.asarray(number, np.uint64)) + GOLDEN)
    return state


def tags(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The outputs at `positions` of the splitmix64 streams that start at `seeds`, uint64."""
    return mix(seeds + (positions.astype(np.uint64) + np.uint64(1)) * GOLDEN)


def uniform(tag: np.ndarray) -> np.ndarray:
    """Maps uint64 tags to float64 in [0, 1)."""
    return (tag >> np.uint64(11)) * 2.0**-53


def generator(key: jax.Array | None, purpose: str) -> np.random.Generator:
    """A NumPy generator for draws that hashing does not provide, such as Dirichlet draws."""
    return np.random.Generator(np.random.Philox(int(seed(key, purpose)[0])))
