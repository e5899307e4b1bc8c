"""What functions do with the rows of a batch, for the other rooms of this package.

* `takes_mask`: whether a function leaves padding out itself.
* `combines_rows`: whether it may combine rows, judged by its jaxpr; operations under the scope `MASKED` may.
* `trial_mask`, `trial_batches`, `differ`: a trial with batches that differ in padding only.
* `padding_changes`: a trial with a batch that has padding, and without it.
"""

from fedjax_core._signposts import signpost
from fedjax_core.language._rows import (
    MASKED,
    combines_rows,
    differ,
    padding_changes,
    takes_mask,
    trial_batches,
    trial_mask,
)

__all__ = ["MASKED", "combines_rows", "differ", "padding_changes", "takes_mask", "trial_batches", "trial_mask"]

signpost(__name__)
