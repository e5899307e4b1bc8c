"""One aggregator for each field of a value."""

import math
from collections.abc import Iterable

from fedjax_core import types
from fedjax_core.contracts import Aggregator
from fedjax_core.language import Placed, federated_zip
from fedjax_core.templates import MeasuredProcessOutput


def each(**aggregators: Aggregator) -> Aggregator:
    """Combines each field of a value with an aggregator of its own.

    Use it for an update that holds more than a change of the weights: a count to add up, a norm, a numerator
    and a denominator.

    Args:
      **aggregators: one aggregator for each field of the value, by the field's name.

    Returns:
      An `Aggregator` of structs with these fields, in any order; the result is in the value's container. A
      weight with the same fields has one weight for each of them; any other weight applies to all fields. State
      and measurements are dicts by field. It always releases if one of the aggregators does, and its
      `noise_multiplier` is that of all fields together.

    Raises:
      TypeError: there is no aggregator, or an argument is not one; when built for a value, if it has other fields.

    Example: the mean of the deltas, and the total number of steps.

    >>> import fedjax_core as fc
    >>> aggregator = each(delta=fc.aggregators.mean(), steps=fc.aggregators.sum())
    >>> process = fc.aggregators.as_process(aggregator, {"delta": "float32", "steps": "int32"})
    >>> clients = [{"delta": 1.0, "steps": 3}, {"delta": 4.0, "steps": 1}]
    >>> result = process.next(process.initialize(), clients, [1.0, 2.0]).result
    >>> print(result["delta"], result["steps"])
    3.0 4
    """
    if not aggregators:
        raise TypeError(
            "each(...) takes an aggregator for each field, got none; write each(delta=fc.aggregators.mean())"
        )
    for name, aggregator in aggregators.items():
        if not isinstance(aggregator, Aggregator):
            raise TypeError(
                f"each({name}=...) must be an Aggregator, got {aggregator!r}; write {name}=fc.aggregators.mean()"
            )

    def init(value_type):
        _check_fields(aggregators, value_type)
        return federated_zip({name: inner.init(value_type[name]) for name, inner in aggregators.items()})

    def next(state, value, weight):
        member = types.of_kind(types.member_of(value.fedjax_type), types.StructType)
        _check_fields(aggregators, member)
        weights = _weights(aggregators, weight)
        outputs = {name: inner.next(state[name], value[name], weights[name]) for name, inner in aggregators.items()}
        results = member.pack([outputs[name].result for name in member.names if name is not None])
        return MeasuredProcessOutput(
            federated_zip({name: output.state for name, output in outputs.items()}),
            federated_zip(results),
            federated_zip({name: output.measurements for name, output in outputs.items()}),
        )

    releases = any(inner.always_releases for inner in aggregators.values())
    return Aggregator(init, next, releases, _joint_noise(aggregators.values()))


def _joint_noise(aggregators: Iterable[Aggregator]) -> float:
    """The noise multiplier of one release of several noised sums: they hide a client as little as this one alone.

    Each sum, divided by its noise, moves by 1 / z with a client, so all together by the norm of these. A field without
    noise hides nobody.
    """
    multipliers = [aggregator.noise_multiplier for aggregator in aggregators]
    return 1 / math.hypot(*(1 / multiplier for multiplier in multipliers)) if all(multipliers) else 0.0


def _weights(aggregators: dict[str, Aggregator], weight: Placed) -> dict[str, Placed]:
    has_fields = set(getattr(types.member_of(weight.fedjax_type), "names", ())) == set(aggregators)
    return {name: weight[name] if has_fields else weight for name in aggregators}


def _check_fields(aggregators: dict[str, Aggregator], value_type: types.Type) -> None:
    found = getattr(value_type, "names", ())
    if set(found) != set(aggregators):
        written = ", ".join(f"{name}=..." for name in aggregators)
        raise TypeError(
            f"each({written}) takes a value with the fields {sorted(aggregators)}, got {value_type}; name an "
            "aggregator for each of its fields"
        )
