"""DrJAX 0.2.1: one program per round, with the clients of a cohort padded to the same number of batches and mapped."""

import _protocol

if __name__ == "__main__":
    session = _protocol.begin(__doc__, ("padded",), ("W1", "W2", "W4"))

import drjax
import jax
import jax.numpy as jnp
import numpy as np


def convolve(x, kernel, bias):
    """A 3x3 convolution as patches and one product, on CPU many times faster under a map than XLA's own."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    patches = [x[:, i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    return jax.nn.relu(jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1]) + bias)


def logits_of(weights: dict, x):
    """The workloads' logistic or convolutional model, as the names of the weights say."""
    if "kernel" in weights:
        return x @ weights["kernel"] + weights["bias"]

    def layer(name):
        return weights[f"{name}/kernel"], weights[f"{name}/bias"]

    h = convolve(convolve(x, *layer("conv1")), *layer("conv2"))
    h = h.reshape(-1, 12, 2, 12, 2, 64).max((2, 4)).reshape(len(x), -1)
    kernel, bias = layer("dense1")
    h = jax.nn.relu(h @ kernel + bias)
    kernel, bias = layer("dense2")
    return h @ kernel + bias


def loss(weights: dict, x, y, mask):
    """Mean cross entropy of the examples that are not padding."""
    log_probabilities = jax.nn.log_softmax(logits_of(weights, x))
    losses = -jnp.take_along_axis(log_probabilities, y[:, None], -1)[:, 0]
    return jnp.sum(losses * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def peer(task: _protocol.Task) -> _protocol.Peer:
    """DrJAX's `map_fn` and `reduce_weighted_mean` over a cohort, with one shape for all cohorts."""
    workload = task.workload
    clients, batch_size = workload.cohorts.shape[1], workload.batch_size
    batches = -(-int(workload.sizes[workload.cohorts].max()) // batch_size)
    position = np.arange(batches * batch_size)

    def train(weights, batched):
        def step(w, batch):
            gradient = jax.grad(loss)(w, *batch)
            return jax.tree.map(lambda a, g: a - workload.learning_rate * g, w, gradient), None

        return jax.lax.scan(step, weights, batched)[0]

    @jax.jit
    @drjax.program(placements={"clients": clients})
    def program(weights, batched, examples):
        trained = drjax.map_fn(train, (drjax.broadcast(weights), batched))
        return jax.tree.map(lambda leaf: drjax.reduce_weighted_mean(leaf, examples), trained)

    def start():
        return jax.tree.map(jnp.asarray, task.initial)

    def round_(weights, k):
        cohort = task.cohort(k)
        sizes = workload.sizes[cohort][:, None]
        mask = position < sizes
        rows = workload.offsets[cohort][:, None] + np.where(mask, position, 0)
        arrays = (workload.arrays["x"][rows], workload.arrays["y"][rows], mask.astype(np.float32))
        batched = [a.reshape(clients, batches, batch_size, *a.shape[2:]) for a in arrays]
        return jax.block_until_ready(program(weights, batched, sizes[:, 0].astype(np.float32)))

    return _protocol.Peer(f"drjax 0.2.1, jax {jax.__version__}", start, round_, weights=dict)


if __name__ == "__main__":
    session.serve(peer(session.task))
