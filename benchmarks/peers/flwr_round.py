"""Flower 1.42.0: its simulation on Ray with one actor per core, and ordinary torch code in the clients.

The engine looks at all pending messages for every node, over and over, so sending a round of W4 to
1,000 nodes at once takes 2.5 times as long as sending it to 100 nodes ten times. The server does the latter.
"""

import os
import pathlib

import _protocol

if __name__ == "__main__":
    here = str(pathlib.Path(__file__).resolve().parent)
    os.environ.update(PYTHONPATH=here, FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")
    session = _protocol.begin(__doc__, ("ray actors",), ("W1", "W2", "W4"))

import functools

import _torch_models as models
import ray
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import sample_nodes
from flwr.simulation import run_simulation

NODES = 100  # at most; 50 is as fast, 20 is slower


@functools.cache
def actor(workload: str, data: str):
    """Made once in each actor: the task, whose examples all actors share as one memory map, and a model."""
    torch.set_num_threads(1)
    return _protocol.load(workload, pathlib.Path(data)), models.MODELS[workload]()


client_app = ClientApp()


@client_app.train()
def train(message: Message, context) -> Message:
    """The epoch of the client that the message names."""
    import flwr_round  # the cache of the module, not of the function that Ray has pickled

    config = message.content["config"]
    task, net = flwr_round.actor(config["workload"], config["data"])
    workload = task.workload
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = models.client_tensors(task, config["client"])
    optimizer = torch.optim.SGD(net.parameters(), lr=workload.learning_rate)
    for i in range(0, len(x), workload.batch_size):
        optimizer.zero_grad()
        net.loss(x[i : i + workload.batch_size], y[i : i + workload.batch_size]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(x), "client": config["client"]})
    return Message(content=RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


def one_round(grid, nodes, strategy, arrays, task, data, k) -> ArrayRecord:
    """The mean over cohort `k`, whose clients the nodes play one group after another."""

    def message(client, node):
        config = ConfigRecord({"client": client, "workload": task.name, "data": data})
        content = RecordDict({"arrays": arrays, "config": config})
        return Message(content=content, message_type="train", dst_node_id=node)

    cohort, replies = task.cohort(k).tolist(), []
    for begin in range(0, len(cohort), len(nodes)):
        group = cohort[begin : begin + len(nodes)]
        replies += grid.send_and_receive([message(client, node) for client, node in zip(group, nodes)])
    for reply in replies:  # the strategy would do without those that failed
        if reply.has_error():
            raise RuntimeError(f"a client failed: {reply.error.reason}")
    _protocol.every_client_once(cohort, [int(reply.content["metrics"]["client"]) for reply in replies])
    return strategy.aggregate_train(k, replies)[0]


def run(session: _protocol.Session) -> None:
    """Runs the simulation until the session stops it."""
    task, data = session.task, str(session.data)
    number = min(NODES, task.workload.cohorts.shape[1])
    net = models.MODELS[task.name]()
    turnstile = _protocol.Turnstile()
    server_app = ServerApp()

    @server_app.main()
    def main(grid, context):
        nodes, _ = sample_nodes(grid, number, number)  # waits: they are still registering when the server begins
        strategy, arrays = FedAvg(), None
        for order in iter(turnstile.wait, None):
            if order.from_initial:
                arrays = ArrayRecord(models.set_weights(net, task.initial).state_dict())
            arrays = one_round(grid, nodes, strategy, arrays, task, data, order.k)
            turnstile.done(functools.partial(weights_of, arrays))

    def weights_of(arrays):
        net.load_state_dict(arrays.to_torch_state_dict())
        return models.get_weights(net)

    session.serve_beside(turnstile, f"flwr 1.42.0, ray {ray.__version__}, torch {torch.__version__}")
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0}}
    options = {"init_args": {"num_cpus": os.cpu_count(), "logging_level": "warning", "log_to_driver": True}}
    run_simulation(server_app, client_app, number, backend_config=resources | options)


if __name__ == "__main__":
    run(session)
