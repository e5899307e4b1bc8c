"""Exported weights and predictions, used without this package."""

import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.flax
import safetensors.numpy

import fedjax_core as fc
from fedjax_core.contracts import ModelWeights
from fedjax_core.program import Export, export_predict, export_weights

_USER = """
import pathlib, sys
import jax, numpy as np
from safetensors.numpy import load_file

folder = pathlib.Path(sys.argv[1])
predict = jax.export.deserialize(bytearray((folder / "predict.jax").read_bytes()))
with np.load(folder / "inputs.npz") as inputs:
    predictions = predict.call(load_file(folder / "weights.safetensors"), dict(inputs))
np.save(folder / "predictions.npy", predictions)
assert not [name for name in sys.modules if name.startswith("fedjax_core")]
"""


def _model(predict, batch_type):
    return fc.Model(
        init=lambda key: {"w": jnp.arange(6.0).reshape(3, 2)},
        predict=predict,
        loss=lambda predictions, batch: predictions[:, 0],
        metrics={},
        batch_type=fc.types.parse_type(batch_type),
    )


def _exported(model, folder, weights=None, **settings):
    weights = model.init(jax.random.key(0)) if weights is None else weights
    export_predict(model, **settings).write(folder, weights, {})
    return jax.export.deserialize(bytearray((folder / "predict.jax").read_bytes()))


def test_weights_are_what_safetensors_opens(tmp_path):
    weights = ModelWeights(
        {"dense": {"kernel": jnp.arange(6.0).reshape(3, 2).T, "scale": jnp.float32(2.5)}},
        {"count": jnp.arange(3), "empty": jnp.zeros((0, 4))},
    )
    export_weights().write(tmp_path, weights, {})
    arrays = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
    expected = {
        "trainable.dense.kernel": weights.trainable["dense"]["kernel"],
        "trainable.dense.scale": weights.trainable["dense"]["scale"],
        "non_trainable.count": weights.non_trainable["count"],
        "non_trainable.empty": weights.non_trainable["empty"],
    }
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_narrow_numbers_are_kept(tmp_path):
    weights = {"w": jnp.array([1.5, -2.0], jnp.bfloat16)}
    export_weights().write(tmp_path, weights, {})
    loaded = safetensors.flax.load_file(tmp_path / "weights.safetensors")
    assert loaded["w"].dtype == jnp.bfloat16 and loaded["w"].tolist() == [1.5, -2.0]


def test_predicts_the_same_in_a_process_without_this_package(tmp_path):
    model = fc.models.mlp(4, 8, 3)
    weights = jax.tree.map(lambda w: w + 0.1, model.init(jax.random.key(0)))
    export_predict(model).write(tmp_path, weights, {})
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=x)
    subprocess.run([sys.executable, "-c", _USER, str(tmp_path)], check=True, cwd=pathlib.Path(tmp_path))
    expected = model.predict(weights, {"x": x, "y": np.zeros(5, np.int32)})
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npy"), expected, rtol=1e-6, atol=1e-6)


def test_takes_the_inputs_alone_however_the_labels_are_called(tmp_path):
    """The labels are the first field; the inputs are sequences of any length."""

    @jax.jit
    def predict(weights, batch, key=None, training=False):
        return {"scores": batch["x"] @ weights["w"], "lengths": (batch["tokens"].sum(1),)}

    model = _model(predict, "<a_label=int32[?,?],tokens=int32[?,?],x=float32[?,3]>")
    exported = _exported(model, tmp_path)
    for size, length in ((2, 5), (7, 1), (1, 3)):
        inputs = {"x": np.ones((size, 3), np.float32), "tokens": np.ones((size, length), np.int32)}
        predictions = exported.call(model.init(None), inputs)
        assert set(predictions) == {"scores", "lengths.0"}
        np.testing.assert_allclose(predictions["scores"], np.tile([6.0, 9.0], (size, 1)))
        assert predictions["lengths.0"].tolist() == [length] * size


def test_a_batch_that_is_one_array(tmp_path):
    model = _model(lambda weights, batch, key=None, training=False: batch @ weights["w"], "float32[?,3]")
    predictions = _exported(model, tmp_path).call(model.init(None), {"value": np.ones((2, 3), np.float32)})
    np.testing.assert_allclose(predictions, [[6.0, 9.0]] * 2)


def test_predictions_that_depend_on_no_input(tmp_path):
    def predict(weights, batch, key=None, training=False):
        return jnp.tile(weights["w"][:1], (batch["x"].shape[0], 1))

    model = _model(predict, "<x=float32[?,3],y=int32[?]>")
    batch = {"x": np.ones((4, 3), np.float32), "y": np.ones(4, np.int32)}
    np.testing.assert_allclose(_exported(model, tmp_path).call(model.init(None), batch), [[0.0, 1.0]] * 4)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(x)


@pytest.mark.slow
def test_a_run_exports_the_running_state_that_it_leaves(tmp_path):
    """A client's 0, 3, 6 move the averages from 0 and 1 to .03 and 1.05, which then normalize the predictions."""
    batch_type = {"x": "float32[?,1]", "y": "float32[?,1]"}
    model = fc.models.from_linen(Normalized(), fc.models.squared_error(), batch_type)
    x = np.array([[0], [3], [6]], np.float32)
    result = fc.program.Run(
        fc.algorithms.fed_avg(model, optax.sgd(0.0), key=jax.random.key(0)),
        fc.data.from_clients([{"x": x, "y": x}]),
        sampler=1,
        batching=fc.data.Batching(4),
        rounds=1,
        folder=tmp_path / "run",
        exports=export_predict(model),
        key=jax.random.key(1),
    ).train()
    weights = safetensors.numpy.load_file(result.exports[0] / "weights.safetensors")
    averages = {name.rpartition(".")[2]: array.tolist() for name, array in weights.items() if "batch_stats" in name}
    assert averages == {"mean": [pytest.approx(0.03)], "var": [pytest.approx(1.05)]}
    exported = jax.export.deserialize(bytearray((result.exports[0] / "predict.jax").read_bytes()))
    np.testing.assert_allclose(exported.call(weights, {"x": x}), (x - 0.03) / np.sqrt(1.05 + 1e-5), rtol=1e-5)


def test_platforms(tmp_path):
    model = _model(lambda weights, batch, key=None, training=False: batch["x"] @ weights["w"], "<x=float32[?,3]>")
    assert _exported(model, tmp_path, platforms=["cpu", "cuda"]).platforms == ("cpu", "cuda")


def test_names():
    model = fc.models.logistic_regression(3, 2)
    assert [e.name for e in (export_weights(), export_predict(model))] == ["weights", "predict"]
    assert isinstance(export_predict(model, "other"), Export) and export_predict(model, "other").name == "other"


def test_refuses_what_is_no_model():
    with pytest.raises(TypeError, match=r"export_predict\(model=...\) must be a fc.Model, got 'cnn'"):
        export_predict("cnn")


@pytest.mark.parametrize("module", ["safetensors", "flatbuffers"])
def test_says_what_is_missing(module, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(module) or name == "jax._src.export.serialization"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    model = fc.models.logistic_regression(3, 2)
    with pytest.raises(ImportError, match=rf"needs {module}, .* pip install 'fedjax-core\[export\]'"):
        export_predict(model).write(tmp_path, model.init(jax.random.key(0)), {})
