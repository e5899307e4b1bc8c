"""What is behind a computation."""

from collections.abc import Mapping
from typing import Any, Protocol

from fedjax_core import types
from fedjax_core.engine import CallEstimate, Cohort, EngineConfig


class Body(Protocol):
    """What a `Computation` hands its arguments to, one value for each, bound to the parameters."""

    @property
    def config(self) -> EngineConfig:
        """How it runs."""
        ...

    def with_config(self, config: EngineConfig) -> "Body":
        """The same, run in another way."""
        ...

    def run(self, values: list) -> Any:
        """The result of ordinary values."""
        ...

    def trace(self, values: list) -> Any:
        """The result of a call with tracers among the values, or the error that says what to write."""
        ...

    def function(self, values: list) -> Any:
        """The result as a pure function of values that may be tracers."""
        ...

    def inline(self, values: list) -> Any:
        """The placed result of placed values, inside another computation."""
        ...

    def prefetch(self, cohort: Cohort) -> None:
        """Reads ahead what a later run takes."""
        ...

    def estimate(self, cohort: Cohort) -> CallEstimate:
        """What a run on a cohort takes."""
        ...

    def describe(self, names: Mapping[types.Type, str]) -> str:
        """How it runs, in words, with `names` in place of some types."""
        ...
