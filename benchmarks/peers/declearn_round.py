"""declearn 2.9.1: server and clients as coroutines of one process that talk over websockets, W1 only.

Only clients that have joined, each with a connection, can train, so every round is on the clients of cohort
0; and declearn weights them by their steps, not by their examples. The weights
are therefore verified against a float64 program of the same two rounds instead of the common reference.
"""

import asyncio
import logging
import os
import socket

import _protocol

if __name__ == "__main__":
    session = _protocol.begin(__doc__, ("1 thread", "2 threads"), ("W1",))

import _torch_models as models
import numpy as np
import torch
from declearn.aggregator import AveragingAggregator
from declearn.communication import NetworkClientConfig, NetworkServerConfig
from declearn.dataset import InMemoryDataset
from declearn.main import FederatedClient, FederatedServer
from declearn.main.config import FLOptimConfig, FLRunConfig
from declearn.model.torch import TorchModel
from declearn.optimizer import Optimizer

MANY = 10**6
PATIENCE = 60  # seconds that the server waits for the clients to join


class OneByOne(FederatedServer):
    """declearn's server, which waits for an order before every round."""

    turnstile: _protocol.Turnstile
    initial: dict
    net: models.Logistic

    async def training_round(self, *args, **kwargs):
        order = await asyncio.to_thread(self.turnstile.wait)
        if order is None:  # the clients would wait for more rounds
            os._exit(0)
        if order.from_initial:
            models.set_weights(self.net, self.initial)
        await super().training_round(*args, **kwargs)
        self.turnstile.done(lambda: models.get_weights(self.net))

    async def evaluation_round(self, *args, **kwargs):
        """No evaluation."""


def reference(task: _protocol.Task, clients) -> dict:
    """The weights after two rounds in float64, the clients weighted by steps."""
    workload = task.workload
    kernel, bias = (task.initial[name].astype(np.float64) for name in ("kernel", "bias"))
    for _ in range(_protocol.CHECK_ROUNDS):
        steps = -(-workload.sizes[clients] // workload.batch_size)
        trained = [_train(kernel, bias, *task.client(c), workload.batch_size, workload.learning_rate) for c in clients]
        kernel = np.average([k for k, _ in trained], axis=0, weights=steps)
        bias = np.average([b for _, b in trained], axis=0, weights=steps)
    return {"kernel": kernel, "bias": bias}


def _train(kernel, bias, x, y, batch_size, learning_rate):
    x, targets = x.astype(np.float64), np.eye(len(bias))[y]
    for rows in np.split(np.arange(len(y)), range(batch_size, len(y), batch_size)):
        logits = x[rows] @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        errors = (p / p.sum(1, keepdims=True) - targets[rows]) * (learning_rate / len(rows))
        kernel, bias = kernel - x[rows].T @ errors, bias - errors.sum(0)
    return kernel, bias


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def run(session: _protocol.Session, clients) -> None:
    """Runs server and clients until the session stops them."""
    task, workload, port = session.task, session.task.workload, free_port()
    net, turnstile = models.Logistic(), _protocol.Turnstile()
    address = {"protocol": "websockets", "host": "127.0.0.1", "port": port}
    server = OneByOne(
        model=TorchModel(models.set_weights(net, task.initial), loss=torch.nn.CrossEntropyLoss()),
        netwk=NetworkServerConfig.from_params(**address),
        optim=FLOptimConfig(
            client_opt=Optimizer(lrate=workload.learning_rate),
            server_opt=Optimizer(lrate=1.0),
            aggregator=AveragingAggregator(steps_weighted=True),
        ),
    )
    server.turnstile, server.initial, server.net = turnstile, task.initial, server.model.get_wrapped_model().module
    config = FLRunConfig.from_params(
        rounds=MANY,
        register={"min_clients": len(clients), "max_clients": len(clients), "timeout": PATIENCE},
        training={"batch_size": workload.batch_size, "n_epoch": 1, "drop_remainder": False, "shuffle": False},
        evaluate={"batch_size": workload.batch_size, "frequency": MANY},
    )

    async def client(c):
        x, y = task.client(c)
        member = FederatedClient(
            netwk=NetworkClientConfig.from_params(
                protocol="websockets", server_uri=f"ws://127.0.0.1:{port}", name=f"client{c}"
            ),
            train_data=InMemoryDataset(np.array(x), target=y.astype(np.int64), expose_classes=False),
            share_metrics=False,
            verbose=False,
        )
        await member.async_run()

    session.serve_beside(turnstile, f"declearn 2.9.1, torch {torch.__version__}")
    await asyncio.gather(server.async_run(config), *map(client, clients))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(int(session.variant[0]))
    clients = session.task.cohort(0).tolist()
    task = session.task._replace(reference=reference(session.task, clients))
    asyncio.run(run(session._replace(task=task), clients))
