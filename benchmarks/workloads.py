"""The workloads W1 to W4: their data, cohorts, models and batching, and the reference of W1's weights.

| | model | clients a round | client lr, batch |
|---|---|---|---|
| W1 | softmax regression 784 -> 62, from zeros | 100 | 0.02, 20 |
| W2 | CNN: two 3x3 convolutions, max-pool, dense 128, dense 62 | 20 | 0.05, 20 |
| W3 | character model: 90 symbols, embedding 8, two LSTM layers of 256 | 20 | 0.5, 10 |
| W4 | W1's | 1,000 | 0.02, 20 |

The data are synthetic: 3,400 clients with 51 to 500 examples in EMNIST's shape, and 715 clients with 30 to 200
sequences of 81 symbols. The cohorts are drawn once. A folder of data holds `x.npy` (read as a memory map),
`meta.npz` (offsets, labels, sequences, cohorts, initial weights) and `ref_w1.npz` (W1's weights after two
rounds without shuffling, NumPy float64); reading them needs only NumPy.

    python benchmarks/workloads.py --data benchmarks/data

makes them, which takes a minute and 2.3 GB of disk.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

import numpy as np

NAMES = ("W1", "W2", "W3", "W4")
FOLDER = "FEDJAX_CORE_BENCH_DATA"
CLIENTS = {"W1": 100, "W2": 20, "W4": 1000, "W3": 20}
BATCH_SIZE = {"W1": 20, "W2": 20, "W3": 10, "W4": 20}
LEARNING_RATE = {"W1": 0.02, "W2": 0.05, "W3": 0.5, "W4": 0.02}
FEATURES, CLASSES, SYMBOLS, HIDDEN = 784, 62, 90, 256
_COHORTS = 20
_CHUNK = 100_000  # rows that are drawn at once; another number would give other data


@dataclasses.dataclass(frozen=True)
class Workload:
    """One workload in memory, its examples on disk.

    Attributes:
      name: "W1" to "W4".
      arrays: the examples `x` and `y`, `[rows, ...]`, of all clients, one client after another.
      offsets: int64 `[N + 1]`, where each client's rows start.
      cohorts: int64 `[rounds, C]`, the clients of each round.
      batch_size: `B`.
      learning_rate: the learning rate of the clients' SGD.
      initial: the initial weights, in the form of fedjax_core's model of this workload.
    """

    name: str
    arrays: dict
    offsets: np.ndarray
    cohorts: np.ndarray
    batch_size: int
    learning_rate: float
    initial: dict

    @property
    def sizes(self) -> np.ndarray:
        """int64 `[N]`, the number of examples of each client."""
        return np.diff(self.offsets)


def folder(argument: str | None = None) -> pathlib.Path:
    """The folder of the data: the argument, the environment variable, or `data` beside this file."""
    return pathlib.Path(argument or os.environ.get(FOLDER) or pathlib.Path(__file__).parent / "data")


def add_data_option(parser: argparse.ArgumentParser):
    """Adds `--data` to a script's command line."""
    parser.add_argument("--data", help=f"folder of the data; default: ${FOLDER}, or data/ beside the scripts")


def make(data: pathlib.Path, population: int = 3400, writers: int = 715):
    """Draws the data and writes its three files.

    Args:
      data: the folder.
      population: the number of clients of W1, W2 and W4, which limits the size of their cohorts.
      writers: the number of clients of W3.
    """
    data.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    offsets = _offsets(200 * np.exp(0.35 * random.standard_normal(population)), 20, 500)
    y = random.integers(0, CLASSES, int(offsets[-1])).astype(np.int32)
    means = (random.random((CLASSES, FEATURES)) < 0.25).astype(np.float32) * 0.6
    unfinished = data / "x.unfinished.npy"
    x = np.lib.format.open_memmap(unfinished, "w+", np.float32, (len(y), FEATURES))
    for begin in range(0, len(y), _CHUNK):
        labels = y[begin : begin + _CHUNK]
        noise = random.standard_normal((len(labels), FEATURES), dtype=np.float32)
        x[begin : begin + _CHUNK] = means[labels] + 0.3 * noise
    x.flush()
    draw = np.random.RandomState(0)
    meta = {"off": offsets, "y": y}
    meta |= {f"cohort_{name}": _draw_cohorts(draw, population, CLIENTS[name]) for name in ("W1", "W2", "W4")}
    meta |= _sequences(random, writers)
    meta["cohort_W3"] = _draw_cohorts(draw, writers, CLIENTS["W3"])
    meta |= _initial_weights()
    np.savez(data / "meta.npz", **meta)
    np.savez(data / "ref_w1.npz", **reference(x, y, offsets, meta["cohort_W1"][:2]))
    os.replace(unfinished, data / "x.npy")


def _offsets(sizes: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    sizes = np.clip(np.rint(sizes), smallest, largest).astype(np.int64)
    return np.concatenate([[0], np.cumsum(sizes)])


def _draw_cohorts(draw: np.random.RandomState, population: int, clients: int) -> np.ndarray:
    number = min(clients, population)
    return np.stack([draw.choice(population, number, replace=False) for _ in range(_COHORTS)]).astype(np.int64)


def _sequences(random: np.random.Generator, writers: int) -> dict:
    """Sequences of a Markov chain of 86 symbols; the first four of the 90 never occur."""
    offsets = _offsets(60 * np.exp(0.5 * random.standard_normal(writers)), 30, 200)
    chain = random.dirichlet(np.full(86, 0.05), 86).cumsum(1)
    sequences = np.zeros((int(offsets[-1]), 81), np.int32)
    sequences[:, 0] = random.integers(0, 86, len(sequences))
    for t in range(1, 81):
        passed = chain[sequences[:, t - 1]] < random.random((len(sequences), 1))
        sequences[:, t] = np.minimum(passed.sum(1), 85)
    return {"off_seq": offsets, "seq": sequences + 4}


def _initial_weights() -> dict:
    random = np.random.default_rng(1)

    def normal(variance, *shape):
        return (random.standard_normal(shape) * np.sqrt(variance)).astype(np.float32)

    def zeros(*shape):
        return np.zeros(shape, np.float32)

    cnn = {
        "c1w": normal(2 / 9, 3, 3, 1, 32), "c1b": zeros(32),
        "c2w": normal(2 / 288, 3, 3, 32, 64), "c2b": zeros(64),
        "d1w": normal(2 / 9216, 9216, 128), "d1b": zeros(128),
        "d2w": normal(2 / 128, 128, 62), "d2b": zeros(62),
    }  # fmt: skip

    def lstm_normal(fan, *shape):
        return (random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)

    lstm = {
        "emb": lstm_normal(8, SYMBOLS, 8),
        "l1x": lstm_normal(264, 8, 1024), "l1h": lstm_normal(264, 256, 1024), "l1b": zeros(1024),
        "l2x": lstm_normal(512, 256, 1024), "l2h": lstm_normal(512, 256, 1024), "l2b": zeros(1024),
        "ow": lstm_normal(256, 256, SYMBOLS), "ob": zeros(SYMBOLS),
    }  # fmt: skip
    return {f"cnn_{k}": v for k, v in cnn.items()} | {f"lstm_{k}": v for k, v in lstm.items()}


def reference(x: np.ndarray, y: np.ndarray, offsets: np.ndarray, cohorts: np.ndarray) -> dict:
    """W1's weights `w` and `b` after the rounds of `cohorts`, with batches in order, in float64."""
    w, b = np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)
    for cohort in cohorts:
        total_w, total_b, total = 0, 0, 0
        for client in cohort:
            rows = slice(offsets[client], offsets[client + 1])
            client_w, client_b = _reference_client(w, b, x[rows].astype(np.float64), y[rows])
            size = offsets[client + 1] - offsets[client]
            total_w, total_b, total = total_w + size * client_w, total_b + size * client_b, total + size
        w, b = total_w / total, total_b / total
    return {"w": w, "b": b}


def _reference_client(w, b, x, y):
    w, b = w.copy(), b.copy()
    for begin in range(0, len(y), BATCH_SIZE["W1"]):
        xb, yb = x[begin : begin + BATCH_SIZE["W1"]], y[begin : begin + BATCH_SIZE["W1"]]
        logits = xb @ w + b
        gradient = np.exp(logits - logits.max(1, keepdims=True))
        gradient /= gradient.sum(1, keepdims=True)
        gradient[np.arange(len(yb)), yb] -= 1
        gradient /= len(yb)
        w -= LEARNING_RATE["W1"] * xb.T @ gradient
        b -= LEARNING_RATE["W1"] * gradient.sum(0)
    return w, b


def load(name: str, data: pathlib.Path) -> Workload:
    """Opens a workload, and makes the data if the folder has none.

    Raises:
      ValueError: there is no such workload.
    """
    if name not in NAMES:
        raise ValueError(f"load(name=...) must be one of {', '.join(NAMES)}, got {name!r}")
    if not (data / "x.npy").exists():
        make(data)
    with np.load(data / "meta.npz") as meta:
        if name == "W3":
            sequences, offsets = meta["seq"], meta["off_seq"]
            arrays = {"x": np.ascontiguousarray(sequences[:, :-1]), "y": np.ascontiguousarray(sequences[:, 1:])}
        else:
            offsets = meta["off"]
            arrays = {"x": np.asarray(np.load(data / "x.npy", mmap_mode="r")), "y": meta["y"]}
        if name == "W2":
            arrays["x"] = arrays["x"].reshape(-1, 28, 28, 1)
        initial = _INITIAL[name](meta)
        return Workload(name, arrays, offsets, meta[f"cohort_{name}"], BATCH_SIZE[name], LEARNING_RATE[name], initial)


def _zeros(meta) -> dict:
    return {"kernel": np.zeros((FEATURES, CLASSES), np.float32), "bias": np.zeros(CLASSES, np.float32)}


def _cnn(meta) -> dict:
    layers = {"conv1": "c1", "conv2": "c2", "dense1": "d1", "dense2": "d2"}
    return {name: {"kernel": meta[f"cnn_{k}w"], "bias": meta[f"cnn_{k}b"]} for name, k in layers.items()}


def _character_model(meta) -> dict:
    """The character model's weights.

    The files' LSTM adds one to the forget gate (the second of four); the model's LSTM has it in the bias.
    """

    def layer(k):
        bias = meta[f"lstm_{k}b"].copy()
        bias[HIDDEN : 2 * HIDDEN] += 1
        return {"kernel": meta[f"lstm_{k}x"], "recurrent_kernel": meta[f"lstm_{k}h"], "bias": bias}

    dense = {"kernel": meta["lstm_ow"], "bias": meta["lstm_ob"]}
    return {"embedding": meta["lstm_emb"], "layer_0": layer("l1"), "layer_1": layer("l2"), "dense": dense}


_INITIAL = {"W1": _zeros, "W2": _cnn, "W3": _character_model, "W4": _zeros}


def load_reference(data: pathlib.Path) -> dict:
    """W1's float64 weights after two rounds, in the form of fedjax_core's model."""
    with np.load(data / "ref_w1.npz") as weights:
        return {"kernel": weights["w"], "bias": weights["b"]}


def touch(workload: Workload):
    """Reads one number from every page, so that no timed round is the first to map it."""
    for array in workload.arrays.values():
        array.reshape(-1)[:: 4096 // array.itemsize].sum()


def federated_data(workload: Workload):
    """The workload's clients as `fedjax_core.data.FederatedData`, with the ids 0, 1, ..."""
    import fedjax_core as fc

    return fc.data.from_arrays(workload.arrays, np.repeat(np.arange(len(workload.sizes)), workload.sizes))


def model(workload: Workload):
    """The workload's `fedjax_core.Model`."""
    import fedjax_core as fc

    if workload.name == "W2":
        return fc.models.emnist_cnn(CLASSES)
    if workload.name == "W3":
        return fc.models.character_model(SYMBOLS, pad=None)
    return fc.models.logistic_regression(FEATURES, CLASSES)


def process(workload: Workload):
    """Federated averaging of the workload, and its initial state."""
    import jax
    import optax

    import fedjax_core as fc

    averaging = fc.algorithms.fed_avg(model(workload), optax.sgd(workload.learning_rate), key=jax.random.key(0))
    weights = jax.tree.map(jax.numpy.asarray, workload.initial)
    return averaging, averaging.set_model_weights(averaging.initialize(), weights)


def difference(weights, other, initial) -> float:
    """The distance of two results of training: the norm of their difference over the norm of `other`'s change."""
    import jax

    def norm(a, b):
        differences = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), a, b)
        return np.sqrt(sum(np.sum(leaf * leaf) for leaf in jax.tree.leaves(differences)))

    return float(norm(weights, other) / norm(other, initial))


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes the data of the workloads.")
    add_data_option(parser)
    make(folder(parser.parse_args(argv).data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
