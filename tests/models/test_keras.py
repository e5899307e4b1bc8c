"""Keras models; a test that writes into a Keras object builds its own."""

import os
import subprocess
import sys
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import models
from fedjax_core.contracts import ModelWeights
from fedjax_core.model_calls import predicted

keras = pytest.importorskip("keras")

VECTORS = {"x": "float32[?,4]", "y": "int32[?]"}
VALUES = {"x": "float32[?,1]", "y": "float32[?,1]"}


@pytest.fixture(autouse=True, scope="module")
def as_keras_promotes():
    """Keras's own code, called by itself, adds arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def strictly(function):
    """The function under the strictness that the package's tests run under."""

    def run(*args, **kwargs):
        with jax.numpy_rank_promotion("raise"):
            return function(*args, **kwargs)

    return run


def classifier(*layers, classes=3):
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(classes), keras.layers.Softmax()])


def small_net():
    """Everything that behaves differently in training."""
    return classifier(
        keras.layers.Dense(5, activation="relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    )


def values_of(net):
    return [np.array(variable.value) for variable in net.variables]


def batch_of(size, seed=0):
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(size, 4)).astype(np.float32), "y": random.integers(0, 3, size).astype(np.int32)}


def adapted(model=None, **options):
    return models.from_keras(model or small_net(), "sparse_categorical_crossentropy", VECTORS, **options)


@pytest.fixture(scope="module")
def small():
    """A `small_net`, the model of it and its weights, and its predictions, compiled."""
    net = small_net()
    model = adapted(net)
    weights = model.init(jax.random.key(0))
    return python_types.SimpleNamespace(net=net, model=model, weights=weights, predict=jax.jit(model.predict))


def test_it_traces_symbolically_and_learns(laws, small):
    for training in (False, True):
        strictly(laws.check_symbolic)(small.model, key=jax.random.key(0), training=training)
    batch = batch_of(8)

    def run(weights):
        return laws.evaluate(small.model, weights, batch, jax.random.key(0), training=True)

    laws.check_gradient(jax.jit(strictly(run)), small.weights)


def test_evaluation_equals_the_keras_model_which_is_left_as_it_was(small):
    before, batch = values_of(small.net), batch_of(8)
    np.testing.assert_allclose(small.predict(small.weights, batch), small.net(batch["x"]), rtol=1e-6)
    small.model.predict(small.weights, batch, jax.random.key(1), training=True)
    jax.tree.map(np.testing.assert_array_equal, before, values_of(small.net))


def test_moving_averages_are_running_state(small):
    assert isinstance(small.weights, ModelWeights)
    found = {layer: sorted(part) for layer, part in small.weights.non_trainable.items()}
    assert found == {"batch_normalization": ["moving_mean", "moving_variance"]}  # and not the seed of dropout


@pytest.mark.parametrize("size", [3, 4, 20])
@pytest.mark.parametrize("features", [1, 2])
def test_padding_is_not_in_batch_statistics(size, features):
    layer = keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9)
    net = keras.Sequential([keras.Input((features,)), layer])
    batch_type = {"x": f"float32[?,{features}]", "y": f"float32[?,{features}]"}
    model = models.from_keras(net, "mean_squared_error", batch_type)
    x = np.full((size, features), 50, np.float32)
    x[:3] = [[0], [3], [6]]
    mask = jnp.arange(size) < 3
    run = jax.jit(strictly(lambda weights: predicted(model, weights, {"x": x, "y": x}, mask, training=True)))
    output = run(model.init(jax.random.key(0)))
    np.testing.assert_allclose(output.predictions[:3, 0], [-np.sqrt(1.5), 0, np.sqrt(1.5)], rtol=1e-5, atol=1e-6)
    moved = output.non_trainable["batch_normalization"]
    np.testing.assert_allclose(moved["moving_mean"], 0.3, rtol=1e-5)
    np.testing.assert_allclose(moved["moving_variance"], 1.5, rtol=1e-5)
    assert "call" not in vars(layer)


def test_models_of_the_same_layers_have_weights_of_one_type(small):
    first, second = (fc.types.type_of(weights) for weights in (small.weights, adapted().init(jax.random.key(0))))
    assert str(first) == str(second)
    twice = adapted(classifier(keras.layers.Dense(5), keras.layers.Dense(5))).init(jax.random.key(0))
    assert list(twice) == ["dense", "dense_1", "dense_2"]


def test_a_subclass_that_is_not_built_is_built():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = keras.layers.Dense(5), keras.layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.second(self.first(x))

    weights = adapted(Net()).init(jax.random.key(0))
    assert {name: part["kernel"].shape for name, part in weights.items()} == {"dense": (4, 5), "dense_1": (5, 3)}


def test_several_inputs_in_the_order_named():
    left, right = keras.Input((4,)), keras.Input((4,))
    net = keras.Model([left, right], keras.layers.Subtract()([left, right]))
    batch_type = {"a": "float32[?,4]", "b": "float32[?,4]", "y": "float32[?,4]"}
    model = models.from_keras(net, "mse", batch_type, inputs=["b", "a"])
    batch = {"a": np.ones((2, 4), np.float32), "b": np.zeros((2, 4), np.float32)}
    assert (model.predict({}, batch) == -1).all()


def test_weights_go_back_into_the_keras_model(small):
    net, batch = small_net(), batch_of(8)
    weights = jax.tree.map(lambda w: w + 0.5, adapted(net).init(jax.random.key(0)))
    models.assign_to_keras(weights, net)
    np.testing.assert_allclose(net(batch["x"]), small.predict(weights, batch), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, adapted(net).init(jax.random.key(0)), weights)


def test_other_weights_are_refused_and_nothing_is_assigned(small):
    before = values_of(small.net)
    others = adapted(classifier(keras.layers.Dense(6), keras.layers.BatchNormalization())).init(jax.random.key(0))
    for weights in (others, {"dense": 3}, None):
        with pytest.raises(ValueError, match="takes the weights of a model with the layers"):
            models.assign_to_keras(weights, small.net)
    jax.tree.map(np.testing.assert_array_equal, values_of(small.net), before)


LOSSES = {
    "an object": lambda: keras.losses.SparseCategoricalCrossentropy(),
    "its name": lambda: "sparse_categorical_crossentropy",
    "a function": lambda: keras.losses.sparse_categorical_crossentropy,
    "a class": lambda: keras.losses.SparseCategoricalCrossentropy,
    "one of ours": lambda: lambda predictions, batch: models.cross_entropy()(jnp.log(predictions), batch),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_a_value_for_each_example(name):
    model = models.from_keras(classifier(), LOSSES[name](), VECTORS)
    predictions = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], np.float32)
    values = strictly(model.loss)(jnp.asarray(predictions), {"y": jnp.array([2, 0])})
    np.testing.assert_allclose(values, -np.log([0.5, 0.6]), rtol=1e-5)


def test_a_label_outside_of_the_classes_is_not_silent():
    predictions, batch = jnp.full((2, 3), 1 / 3), {"y": jnp.array([1, 7])}
    np.testing.assert_array_equal(jnp.isnan(adapted(classifier()).loss(predictions, batch)), [False, True])


def test_a_loss_of_several_components_is_their_mean():
    model = models.from_keras(
        keras.Sequential([keras.Input((2, 3)), keras.layers.Identity()]),
        "mae",
        {"x": "float32[?,2,3]", "y": "float32[?,2,3]"},
    )
    x = jnp.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_allclose(model.loss(x, {"y": jnp.zeros((2, 2, 3))}), [2.5, 8.5])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda: keras.losses.SparseCategoricalCrossentropy(reduction="sum"), "has reduction='sum'; write reduction="),
        (lambda: keras.losses.SparseCategoricalCrossentropy(ignore_class=0), "ignores a class"),
        (lambda: "sparse_crossentropy", "there is no Keras loss 'sparse_crossentropy'"),
    ],
)
def test_a_loss_that_is_no_mean_over_examples_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        models.from_keras(classifier(), loss(), VECTORS)


def test_a_loss_over_the_whole_batch_is_refused():
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"one value per example, got the shape .* of 'dice'"):
        models.from_keras(net, keras.losses.Dice(), VALUES)


def test_a_loss_over_what_a_layer_masks_is_refused():
    net = keras.Sequential(
        [keras.Input((6,), dtype="int32"), keras.layers.Embedding(7, 3, mask_zero=True), keras.layers.Dense(7)]
    )
    with pytest.raises(ValueError, match="mask_zero=True"):
        models.from_keras(net, "sparse_categorical_crossentropy", {"x": "int32[?,6]", "y": "int32[?,6]"})


def compiled(metric):
    return fc.Metric(jax.jit(metric.measure), jax.jit(metric.finalize))


METRICS = {
    "accuracy": lambda: "accuracy",
    "object": lambda: keras.metrics.SparseCategoricalAccuracy(),
    "name": lambda: "sparse_categorical_accuracy",
    "top k": lambda: keras.metrics.SparseTopKCategoricalAccuracy(k=2),
    "cross entropy": lambda: keras.metrics.SparseCategoricalCrossentropy(),
}


@pytest.fixture(scope="module")
def measured():
    return adapted(classifier(), metrics={name: metric() for name, metric in METRICS.items()})


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_keras_and_leaves_padding_out(measured, name):
    random = np.random.default_rng(0)
    predictions = random.dirichlet(np.ones(3), 12).astype(np.float32)
    batch, mask = {"y": random.integers(0, 3, 12).astype(np.int32)}, np.arange(12) % 3 != 1
    expected = {
        "top k": keras.metrics.SparseTopKCategoricalAccuracy(k=2),
        "cross entropy": keras.metrics.SparseCategoricalCrossentropy(),
    }.get(name, keras.metrics.SparseCategoricalAccuracy())
    expected.update_state(batch["y"][mask], predictions[mask])
    metric = compiled(measured.metrics[name])
    found = metric.finalize(metric.measure(predictions, batch, jnp.asarray(mask)))
    np.testing.assert_allclose(found, expected.result(), rtol=1e-5)
    assert np.isnan(metric.finalize(metric.measure(predictions, batch, jnp.zeros(12, bool))))


@pytest.mark.slow
def test_metrics_keep_the_laws_of_metrics():
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    kept = [keras.metrics.AUC(num_thresholds=5), keras.metrics.F1Score(), keras.metrics.BinaryAccuracy()]
    batch_type = {"x": "float32[?,4]", "y": "float32[?,1]"}
    model = models.from_keras(net, "binary_crossentropy", batch_type, metrics=kept)
    predictions = np.linspace(0, 1, 7, dtype=np.float32)[:, None]
    for metric in model.metrics.values():
        strictly(fc.testing.check_metric)(compiled(metric), predictions, {"y": (predictions > 0.4).astype(np.float32)})


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda: keras.metrics.PearsonCorrelation(), "must add up, but it does not"),
        (lambda: keras.metrics.Mean(), "is updated with"),
        (lambda: 3, "takes Keras metrics"),
    ],
)
def test_a_metric_that_does_not_add_up_is_refused(metric, message):
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(TypeError, match=message):
        models.from_keras(net, "mse", VALUES, metrics={"it": metric()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_regularizer": "l2"}, "adds losses.*optax.add_decayed_weights"),
        ({"activity_regularizer": "l2"}, "adds losses"),
        ({"kernel_constraint": "non_neg"}, "constrains .*kernel"),
    ],
)
def test_what_a_loss_for_each_example_would_lose_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adapted(classifier(keras.layers.Dense(5, **options)))


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match=r"takes a keras.Model, got <class.*call it to get one: Sequential"):
        models.from_keras(keras.Sequential, "mse", VECTORS)
    with pytest.raises(ValueError, match="'z', which is not one of"):
        adapted(classifier(), label="z")


def test_another_backend_is_one_error(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match=r'got torch; write before .*os\.environ\["KERAS_BACKEND"\] = "jax"'):
        adapted(None)


def test_a_backend_that_is_not_installed_is_the_same_error():
    code = "from fedjax_core import models; models.from_keras(None, 'mse', {'x': 'float32[?]'})"
    environment = {**os.environ, "KERAS_BACKEND": "openvino"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "RuntimeError: from_keras needs Keras on its JAX backend" in run.stderr


def test_the_package_imports_it_only_when_it_is_used():
    code = "import sys, fedjax_core as fc; fc.models.mlp(2, 3, 4); assert not {'keras', 'equinox'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_extra_is_one_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r"pip install 'fedjax-core\[keras\]'"):
        models.from_keras(None, "mse", VECTORS)


def test_predictions_are_exported(tmp_path):
    model = adapted(classifier())
    weights, batch = model.init(jax.random.key(0)), batch_of(5)
    fc.program.export_predict(model).write(tmp_path, weights, {})
    exported = jax.export.deserialize(bytearray((tmp_path / "predict.jax").read_bytes()))
    named = {f"{layer}.{name}": array for layer, part in weights.items() for name, array in part.items()}
    found = exported.call(named, {"x": batch["x"]})
    np.testing.assert_allclose(found, model.predict(weights, batch), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_tutorials_steps_give_the_weights_of_the_same_flax_model():
    """TFF's tutorial on image classification: a linear model from zeros, clients' SGD .02, the server's SGD 1."""
    import flax.linen as nn

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10, kernel_init=nn.initializers.zeros)(x.reshape(x.shape[0], -1))

    zeros = keras.layers.Dense(10, kernel_initializer="zeros")
    net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), zeros, keras.layers.Softmax()])
    batch_type = {"x": "float32[?,8,8,1]", "y": "int32[?]"}
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    ours = models.from_keras(net, keras.losses.SparseCategoricalCrossentropy(), batch_type, [accuracy])
    name = "sparse_categorical_accuracy"
    theirs = models.from_linen(Linear(), models.cross_entropy(), batch_type, {name: fc.metrics.accuracy()})
    data = fc.data.digits(num_clients=10, key=jax.random.key(0))
    train, test = data.split_examples(0.8, key=jax.random.key(1))
    cohort = train.cohort(train.client_ids[:4], fc.data.Batching(20, num_epochs=2))
    held_out = test.cohort(test.client_ids, fc.data.Batching(100))

    results = [_trained(strictly, model, cohort, held_out) for model in (ours, theirs)]
    (weights, *numbers), (flax_weights, *flax_numbers) = results
    np.testing.assert_allclose(weights["dense"]["kernel"], flax_weights["Dense_0"]["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights["dense"]["bias"], flax_weights["Dense_0"]["bias"], rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), numbers, flax_numbers)
    assert numbers[0][-1]["loss"] < numbers[0][0]["loss"]

    models.assign_to_keras(weights, net)
    images, labels = (np.concatenate([test[i][field] for i in test.client_ids]) for field in ("x", "y"))
    assert (np.argmax(net(images), axis=1) == labels).mean() == pytest.approx(float(numbers[1]["eval"][name]), rel=1e-5)


def _trained(strictly, model, cohort, held_out):
    """The weights after three rounds, each round's metrics, and those of held-out examples."""
    process = fc.algorithms.fed_avg(model, optax.sgd(0.02), server_optimizer=optax.sgd(1.0), key=jax.random.key(2))
    config = fc.EngineConfig(devices=1)  # quicker to compile than eight
    process, evaluation = (part.with_config(config) for part in (process, fc.algorithms.federated_evaluation(model)))
    state, history = process.initialize(), []
    for _ in range(3):
        state, metrics = strictly(process.next)(state, cohort)
        train = metrics["client_work"]["train"]
        history.append({name: train[name] for name in ("loss", "sparse_categorical_accuracy", "num_examples")})
    weights = process.get_model_weights(state)
    return weights, history, strictly(evaluation)(weights, held_out)
