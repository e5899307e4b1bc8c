"""Types as abstract values: open dimensions are symbols, and if that fails, the message says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc

IMAGES = fc.types.parse_type("<x=float32[?,784],y=int32[?]>*")


def reduce_with(measure, type_=IMAGES):
    def fn(data):
        return data.reduce(0.0, lambda total, batch, mask: total + measure(batch))

    return fc.federated_computation(lambda data: fc.federated_map(fn, data), fc.at_clients(type_))


def test_the_open_batch_dimension_is_one_size():
    def measure(batch):
        one_hot = jax.nn.one_hot(batch["y"], 784)
        images = batch["x"].reshape((-1, 28, 28, 1)).reshape((batch["x"].shape[0], 784))
        return jnp.sum(one_hot * images * jnp.ones(batch["y"].shape)[:, None])

    run = reduce_with(measure)
    assert str(run.type_signature.result) == "{float32}@CLIENTS"
    result = run([{"x": np.ones((3, 784), np.float32), "y": np.zeros(3, np.int32)}])
    assert result.tolist() == [3.0]


def branch_on_size(batch):
    return jnp.sum(batch["x"]) if batch["x"].shape[0] > 10 else jnp.float32(0)


def loop_over_size(batch):
    return sum(batch["x"][i, 0] for i in range(batch["x"].shape[0]))


def numpy_of_size(batch):
    return jnp.sum(batch["x"][:, 0] * np.arange(batch["x"].shape[0], dtype=np.float32))


FAILURES = {
    "if": branch_on_size,
    "reshape": lambda batch: jnp.sum(batch["y"].reshape(-1, 20)).astype("float32"),
    "top_k": lambda batch: jnp.sum(jax.lax.top_k(batch["x"][:, 0], 3)[0]),
    "range": loop_over_size,
    "int": lambda batch: jnp.float32(int(batch["y"].shape[0])),
    "numpy": numpy_of_size,
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_needs_a_size_says_to_fix_the_dimension(name):
    with pytest.raises(TypeError) as error:
        reduce_with(FAILURES[name])
    message = str(error.value)
    assert f"at {__file__}:" in message and "<x=float32[?,784],y=int32[?]>*" in message
    assert "Fix the dimension in the type, for example float32[20,784] in place of float32[?,784]" in message


@pytest.mark.parametrize("name", FAILURES)
def test_it_works_with_the_dimension_fixed(name):
    run = reduce_with(FAILURES[name], fc.types.parse_type("<x=float32[20,784],y=int32[20]>*"))
    assert run([{"x": np.ones((20, 784), np.float32), "y": np.zeros(20, np.int32)}]).shape == (1,)


def test_two_open_dimensions_may_differ():
    with pytest.raises(TypeError, match=r"Fix the dimension in the type"):
        fc.federated_computation(
            lambda a, b: fc.federated_map(jnp.add, a, b), fc.at_clients("float32[?]"), fc.at_clients("float32[?]")
        )


def test_other_mistakes_are_not_blamed_on_an_open_dimension():
    with pytest.raises(TypeError) as error:
        reduce_with(lambda batch: batch["z"])
    assert "Fix the dimension" not in str(error.value) and "'z'" in str(error.value)


def test_names_of_fields_need_not_be_names_of_symbols():
    type_ = {"a-b": fc.at_clients("float32[?]"), "0 + 1": fc.at_clients("float32[?]")}
    run = fc.federated_computation(lambda v: (fc.federated_sum(v["a-b"]), fc.federated_sum(v["0 + 1"])), type_)
    a, b = run({"a-b": [[1.0, 2.0]], "0 + 1": [[3.0]]})
    assert a.tolist() == [1.0, 2.0] and b.tolist() == [3.0]


def test_types_that_no_program_can_take():
    with pytest.raises(TypeError, match=r"float32\[\.\.\.\] has an unknown rank"):
        fc.federated_computation(lambda v: v, fc.at_server("float32[...]"))
    with pytest.raises(TypeError, match=r"int64 needs 64-bit numbers.*declare int32"):
        fc.federated_computation(lambda v: v, fc.at_server("int64"))
    with pytest.raises(TypeError, match=r"a function cannot be an argument of a computation"):
        fc.federated_computation(lambda v: v, fc.types.parse_type("(int32 -> int32)"))
