"""`Body`: the interface behind a `Computation`."""

from collections.abc import Mapping
from typing import Any, Protocol

from fedjax_core import types
from fedjax_core.engine import CallEstimate, Cohort, EngineConfig, Layout


class Body(Protocol):
    """What runs the calls of a `Computation`; `values` are the arguments, one for each parameter in order."""

    @property
    def config(self) -> EngineConfig:
        """The configuration of the engine."""
        ...

    @property
    def layout(self) -> Layout | None:
        """Where it runs, if it has passes over the clients or work of the server."""
        ...

    def with_config(self, config: EngineConfig) -> "Body":
        """The same body with another configuration."""
        ...

    def run(self, values: list) -> Any:
        """The result of a call with ordinary values."""
        ...

    def trace(self, values: list) -> Any:
        """The result of a call with tracers among the values, or an error that says what to write instead."""
        ...

    def function(self, values: list) -> Any:
        """The result of `as_function`, as a pure function of values that may be tracers."""
        ...

    def inline(self, values: list) -> Any:
        """The placed result of a call with placed values, inside another computation."""
        ...

    def prefetch(self, cohort: Cohort) -> None:
        """Reads ahead the examples that a later run takes."""
        ...

    def estimate(self, cohort: Cohort) -> CallEstimate:
        """The bytes, waves and programs that a run on a cohort would take."""
        ...

    def fingerprints(self) -> dict[str, str]:
        """Digests of what it computes, by the names of its functions."""
        ...

    def describe(self, names: Mapping[types.Type, str]) -> str:
        """A text that describes how it runs, with `names` in place of some types."""
        ...
