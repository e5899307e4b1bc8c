import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import models
from fedjax_core.contracts import ModelWeights
from fedjax_core.model_calls import predicted

eqx = pytest.importorskip("equinox")

VECTORS = {"x": "float32[?,4]", "y": "int32[?]"}
IMAGES = {"x": "float32[?,2,5,5]", "y": "int32[?]"}


class Net(eqx.Module):
    """Everything that behaves differently in training."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    dense: eqx.nn.Linear

    def __init__(self, key, mode="batch"):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(2, 3, 3, key=first)
        self.norm = eqx.nn.BatchNorm(3, "batch", mode=mode, momentum=0.9)
        self.dropout = eqx.nn.Dropout(0.5)
        self.dense = eqx.nn.Linear(27, 3, key=second)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(x), state)
        return self.dense(self.dropout(jax.nn.relu(x).ravel(), key=key)), state


def create(key, mode="batch"):
    return eqx.nn.make_with_state(Net)(key, mode=mode)


def net(**options):
    return models.from_equinox(create, models.cross_entropy(), IMAGES, **options)


def mlp(key):
    return eqx.nn.MLP(4, 3, 5, 1, key=key)


@pytest.mark.slow
def test_a_module_without_state_keeps_the_laws_of_models(laws):
    laws.check_model(models.from_equinox(mlp, models.cross_entropy(), VECTORS), 3)


def test_it_traces_symbolically_and_learns(laws):
    model = net()
    laws.check_symbolic(model, key=jax.random.key(0), training=True)
    batch = laws.random_batch(model, 6, 3)
    run = jax.jit(lambda weights: laws.evaluate(model, weights, batch, jax.random.key(0), training=True))
    laws.check_gradient(run, laws.initial(model))


def test_evaluation_equals_the_module(laws):
    model = net()
    weights, batch = laws.initial(model), laws.random_batch(model, 6, 3)
    module, state = create(jax.random.key(0))
    expected, _ = jax.vmap(eqx.nn.inference_mode(module), (0, None), (0, None), "batch")(batch["x"], state)
    np.testing.assert_allclose(model.predict(weights, batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("padding", [0, 3])
def test_padding_is_not_in_batch_statistics(mode, padding):
    """Two steps give what equinox gives for the examples alone, in what is predicted and in the state."""

    def norm(key):
        return eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "batch", mode=mode, momentum=0.9)

    model = models.from_equinox(norm, models.squared_error(), {"x": "float32[?,2,5]", "y": "float32[?,2,5]"})
    weights, (module, state) = model.init(jax.random.key(0)), norm(None)
    mask, random = jnp.arange(4 + padding) < 4, np.random.default_rng(0)
    for _ in range(2):
        x = random.normal(size=(4 + padding, 2, 5)).astype(np.float32)
        output = predicted(model, weights, {"x": x, "y": x}, mask, training=True)
        expected, state = jax.vmap(module, (0, None), (0, None), "batch")(x[:4], state)
        np.testing.assert_allclose(output.predictions[:4], expected, rtol=1e-4, atol=1e-5)
        weights = weights._replace(non_trainable=output.non_trainable)
    found = jax.tree.leaves(models.to_equinox(weights, norm)[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, jax.tree.leaves(state))


def test_weights_are_nested_dicts_without_what_is_not_an_array():
    weights = net().init(jax.random.key(0))
    assert isinstance(weights, ModelWeights)
    assert {name: sorted(part) for name, part in weights.trainable.items()} == {
        name: ["bias", "weight"] for name in ("conv", "norm", "dense")
    }
    assert list(weights.non_trainable) == ["state"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(weights.non_trainable))


def test_weights_go_back_into_the_module():
    model = models.from_equinox(mlp, models.cross_entropy(), VECTORS)
    weights = jax.tree.map(lambda w: w + 1, model.init(jax.random.key(0)))
    x = np.ones((2, 4), np.float32)
    module = models.to_equinox(weights, mlp)
    np.testing.assert_allclose(jax.vmap(module)(x), model.predict(weights, {"x": x}), rtol=1e-6)


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match=r"must return an equinox.Module.*got .*; write `lambda key"):
        models.from_equinox(lambda key: jnp.ones(3), models.cross_entropy(), VECTORS)


def test_an_axis_of_another_name_is_refused(laws):
    model = net(axis_name="rows")
    batch = laws.random_batch(model, 4, 3)
    with pytest.raises(ValueError, match=r"unbound axis name: batch\); write from_equinox\(\.\.\., axis_name="):
        predicted(model, laws.initial(model), batch, jnp.ones(4, bool), jax.random.key(0), training=True)


def test_a_missing_extra_is_one_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r"pip install 'fedjax-core\[equinox\]'"):
        models.from_equinox(mlp, models.cross_entropy(), VECTORS)
