"""Digests that tell programs apart."""

import fedjax_core as fc


def _digests(source):
    names = {"__name__": None}  # as where a doctest defines a function
    exec(f"def step(value):\n    return {source}", names)

    @fc.federated_computation(fc.at_clients("float32"))
    def stepped(values):
        return fc.federated_sum(fc.federated_map(names["step"], values))

    return stepped.fingerprints()


def test_functions_without_a_module_are_told_apart_by_what_they_compute():
    first, same, other = map(_digests, ["2 * value", "2 * value", "3 * value"])
    assert first == same != other and "step" in first
    assert {name for name in first if first[name] != other[name]} == {"step"}
