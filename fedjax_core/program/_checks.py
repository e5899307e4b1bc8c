"""What a run asks of the data that it trains on and of those that it evaluates."""

from typing import Any

from fedjax_core.computations import Computation
from fedjax_core.data import Batching, FederatedData
from fedjax_core.types import SequenceType, Type, matched_type, member_of, type_leaves


def check_data(caller: str, name: str, data: Any, taker: str, computation: Computation) -> None:
    """Raises TypeError unless `data` is a `FederatedData` whose clients `computation` takes as its second argument."""
    if not isinstance(data, FederatedData):
        raise TypeError(
            f"{caller}({name}=...) must be FederatedData, got {type(data).__name__}; use "
            "FederatedData.from_clients(...)"
        )
    taken = member_of(computation.parameters[1][1])
    given = matched_type(taken, SequenceType(data.element_type))
    if not taken.is_assignable_from(given):
        raise TypeError(
            f"{caller}({name}=...): a client holds {given}, but {taker} takes {taken}{_difference(taken, given)}; "
            "convert the examples: `data.map(lambda examples: {'x': ..., 'y': ...})`"
        )


def _difference(taken: Type, given: Type) -> str:
    """A phrase that names the fields that differ, if both are sequences of structs; otherwise empty."""
    if not isinstance(taken, SequenceType) or not isinstance(given, SequenceType):
        return ""
    fields, others = ({path: str(leaf) for path, leaf in type_leaves(t.element)} for t in (taken, given))
    different = [name for name in {**fields, **others} if fields.get(name) != others.get(name)]
    return f" (they differ in {', '.join(map(repr, different))})" if any(different) else ""


def check_batching(caller: str, name: str, batching: Any) -> None:
    """Raises TypeError unless the value is a `Batching`."""
    if not isinstance(batching, Batching):
        raise TypeError(f"{caller}({name}=...) must be a Batching, got {batching!r}; use Batching(batch_size=20)")
