import ast
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.contracts import ModelWeights
from fedjax_core.program import load_weights, save_weights


@pytest.fixture
def weights():
    return ModelWeights(
        {
            "dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)},
            "layers": [jnp.ones(2)],
        },
        {"steps": jnp.int32(7)},
    )


def test_round_trip_keeps_containers_dtypes_and_bits(weights, tmp_path):
    save_weights(weights, tmp_path / "weights.npz")
    loaded = load_weights(tmp_path / "weights.npz", like=jax.tree.map(jnp.zeros_like, weights))
    assert jax.tree.structure(loaded) == jax.tree.structure(weights)
    for read, written in zip(jax.tree.leaves(loaded), jax.tree.leaves(weights), strict=True):
        assert isinstance(read, jax.Array)
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written)


def test_like_may_be_abstract(weights, tmp_path):
    save_weights(weights, tmp_path / "weights.npz")
    loaded = load_weights(tmp_path / "weights.npz", like=jax.eval_shape(lambda: weights))
    assert int(loaded.non_trainable["steps"]) == 7


def test_numpy_alone_reads_the_names(weights, tmp_path):
    save_weights(weights, tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as file:
        assert "trainable.dense.kernel" in file.files
        assert "trainable.layers.0" in file.files
        assert file["trainable.dense.kernel"].shape == (2, 3)


def test_a_single_array(tmp_path):
    save_weights(jnp.ones(3), tmp_path / "weights.npz")
    assert load_weights(tmp_path / "weights.npz", like=jnp.zeros(3)).tolist() == [1, 1, 1]


def test_other_names(tmp_path):
    save_weights({"a": jnp.ones(2)}, tmp_path / "weights.npz")
    with pytest.raises(ValueError, match=r"holds the arrays \['a'\], but `like` has \['b'\].*model.init"):
        load_weights(tmp_path / "weights.npz", like={"b": jnp.ones(2)})


@pytest.mark.parametrize("like", [np.zeros(3, np.float32), np.zeros(2, np.int32), np.zeros(2, np.float16)])
def test_other_shapes_and_dtypes(like, tmp_path):
    save_weights({"a": jnp.ones(2)}, tmp_path / "weights.npz")
    with pytest.raises(ValueError, match=r"'a' is float32\[2\], but `like` has"):
        load_weights(tmp_path / "weights.npz", like={"a": like})


def test_two_arrays_of_one_name(tmp_path):
    with pytest.raises(ValueError, match=r"'a\.b' twice"):
        save_weights({"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, tmp_path / "weights.npz")


def test_refuses_pickles(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_weights(tmp_path / "weights.npz", like={"a": jnp.ones(1)})


NARROW = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"]


@pytest.mark.parametrize("dtype", NARROW)
def test_numpy_alone_reads_narrow_numbers(dtype, tmp_path):
    """bfloat16 read as the bytes `V2`."""
    numbers = [0, 1, 5, 7] if "int" in dtype else [0.0, 1.5, -3.0, 0.0625]
    weights = {"w": jnp.array(numbers, dtype)}
    save_weights(weights, tmp_path / "weights.npz")
    code = f"import numpy; print(numpy.load({str(tmp_path / 'weights.npz')!r})['w'].tolist())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ast.literal_eval(read.stdout) == numbers
    again = load_weights(tmp_path / "weights.npz", weights)["w"]
    assert again.dtype == dtype and again.tolist() == numbers


def test_wide_numbers_are_not_rounded_to_narrow_ones(tmp_path):
    save_weights({"w": jnp.array([0.1], jnp.float32)}, tmp_path / "weights.npz")
    with pytest.raises(ValueError, match=r"'w' is float32\[1\], but `like` has bfloat16\[1\]"):
        load_weights(tmp_path / "weights.npz", {"w": jnp.zeros(1, jnp.bfloat16)})


def test_arrays_that_are_called_like_arguments(tmp_path):
    """`np.savez` takes no array named `file`."""
    weights = {name: jnp.full(2, float(i)) for i, name in enumerate(["file", "allow_pickle", "a/b", "..", "ü"])}
    save_weights(weights, tmp_path / "weights.npz")
    assert sorted(np.load(tmp_path / "weights.npz").files) == sorted(weights)
    jax.tree.map(np.testing.assert_array_equal, load_weights(tmp_path / "weights.npz", weights), weights)
