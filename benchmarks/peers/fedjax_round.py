"""FedJAX 0.0.17: federated averaging on its `for_each_client`, with batches padded to one shape, or as shipped.

As shipped, a client's last batch is filled by wrapping around to its first examples, so the weights differ
from those of plain epochs (by 5e-4 after two rounds of W1), and every size of that batch is one more program; these
programs are compiled before the session is ready. Padded batches compute the same weights as the other programs.
"""

import _protocol

if __name__ == "__main__":
    session = _protocol.begin(__doc__, ("padded", "shipped"))

import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from fedjax.algorithms import fed_avg

# Of the logistic and the convolutional model, by our layer (none: the weights have no layers): haiku's module.
MODULES = {
    "W1": {"": "linear"},
    "W2": {"conv1": "conv2_d", "conv2": "conv2_d_1", "dense1": "linear", "dense2": "linear_1"},
    "W4": {"": "linear"},
}
# Of the recurrent one, whose layers haiku keeps as one kernel for input and state.
LSTM = {"layer_0": "lstm/linear", "layer_1": "lstm_1/linear"}
STATE = 256


def cross_entropy(batch, predictions):
    """Cross entropy of each example."""
    return fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], predictions)


def sequence_cross_entropy(batch, predictions):
    """Mean cross entropy of each sequence's symbols."""
    return jnp.mean(cross_entropy(batch, predictions), axis=-1)


def logistic(batch):
    """W1 and W4."""
    return hk.Linear(62)(batch["x"])


def convolutional(batch):
    """W2; FedJAX's own EMNIST model without its dropout."""
    h = jax.nn.relu(hk.Conv2D(32, (3, 3), padding="VALID")(batch["x"]))
    h = jax.nn.relu(hk.Conv2D(64, (3, 3), padding="VALID")(h))
    h = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), "VALID")(h)
    h = jax.nn.relu(hk.Linear(128)(hk.Flatten()(h)))
    return hk.Linear(62)(h)


def recurrent(batch):
    """W3, with a dynamic unroll: FedJAX's own model unrolls 80 steps and does not finish compiling here."""
    core = hk.DeepRNN([hk.LSTM(256), hk.LSTM(256)])
    h = hk.Embed(90, 8)(batch["x"].T)
    h, _ = hk.dynamic_unroll(core, h, core.initial_state(h.shape[1]))
    return hk.Linear(90)(h).transpose(1, 0, 2)


def model_of(workload: str):
    """FedJAX's model for a workload."""
    if workload == "W3":
        x, forward, loss = jnp.zeros((1, 80), jnp.int32), recurrent, sequence_cross_entropy
        return fedjax.create_model_from_haiku(hk.transform(forward), {"x": x, "y": x}, loss)
    forward = convolutional if workload == "W2" else logistic
    shape = (1, 28, 28, 1) if workload == "W2" else (1, 784)
    batch = {"x": jnp.zeros(shape), "y": jnp.zeros(1, jnp.int32)}
    return fedjax.create_model_from_haiku(hk.transform(forward), batch, cross_entropy)


def swap_gates(array):
    """Exchanges the second and third gate: the common order is (i, f, g, o), haiku's (i, g, f, o)."""
    i, second, third, o = np.split(np.asarray(array), 4, axis=-1)
    return np.concatenate([i, third, second, o], axis=-1)


# Haiku adds one to the forget gate, the common layout has it in the bias.
FORGET = np.repeat(np.float32([0, 1, 0, 0]), STATE)


def to_haiku(workload: str, weights: dict) -> dict:
    """Weights in haiku's names."""
    if workload == "W3":
        found = {"embed": {"embeddings": weights["embedding"]}}
        found["linear"] = {"w": weights["dense/kernel"], "b": weights["dense/bias"]}
        for layer, module in LSTM.items():
            kernel = np.concatenate([weights[f"{layer}/kernel"], weights[f"{layer}/recurrent_kernel"]])
            found[module] = {"w": swap_gates(kernel), "b": swap_gates(weights[f"{layer}/bias"] - FORGET)}
    else:
        found = {
            module: {"w": weights[f"{layer}/kernel".lstrip("/")], "b": weights[f"{layer}/bias".lstrip("/")]}
            for layer, module in MODULES[workload].items()
        }
    return jax.tree_util.tree_map(jnp.asarray, found)


def from_haiku(workload: str, params: dict) -> dict:
    """Weights in their common names."""
    found = {}
    if workload == "W3":
        found = {"embedding": params["embed"]["embeddings"]}
        found |= {"dense/kernel": params["linear"]["w"], "dense/bias": params["linear"]["b"]}
        for layer, module in LSTM.items():
            kernel = swap_gates(params[module]["w"])
            found[f"{layer}/kernel"], found[f"{layer}/recurrent_kernel"] = np.split(kernel, [len(kernel) - STATE])
            found[f"{layer}/bias"] = swap_gates(params[module]["b"]) + FORGET
        return found
    for layer, module in MODULES[workload].items():
        found[f"{layer}/kernel".lstrip("/")] = params[module]["w"]
        found[f"{layer}/bias".lstrip("/")] = params[module]["b"]
    return found


def padded_algorithm(gradient, client_optimizer, server_optimizer, batch_size: int):
    """FedJAX's federated averaging with `padded_batch` in place of `shuffle_repeat_batch`."""
    tree_util = fedjax.tree_util
    train = fed_avg.create_train_for_each_client(gradient, client_optimizer)

    def initialize(params):
        return fed_avg.ServerState(params, server_optimizer.init(params))

    def apply(state, clients):
        sizes = {c: len(data) for c, data, _ in clients}
        batched = [(c, data.padded_batch(batch_size=batch_size), key) for c, data, key in clients]
        total, examples = tree_util.tree_zeros_like(state.params), 0.0
        for c, delta in train(state.params, batched):
            total, examples = tree_util.tree_add(total, tree_util.tree_weight(delta, sizes[c])), examples + sizes[c]
        mean = tree_util.tree_inverse_weight(total, examples)
        optimizer_state, params = server_optimizer.apply(mean, state.opt_state, state.params)
        return fed_avg.ServerState(params, optimizer_state), None

    return fedjax.FederatedAlgorithm(initialize, apply)


def peer(task: _protocol.Task, variant: str) -> _protocol.Peer:
    """FedJAX with one of its two kinds of batches."""
    workload = task.workload
    gradient = fedjax.model_grad(model_of(task.name))
    optimizers = fedjax.optimizers.sgd(workload.learning_rate), fedjax.optimizers.sgd(1.0)
    if variant == "padded":
        algorithm = padded_algorithm(gradient, *optimizers, workload.batch_size)
    else:
        batches = fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch_size, num_epochs=1, skip_shuffle=True)
        algorithm = fed_avg.federated_averaging(gradient, *optimizers, batches)

    def start():
        return algorithm.init(to_haiku(task.name, task.initial))

    def round_of(state, clients, k):
        keys = jax.random.split(jax.random.PRNGKey(k), len(clients))
        data = [fedjax.ClientDataset(dict(zip("xy", task.client(c)))) for c in clients]
        state, _ = algorithm.apply(state, list(zip(clients, data, keys)))
        return jax.block_until_ready(state)

    def round_(state, k):
        return round_of(state, task.cohort(k).tolist(), k)

    if variant == "shipped":  # one client of every size of last batch, so that no round compiles
        _, examples = np.unique(workload.sizes % workload.batch_size, return_index=True)
        round_of(start(), examples.tolist(), 0)
    version = f"fedjax 0.0.17, jax {jax.__version__}"
    return _protocol.Peer(version, start, round_, lambda state: from_haiku(task.name, state.params))


if __name__ == "__main__":
    session.serve(peer(session.task, session.variant))
