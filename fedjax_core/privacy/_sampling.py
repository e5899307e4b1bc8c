"""How the clients of a round are drawn, which decides the cost of a round."""

from typing import NamedTuple

from fedjax_core import _checks


class Sampling(NamedTuple):
    """How the clients of a round are drawn; made by `everyone`, `poisson` and `fixed_size`.

    Attributes:
      probability: the probability with which a client takes part in a round.
      cohort_size: the number of clients in every round; None if it is not fixed.
      population: the number of clients from which they are drawn; None if it does not matter.
    """

    probability: float
    cohort_size: int | None
    population: int | None

    def __str__(self) -> str:
        """The call that makes it."""
        if self.cohort_size is not None:
            return f"fixed_size({self.cohort_size}, {self.population})"
        return "everyone()" if self.probability == 1 else f"poisson({self.probability})"


def everyone() -> Sampling:
    """All clients take part in every round.

    Example:
      >>> print(everyone())
      everyone()
    """
    return Sampling(1.0, None, None)


def poisson(probability: float) -> Sampling:
    """Every client takes part with this probability, independently of the others, as in `fc.data.poisson_sampler`.

    Args:
      probability: above 0 and at most 1.

    Raises:
      TypeError: `probability` is not a number.
      ValueError: `probability` is out of range.

    Example:
      >>> print(poisson(0.01))
      poisson(0.01)
    """
    rule = _checks.Rule("above 0 and at most 1", lambda x: 0 < x <= 1)
    _checks.checked_number("poisson(probability=...)", probability, rule, "write poisson(0.01)")
    return Sampling(float(probability), None, None)


def fixed_size(cohort_size: int, population: int) -> Sampling:
    """Every round draws the same number of clients without replacement, as in `fc.data.sample_clients`.

    Args:
      cohort_size: at least 1 and at most the population.
      population: the number of clients.

    Raises:
      TypeError: a number is not an integer.
      ValueError: a number is out of range.

    Example:
      >>> print(fixed_size(10, 1000))
      fixed_size(10, 1000)
    """
    _checks.check_integer("fixed_size(cohort_size=...)", cohort_size, 1, "write fixed_size(10, 1000)")
    repair = f"a round draws {cohort_size} clients without replacement"
    _checks.check_integer("fixed_size(population=...)", population, int(cohort_size), repair)
    return Sampling(float(cohort_size / population), int(cohort_size), int(population))
