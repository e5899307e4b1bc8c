"""One process of a federation over loopback sockets.

`server FOLDER PARTICIPANTS ROUNDS` listens, prints its port and trains; `participant FOLDER PORT NUMBER` answers.
The folder holds `initial.npz`, each participant's `NUMBER.npz`, and in the end `trained.npz` and `metrics.json`.
"""

import json
import pathlib
import sys
from multiprocessing.connection import Client, Connection, Listener

FEATURES, CLASSES, RATE = 4, 3, 0.3
BATCHES = {"batch_size": 3, "num_epochs": 2}


def make_model():
    import fedjax_core as fc

    return fc.models.logistic_regression(FEATURES, CLASSES, metrics={"accuracy": fc.metrics.accuracy()})


def serve(folder: pathlib.Path, num_participants: int, num_rounds: int) -> None:
    with Listener(("127.0.0.1", 0)) as listener:
        print(listener.address[1], flush=True)
        import jax
        import numpy as np

        import fedjax_core as fc
        from fedjax_core.participant import EvaluationRequest, TrainRequest
        from fedjax_core.program import load_weights, save_weights

        model = make_model()
        weights = load_weights(folder / "initial.npz", like=jax.eval_shape(model.init, jax.random.key(0)))
        aggregation = fc.aggregators.as_process(fc.aggregators.mean(), fc.clients.weights_type(model))
        state = aggregation.initialize()
        participants = [listener.accept() for _ in range(num_participants)]
        for round_i in range(num_rounds):
            replies = asked(participants, TrainRequest(round_i, weights, {}, BATCHES, n_epoch=1))
            updates, examples = [reply.updates for reply in replies], [float(reply.n_examples) for reply in replies]
            state, update, _ = aggregation.next(state, updates, examples)
            weights = fc.trees.subtract(weights, update)
        replies = asked(participants, EvaluationRequest(num_rounds, weights, {"batch_size": 100}))
        total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *(reply.metrics for reply in replies))
        metrics = {name: float(m.finalize(total[name])) for name, m in fc.model_calls.model_metrics(model).items()}
        save_weights(weights, folder / "trained.npz")
        (folder / "metrics.json").write_text(json.dumps(metrics))


def asked(participants: list[Connection], request) -> list:
    """The answers of all participants to the same request."""
    from fedjax_core.participant import decode_message, encode_message

    for participant in participants:
        participant.send_bytes(encode_message(request))
    return [decode_message(participant.recv_bytes()) for participant in participants]


def participate(folder: pathlib.Path, port: int, number: int) -> None:
    with Client(("127.0.0.1", port)) as server:
        import numpy as np
        import optax

        import fedjax_core as fc
        from fedjax_core.participant import TrainingManager, TrainRequest, decode_message, encode_message

        data = dict(np.load(folder / f"{number}.npz"))
        manager = TrainingManager(make_model(), optax.sgd(RATE), fc.aggregators.mean(), data)
        while True:
            try:
                message = decode_message(server.recv_bytes())
            except EOFError:
                return
            trains = isinstance(message, TrainRequest)
            server.send_bytes(encode_message((manager.training_round if trains else manager.evaluation_round)(message)))


if __name__ == "__main__":
    role, folder, *numbers = sys.argv[1:]
    {"server": serve, "participant": participate}[role](pathlib.Path(folder), *map(int, numbers))
