"""Oracles in plain NumPy float64: what a federated program means, one client and one batch at a time."""

import numpy as np


def batches(client: dict, batch_size: int, num_epochs: int = 1) -> list[dict]:
    """The batches of a client without shuffling: its epochs in sequence, cut into batches."""
    number = len(client["y"])
    rows = np.tile(np.arange(number), num_epochs)
    return [
        {name: np.asarray(values, np.float64)[rows[start : start + batch_size]] for name, values in client.items()}
        for start in range(0, len(rows), batch_size)
    ]


def gradient(weights: np.ndarray, batch: dict) -> np.ndarray:
    """The gradient of the mean of `(x @ weights - y)**2 / 2` over a batch."""
    return batch["x"].T @ (batch["x"] @ weights - batch["y"]) / len(batch["y"])


def train(weights, client: dict, *, batch_size, learning_rate, momentum=0.0, weight_decay=0.0, num_epochs=1):
    """Linear regression by SGD: the weights after a client's last batch, and the number of examples processed."""
    weights = np.asarray(weights, np.float64)
    velocity, examples = np.zeros_like(weights), 0
    for batch in batches(client, batch_size, num_epochs):
        velocity = momentum * velocity + gradient(weights, batch) + weight_decay * weights
        weights = weights - learning_rate * velocity
        examples += len(batch["y"])
    return weights, examples


def weighted_mean(values, weights) -> np.ndarray:
    """`sum(v * w) / sum(w)` over the first axis."""
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    return np.tensordot(weights, values, 1) / weights.sum()


def scatter(table, keys, rows) -> np.ndarray:
    """The table after each client in turn has written its row; keys outside the table are ignored."""
    table = np.array(table)
    for key, row in zip(keys, rows):
        if 0 <= key < len(table):
            table[key] = row
    return table
