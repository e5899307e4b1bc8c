"""How the clients of a round are drawn."""

import numpy as np
import pytest

from fedjax_core.privacy import everyone, fixed_size, poisson


def test_values():
    assert everyone() == poisson(1) == (1.0, None, None)
    assert poisson(np.float32(0.5)) == (0.5, None, None)
    assert fixed_size(np.int64(10), 1000) == (0.01, 10, 1000)
    assert (str(everyone()), str(poisson(0.5)), str(fixed_size(3, 3))) == (
        "everyone()",
        "poisson(0.5)",
        "fixed_size(3, 3)",
    )


@pytest.mark.parametrize(
    ("probability", "error"), [(0, ValueError), (1.1, ValueError), (np.nan, ValueError), ("1", TypeError)]
)
def test_poisson_refuses(probability, error):
    with pytest.raises(error, match=r"\(probability=...\) must be above 0 and at most 1, got .*; write poisson"):
        poisson(probability)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((0, 10), ValueError), ((11, 10), ValueError), ((1.5, 10), TypeError), ((True, 10), TypeError)],
)
def test_fixed_size_refuses(arguments, error):
    with pytest.raises(error, match=r"must be an integer of at least \d+, got .*; (write fixed_size|a round draws)"):
        fixed_size(*arguments)
