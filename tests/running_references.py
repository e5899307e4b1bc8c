"""A model with running state, its clients, and their training in NumPy float64."""

import jax.numpy as jnp
import numpy as np

import fedjax_core as fc
from fedjax_core.contracts import ModelWeights, Predicted

CLIENTS = {"a": np.float32([[1], [3], [8], [2], [5]]), "b": np.zeros((0, 1), np.float32), "c": np.float32([[4], [6]])}


def centering(running="average") -> fc.Model:
    """The model of `w (x - mean)`: training uses the batch's own mean and keeps a running average of it."""

    def predict(weights, batch, key=None, training=False, mask=None):
        if not training:
            return weights.trainable["w"] * (batch["x"] - weights.non_trainable["mean"][None])
        mean = jnp.mean(batch["x"], axis=0, where=mask[:, None])
        moved = {"mean": 0.5 * weights.non_trainable["mean"] + 0.5 * mean}
        return Predicted(weights.trainable["w"] * (batch["x"] - mean[None]), moved)

    return fc.Model(
        init=lambda key: ModelWeights({"w": jnp.ones((1, 1))}, {"mean": jnp.full((1,), 7.0)}),
        predict=predict,
        loss=lambda predictions, batch: jnp.sum(predictions**2, axis=1),
        metrics={},
        batch_type=fc.types.parse_type("<x=float32[?,1]>"),
        running=running,
    )


def oracle(x) -> tuple[float, float]:
    """The weight and the running mean after two epochs in batches of two, which may span both epochs."""
    stream, w, mean = np.concatenate([x, x]).astype(np.float64)[:, 0], 1.0, 7.0
    for i in range(0, len(stream), 2):
        batch = stream[i : i + 2]
        centered = batch - batch.mean()
        w, mean = w - 0.01 * np.mean(2 * w * centered**2), 0.5 * mean + 0.5 * batch.mean()
    return w, mean
