"""TensorFlow Federated 0.87.0: its weighted federated averaging, with either loop over a client's batches."""

import collections
import os

import _protocol

if __name__ == "__main__":
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", CUDA_VISIBLE_DEVICES="")
    session = _protocol.begin(__doc__, ("iterator loop", "default loop"), ("W1", "W2", "W4"))

import tensorflow as tf
import tensorflow_federated as tff

LAYERS = {"W1": ("",), "W2": ("conv1/", "conv2/", "dense1/", "dense2/"), "W4": ("",)}


def keras_model(workload: str):
    """The workload's Keras model."""
    layers = tf.keras.layers
    if workload != "W2":
        return tf.keras.Sequential([layers.Dense(62, input_shape=(784,))])
    return tf.keras.Sequential(
        [
            layers.Conv2D(32, 3, activation="relu", input_shape=(28, 28, 1)),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPool2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(62),
        ]
    )


def peer(task: _protocol.Task, variant: str) -> _protocol.Peer:
    """TFF's process, which receives a list of `tf.data` data sets that is made anew in every round."""
    workload = task.workload
    names = [layer + part for layer in LAYERS[task.name] for part in ("kernel", "bias")]
    shape = workload.arrays["x"].shape[1:]
    batch_type = collections.OrderedDict(
        x=tf.TensorSpec((None, *shape), tf.float32), y=tf.TensorSpec((None,), tf.int32)
    )

    def model():
        return tff.learning.models.from_keras_model(
            keras_model(task.name),
            input_spec=batch_type,
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def data_set(client):
        x, y = task.client(client)
        return tf.data.Dataset.from_tensor_slices(collections.OrderedDict(x=x, y=y)).batch(workload.batch_size)

    loops = tff.learning.LoopImplementation
    options = {} if variant == "default loop" else {"loop_implementation": loops.DATASET_ITERATOR}
    process = tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(workload.learning_rate),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        **options,
    )

    def start():
        state = process.initialize()
        weights = tff.learning.models.ModelWeights([task.initial[name] for name in names], [])
        return process.set_model_weights(state, weights)

    def round_(state, k):
        return process.next(state, [data_set(c) for c in task.cohort(k)]).state

    def weights_of(state):
        return dict(zip(names, process.get_model_weights(state).trainable))

    return _protocol.Peer(f"tensorflow-federated 0.87.0, tensorflow {tf.__version__}", start, round_, weights_of)


if __name__ == "__main__":
    session.serve(peer(session.task, session.variant))
