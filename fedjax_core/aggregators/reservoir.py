"""The parts of the reservoir behind `reservoir_sample` that the sampled metrics use, and nothing else should.

* `check_sampling`: checks the size and the key of a sample for another function.
* `with_first`: the state of `reservoir_sample` whose sample of all rounds starts with a value.
"""

from fedjax_core._signposts import signpost
from fedjax_core.aggregators._reservoir import check_sampling, with_first

__all__ = ["check_sampling", "with_first"]

signpost(__name__)
