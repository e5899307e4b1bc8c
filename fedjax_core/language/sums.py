"""Sums of integers over the clients for the other rooms of this package, and integers in two words.

* `count_sum`: the sum of small counts, such as flags, for which no call waits.
* `word_sum`: the exact sum of integers of any size, as `Words`.
* `Words`, an integer in two words: `widened`, `zero_words`, `added`, `summed`, `shifted`; `fits`, `saturated`,
  `wrapped`, `as_float`; `sum_dtype`.
* `digits` and `from_digits`: integers of 32 bits in four parts, whose sums over the clients do not overflow.
"""

from fedjax_core._signposts import signpost
from fedjax_core.language._digits import digits, from_digits
from fedjax_core.language._sums import count_sum, word_sum
from fedjax_core.language._words import (
    Words,
    added,
    as_float,
    fits,
    saturated,
    shifted,
    sum_dtype,
    summed,
    widened,
    wrapped,
    zero_words,
)

__all__ = [
    "Words",
    "added",
    "as_float",
    "count_sum",
    "digits",
    "fits",
    "from_digits",
    "saturated",
    "shifted",
    "sum_dtype",
    "summed",
    "widened",
    "word_sum",
    "wrapped",
    "zero_words",
]

signpost(__name__)
