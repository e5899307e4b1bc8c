import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_core import algorithms, clients, models
from fedjax_core.clients._coupling import warn_of_coupled_rows

VECTORS = {"x": "float32[?,6]", "y": "int32[?]"}
TOKENS = {"x": "int32[?,6]", "y": "int32[?,6]"}


def predicting(function):
    """A model of vectors whose predictions are a function of a batch's `x`."""

    def predict(weights, batch, key=None, training=False):
        return function(batch["x"])[:, :3] * weights["bias"][None]

    return models.logistic_regression(6, 3)._replace(predict=predict)


def in_batch_negatives(predictions, batch):
    return -jnp.diagonal(jax.nn.log_softmax(predictions @ predictions.T))


def masked_negatives(predictions, batch, mask):
    scores = jnp.where(mask[None, :], predictions @ predictions.T, -jnp.inf)
    return jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(predictions @ predictions.T)


class Layers(nn.Module):
    """Many of the layers that models are built from."""

    @nn.compact
    def __call__(self, tokens, train):
        x = nn.RNN(nn.OptimizedLSTMCell(4))(nn.Embed(7, 3)(tokens))
        x = nn.MultiHeadDotProductAttention(2, qkv_features=4, deterministic=not train, dropout_rate=0.1)(x)
        x = nn.LayerNorm()(nn.GroupNorm(2)(x))
        return nn.Dense(7)(nn.Dropout(0.5, deterministic=not train)(x))


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        x = nn.avg_pool(nn.max_pool(x, (2, 2), (2, 2)), (2, 2), (2, 2))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def linen(module, batch_type=VECTORS, loss=None, **options):
    return models.from_linen(module, loss or models.cross_entropy(), batch_type, **options)


INDEPENDENT = {
    "logistic_regression": lambda: models.logistic_regression(6, 3),
    "mlp": lambda: models.mlp(6, (4, 5), 3),
    "emnist_cnn": models.emnist_cnn,
    "character_model": models.character_model,
    "layers": lambda: linen(Layers(), TOKENS, models.sequence_cross_entropy()),
    "flax BatchNorm": lambda: linen(ConvNet(), {"x": "float32[?,8,8,1]", "y": "int32[?]"}),
    "a map over examples": lambda: predicting(lambda x: jax.lax.map(jnp.tanh, x)),
    "a loss that takes the mask": lambda: models.mlp(6, 4, 3)._replace(loss=masked_negatives),
    "a mean that nothing reads": lambda: predicting(lambda x: x + 0 * jnp.mean(x)),
    "NaN for one example": lambda: predicting(lambda x: x.at[0, 0].set(jnp.nan) + 0 * jnp.mean(x[-1])),
    "only numbers above 0": lambda: predicting(lambda x: jnp.log(x.min(1, keepdims=True)) + 0 * x + 0 * jnp.mean(x)),
    "two views": lambda: predicting(lambda x: jnp.split(jnp.tanh(jnp.concatenate([x, 2 * x])), 2)[0]),
    "predictions without rows": lambda: predicting(lambda x: x)._replace(
        predict=lambda weights, batch, key=None, training=False: {"x": batch["x"], "bias": weights["bias"]},
        loss=lambda predictions, batch: predictions["bias"].sum() + predictions["x"][:, 0] + 0 * batch["x"].mean(),
    ),
    "one batch size": lambda: linen(nn.Dense(3), {"x": "float32[5,6]", "y": "int32[5]"}),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_there_is_no_false_alarm(name, training):
    model = INDEPENDENT[name]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_coupled_rows(model, training)
    assert not [str(warning.message) for warning in caught if warning.category is UserWarning]
    algorithms.metrics_process(model)  # raises unless the model can be run


def test_a_model_that_warns_is_looked_at_all_the_same():
    def predict(x):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return COUPLED["mean"](x)

    with pytest.warns(UserWarning, match="padding changes the predictions"):
        warn_of_coupled_rows(predicting(predict), training=True)


class Centered(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(x - x.mean(0)[None] if train else x)


COUPLED = {
    "mean": lambda x: x - x.mean(0)[None],
    "softmax": lambda x: jax.nn.softmax(x, axis=0),
    "reversed": lambda x: x[::-1],
    "rolled": lambda x: jnp.roll(x, 1, axis=0),
    "sorted": lambda x: jnp.sort(x, axis=0),
    "running sum": lambda x: jnp.cumsum(x, axis=0),
    "carried": lambda x: jax.lax.scan(lambda carry, row: (carry + row, carry), jnp.zeros(6), x)[1],
    "indexed": lambda x: x[(jnp.arange(x.shape[0]) + 1) % x.shape[0]],
    "window": lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (3, 1), (1, 1), "SAME"),
    "convolved": lambda x: jax.vmap(lambda column: jnp.convolve(column, jnp.ones(3), "same"), 1, 1)(x),
    "attention": lambda x: jax.nn.softmax(x @ x.T) @ x,
    "in pairs": lambda x: (x.reshape(-1, 2, 6) - x.reshape(-1, 2, 6).mean(1, keepdims=True)).reshape(x.shape),
    "scrambled": lambda x: x.T.reshape(x.shape),
    "transformed": lambda x: jnp.fft.fft(x, axis=0).real,
    "padded": lambda x: jax.lax.pad(x, 0.0, [(-1, 1, 0), (0, 0, 0)]),
    "concatenated": lambda x: jnp.concatenate([x, x])[1::2],
    "greatest first": lambda x: jax.lax.top_k(x.T, x.shape[0])[0].T,
    "called back": lambda x: jax.pure_callback(
        lambda x: np.asarray(x)[::-1], jax.ShapeDtypeStruct(x.shape, x.dtype), x
    ),
    "only numbers above 0": lambda x: jnp.log(x) - jnp.log(x).mean(0)[None],
}


@pytest.mark.parametrize("name", COUPLED)
def test_predictions_that_padding_changes_are_told_of(name):
    with pytest.warns(UserWarning, match=r"predicting\.<locals>\.predict.*mask=None.*where=mask"):
        warn_of_coupled_rows(predicting(COUPLED[name]), training=True)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: (x - x.mean(0)[None]) / 0 * 0, "ValueError: predictions or losses are NaN"),
        (lambda x: (x.reshape(-1, 32, 6) - x.mean(0)[None, None]).reshape(x.shape), "TypeError: .*reshape"),
    ],
)
def test_what_cannot_be_tried_is_told_of(function, reason):
    with pytest.warns(UserWarning, match=f"predicting.*could not be tried on random batches: {reason}.*mask=None"):
        warn_of_coupled_rows(predicting(function), training=True)


def test_a_module_is_told_of_by_its_name_and_only_where_it_couples():
    model = linen(Centered())
    warn_of_coupled_rows(model, training=False)
    with pytest.warns(UserWarning, match=r'from_linen\(Centered\).*from_linen\(module, \.\.\., mask="mask"\)'):
        warn_of_coupled_rows(model, training=True)


def test_a_head_of_zeros_hides_nothing():
    class Headed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, kernel_init=nn.initializers.zeros)(x - x.mean(0)[None])

    with pytest.warns(UserWarning, match="padding changes the predictions"):
        warn_of_coupled_rows(linen(Headed()), training=True)


def test_statistics_over_an_axis_of_its_own_are_told_of():
    """A BatchNorm with an axis name takes the mean of means over that axis, and does not receive the mask."""

    class Mapped(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            norm = nn.vmap(
                lambda module, row: nn.BatchNorm(use_running_average=not train, axis_name="rows")(row[None])[0],
                variable_axes={"params": None, "batch_stats": None},
                split_rngs={"params": False},
                axis_name="rows",
            )
            return nn.Dense(3)(norm(self, x))

    with pytest.warns(UserWarning, match="padding changes the predictions.*without an axis name"):
        warn_of_coupled_rows(linen(Mapped()), training=True)


def test_a_mask_that_is_not_used_is_told_of():
    model = predicting(lambda x: x)

    def predict(weights, batch, key=None, training=False, mask=None):
        return model.predict(weights, {"x": batch["x"] - batch["x"].mean(0)[None]})

    with pytest.warns(UserWarning, match="padding changes the predictions"):
        warn_of_coupled_rows(model._replace(predict=predict), training=True)


def test_a_loss_is_told_of_once_where_an_algorithm_is_built():
    model = models.mlp(6, 4, 3)._replace(loss=in_batch_negatives)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    assert [str(warning.message)[:52] for warning in caught] == ["padding changes the loss `in_batch_negatives` of the"]


def test_a_loss_is_told_of_while_something_else_is_traced():
    """This happens if the optimizer is a function of the round number."""
    model = models.mlp(6, 4, 3)._replace(loss=lambda *args: in_batch_negatives(*args))
    with pytest.warns(UserWarning, match="padding changes the loss"):
        jax.eval_shape(lambda x: (warn_of_coupled_rows(model, training=True), x)[1], jnp.ones(3))


@pytest.mark.parametrize("build", [clients.local_evaluation, clients.training_loss])
def test_all_who_train_or_evaluate_are_told(build):
    model = models.mlp(6, 5, 3)._replace(loss=lambda *args: in_batch_negatives(*args))
    with pytest.warns(UserWarning, match="jnp.where\\(mask"):
        build(model)
