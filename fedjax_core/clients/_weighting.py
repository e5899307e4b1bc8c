"""The weight of a client in the mean."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from fedjax_core.clients._evaluation import Accumulator

Weighting = Literal["examples", "uniform"] | Callable


def client_weight(weighting: Weighting, metrics: Accumulator, statistics: dict, num_examples):
    """A client's weight, float32 `[]`; zero for a client that processed no example.

    Args:
      weighting: "examples", "uniform", or a function of the client's finalized metrics.
      metrics: finalizes the model's metrics.
      statistics: this client's statistics by name.
      num_examples: float32 `[]`, the number of examples that it processed.

    Raises:
      ValueError: the function does not return a scalar.
    """
    if weighting == "examples":
        return num_examples
    if weighting == "uniform":
        weight = 1.0
    else:
        weight = weighting(metrics.finalize(statistics))
        if jnp.shape(weight) != ():
            raise ValueError(f"weighting must return a scalar, got the shape {jnp.shape(weight)}; write jnp.sum(...)")
    return jnp.where(num_examples > 0, jnp.asarray(weight, jnp.float32), 0.0)


def check_weighting(weighting: Weighting):
    """Raises unless `weighting` is "examples", "uniform" or a function.

    Raises:
      ValueError: `weighting` is another string.
      TypeError: `weighting` is neither a string nor a function.
    """
    if isinstance(weighting, str):
        if weighting not in ("examples", "uniform"):
            raise ValueError(
                f'weighting must be "examples", "uniform" or a function of the client\'s metrics, got {weighting!r}; '
                'write weighting="examples"'
            )
    elif not callable(weighting):
        raise TypeError(
            f'weighting must be "examples", "uniform" or a function of the client\'s metrics, got {weighting!r}; '
            'write weighting="examples"'
        )
