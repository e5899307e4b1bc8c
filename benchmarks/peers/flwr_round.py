"""Flower 1.42.0: its simulation on Ray with one actor a core, and ordinary torch code in the clients."""

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
from flwr.simulation import run_simulation

MANY = 10**6


@functools.cache
def actor(workload: str, data: str):
    """Once in an actor: the task, whose examples all actors share as one memory map, and a model."""
    torch.set_num_threads(1)
    return _protocol.load(workload, pathlib.Path(data)), models.MODELS[workload]()


client_app = ClientApp()


@client_app.train()
def train(message: Message, context) -> Message:
    """One client's epoch; the node of partition `i` plays the cohort's client `i`."""
    import flwr_round  # the cache of the module, not of the function that Ray has pickled

    config = message.content["config"]
    client = config["cohort"][context.node_config["partition-id"]]
    task, net = flwr_round.actor(config["workload"], config["data"])
    workload = task.workload
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = models.client_tensors(task, client)
    optimizer = torch.optim.SGD(net.parameters(), lr=workload.learning_rate)
    for i in range(0, len(x), workload.batch_size):
        optimizer.zero_grad()
        net.loss(x[i : i + workload.batch_size], y[i : i + workload.batch_size]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(x), "client": client})
    return Message(content=RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


class OneByOne(FedAvg):
    """Flower's averaging over all nodes, with the rounds that are asked for."""

    def __init__(self, turnstile, task, data, net):
        nodes = task.workload.cohorts.shape[1]
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self.turnstile, self.task, self.data, self.net = turnstile, task, data, net

    def configure_train(self, server_round, arrays, config, grid):
        order = self.turnstile.wait()
        if order is None:  # Flower has no way to end a run early
            ray.shutdown()
            os._exit(0)
        if order.from_initial:
            arrays = ArrayRecord(models.set_weights(self.net, self.task.initial).state_dict())
        self.cohort = self.task.cohort(order.k).tolist()
        config = ConfigRecord({"cohort": self.cohort, "workload": self.task.name, "data": self.data})
        # Nodes are still registering when the first round begins: only Flower's own sampling waits for all.
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)  # Flower would average over those that came
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(f"a client failed: {reply.error.reason}")
        _protocol.every_client_once(self.cohort, [int(r.content["metrics"]["client"]) for r in replies])
        arrays, metrics = super().aggregate_train(server_round, replies)

        def weights():
            self.net.load_state_dict(arrays.to_torch_state_dict())
            return models.get_weights(self.net)

        self.turnstile.done(weights)
        return arrays, metrics


def run(session: _protocol.Session) -> None:
    """Runs the simulation until the session stops it."""
    task = session.task
    net = models.set_weights(models.MODELS[task.name](), task.initial)
    turnstile = _protocol.Turnstile()
    server_app = ServerApp()

    @server_app.main()
    def main(grid, context):
        strategy = OneByOne(turnstile, task, str(session.data), net)
        strategy.start(grid=grid, initial_arrays=ArrayRecord(net.state_dict()), num_rounds=MANY, timeout=MANY)

    session.serve_beside(turnstile, f"flwr 1.42.0, ray {ray.__version__}, torch {torch.__version__}")
    cores = os.cpu_count()
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0}}
    options = {"init_args": {"num_cpus": cores, "logging_level": "warning", "log_to_driver": True}}
    run_simulation(server_app, client_app, task.workload.cohorts.shape[1], backend_config=resources | options)


if __name__ == "__main__":
    run(session)
