"""Federated learning in plain NumPy float64, and the model and clients that the tests of learning share.

The model is softmax regression with `F` features and `K` classes; weights are a dict of `kernel` `[F, K]` and
`bias` `[K]`; a client is a dict of `x` `[n, F]` and `y` `[n]`.
"""

import jax
import jax.numpy as jnp
import numpy as np

import fedjax_core as fc
from fedjax_core.contracts import Model

FEATURES, CLASSES = 4, 3


def linear_model(seed=0) -> Model:
    """Softmax regression with random initial weights, so that no gradient is symmetric."""
    model = fc.models.logistic_regression(FEATURES, CLASSES, metrics={"accuracy": fc.metrics.accuracy()})

    def init(key):
        kernel, bias = jax.random.split(jax.random.fold_in(key, seed))
        return {
            "kernel": 0.3 * jax.random.normal(kernel, (FEATURES, CLASSES)),
            "bias": 0.3 * jax.random.normal(bias, (CLASSES,)),
        }

    return model._replace(init=init)


def make_clients(sizes, seed=0) -> dict:
    """Clients with these numbers of examples, by ids "a", "b", ...; each has its own bias."""
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(FEATURES, CLASSES))
    clients = {}
    for i, size in enumerate(sizes):
        x = (random.normal(size=(size, FEATURES)) + 0.3 * random.normal(size=FEATURES)).astype(np.float32)
        scores = x @ kernel + random.gumbel(size=(size, CLASSES))
        clients[chr(ord("a") + i)] = {"x": x, "y": scores.argmax(1).astype(np.int32)}
    return clients


def cohort(clients: dict, ids=None, *, batch_size=3, num_epochs=1):
    """A cohort in the order of `ids`, without shuffling."""
    data = fc.data.from_clients(clients)
    return data.cohort(list(clients) if ids is None else ids, fc.data.Batching(batch_size, num_epochs))


def batches(client: dict, batch_size: int, num_epochs: int) -> list[dict]:
    """The epochs in sequence, cut into batches: a batch may span two epochs, and only the last one may be partial."""
    stream = np.tile(np.arange(len(client["y"])), num_epochs)
    cuts = [stream[i : i + batch_size] for i in range(0, len(stream), batch_size)]
    return [{"x": client["x"][rows].astype(np.float64), "y": client["y"][rows]} for rows in cuts]


def as_float64(weights) -> dict:
    return jax.tree.map(lambda w: np.asarray(w, np.float64), weights)


def predict(weights: dict, batch: dict) -> np.ndarray:
    return batch["x"] @ weights["kernel"] + weights["bias"]


def losses(weights: dict, batch: dict) -> np.ndarray:
    """Softmax cross entropy of each example."""
    logits = predict(weights, batch)
    top = logits.max(1, keepdims=True)
    return np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(len(logits)), batch["y"]]


def gradient(weights: dict, batch: dict) -> dict:
    """The gradient of the mean loss of a batch."""
    logits = predict(weights, batch)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    errors = (probabilities - np.eye(CLASSES)[batch["y"]]) / len(logits)
    return {"kernel": batch["x"].T @ errors, "bias": errors.sum(0)}


def measured(weights: dict, batch: dict) -> np.ndarray:
    """The sum of the losses, the number of correct predictions, and the number of examples."""
    right = predict(weights, batch).argmax(1) == batch["y"]
    return np.array([losses(weights, batch).sum(), right.sum(), len(right)])


def finalized(statistics: np.ndarray) -> dict:
    loss, right, count = statistics
    return {"loss": loss / count, "accuracy": right / count, "num_examples": count}


def evaluate(weights: dict, clients: dict) -> dict:
    """The metrics over all examples of all clients."""
    every = [measured(weights, b) for client in clients.values() for b in batches(client, 1000, 1)]
    return finalized(np.sum(every, axis=0))


class SGD:
    """`v = momentum * v + g + decay * w + pull * (w - start); w -= rate * v`.

    In optax this is `add_decayed_weights`, then SGD with momentum; `pull` is the strength of FedProx.
    """

    def __init__(self, rate, momentum=0.0, decay=0.0, pull=0.0):
        self.rate, self.momentum, self.decay, self.pull = rate, momentum, decay, pull

    def run(self, weights: dict, steps: list[dict]) -> tuple[dict, np.ndarray]:
        """The trained weights, and the statistics of every batch before its step."""
        start, trace, statistics = weights, jax.tree.map(np.zeros_like, weights), np.zeros(3)
        for batch in steps:
            statistics = statistics + measured(weights, batch)
            slope = jax.tree.map(
                lambda g, w, s: g + self.decay * w + self.pull * (w - s), gradient(weights, batch), weights, start
            )
            trace = jax.tree.map(lambda t, g: self.momentum * t + g, trace, slope)
            weights = jax.tree.map(lambda w, t: w - self.rate * t, weights, trace)
        return weights, statistics


def fed_avg_update(weights, clients: dict, optimizer: SGD, batch_size, num_epochs, weighting="examples"):
    """The weighted mean of initial minus trained weights, and the metrics of training.

    Args:
      weighting: "examples", "uniform", or a function of a client's finalized metrics.
    """
    updates, sizes, total = [], [], np.zeros(3)
    for client in clients.values():
        steps = batches(client, batch_size, num_epochs)
        trained, statistics = optimizer.run(weights, steps)
        total = total + statistics
        updates.append(jax.tree.map(np.subtract, weights, trained))
        number = sum(len(b["y"]) for b in steps)
        if weighting == "examples":
            sizes.append(float(number))
        elif number == 0:
            sizes.append(0.0)
        else:
            sizes.append(1.0 if weighting == "uniform" else float(weighting(finalized(statistics))))
    mean = jax.tree.map(lambda *u: sum(w * x for w, x in zip(sizes, u)) / sum(sizes), *updates)
    return mean, finalized(total)


def assert_close(actual, expected, **tolerance):
    """Compares leaf by leaf, by default to 1e-5."""
    tolerance = tolerance or {"rtol": 1e-5, "atol": 1e-5}
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(np.asarray(a), np.asarray(e), **tolerance)


def assert_same_bits(actual, expected):
    """Compares the bits of all leaves, including dtypes; keys by their key data."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert a.dtype == e.dtype and a.shape == e.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, e = jax.random.key_data(a), jax.random.key_data(e)
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes()


def bits(tree) -> list[bytes]:
    """The bits of each leaf of any container, without keys."""
    keyless = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return [np.asarray(x).tobytes() for x in keyless]


def quadratic_model() -> Model:
    """The model of `a/2 (x - b)^2`, which starts at x = 0."""
    return Model(
        init=lambda key: jnp.zeros(()),
        predict=lambda weights, batch, key=None, training=False: batch["a"] / 2 * (weights - batch["b"]) ** 2,
        loss=lambda predictions, batch: predictions,
        metrics={},
        batch_type=fc.types.parse_type("<a=float32[?],b=float32[?]>"),
    )


def quadratic_cohort(ids):
    """Ten full steps for each of these clients: client 0 has a = 1, b = 10, and client 1 has a = 4, b = -1."""
    data = fc.data.from_clients([{"a": np.float32([a]), "b": np.float32([b])} for a, b in ((1, 10), (4, -1))])
    return data.cohort(ids, fc.data.Batching(1, 10))
