"""The side information that a program may declare."""

import pytest

import fedjax_core as fc


def test_a_value_has_the_declared_type_at_the_clients():
    run = fc.federated_computation(lambda v: fc.federated_client_value("bias", "float32[2]"), fc.at_clients("int32"))
    assert str(run.type_signature) == "({int32}@CLIENTS -> {float32[2]}@CLIENTS)"


@pytest.mark.parametrize("declared", ["float32[?]", "<a=int32,b=int32>", "int32*", "float32[...]"])
def test_only_tensors_of_fixed_dimensions(declared):
    with pytest.raises(
        TypeError, match=r"federated_client_value\('a', ...\) must be a tensor of fixed dimensions, got"
    ):
        fc.federated_computation(lambda v: fc.federated_client_value("a", declared), fc.at_clients("int32"))


def test_the_name_is_a_string():
    with pytest.raises(TypeError, match=r"takes the name of a value as its first argument, got 3 at .*value\('delay',"):
        fc.federated_computation(lambda v: fc.federated_client_value(3, "int32"), fc.at_clients("int32"))


def test_somebody_must_know_how_many_clients_there_are():
    with pytest.raises(TypeError, match=r"has no argument at CLIENTS"):
        fc.federated_computation(lambda: fc.federated_client_value("delay", "int32"))
