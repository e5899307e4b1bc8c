"""Layers that compute what flax's layers compute, but are fast inside the engine's loops.

  conv                a convolution with stride 1, of any rank and kernel size, as matrix products
  max_pool            the largest value of every window
  lstm, gru           a recurrent layer over a sequence, with a backward pass of its own

These are functions of arrays. `fedjax_core.models.layers.linen` has the flax modules `Conv` and `RNN`, with the same
parameters as flax's own, which they replace in a module for `models.from_linen`:

  >>> import jax.numpy as jnp
  >>> from fedjax_core.models import layers
  >>> x = layers.conv(jnp.ones((5, 28, 28, 1)), jnp.ones((3, 3, 1, 32)))
  >>> layers.max_pool(x).shape
  (5, 13, 13, 32)
"""

from fedjax_core._signposts import signpost
from fedjax_core.models.layers._convolution import conv
from fedjax_core.models.layers._pooling import max_pool
from fedjax_core.models.layers._recurrent import gru, lstm

__all__ = ["conv", "gru", "lstm", "max_pool"]

signpost(__name__)
