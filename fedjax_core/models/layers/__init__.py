"""Layers that are fast inside of the engine's loops, equal to flax's.

  conv                a convolution with strides 1, of any rank and kernel, as matrix products
  max_pool            the largest value of every window
  lstm, gru           a recurrent layer over a sequence, with a backward pass of its own

These are functions of arrays. `fedjax_core.models.layers.linen` has `Conv` and `RNN`, flax modules with the
parameters of flax's own, to be put in their place in a module that `models.from_linen` then takes:

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
