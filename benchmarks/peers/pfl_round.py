"""pfl-research 0.6.0 with torch, in one process: federated averaging as its simulator runs it."""

import _protocol

if __name__ == "__main__":
    session = _protocol.begin(__doc__, ("2 threads", "1 thread"))

import _torch_models as models
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel

MANY = 10**6


class OneByOne(TrainingProcessCallback):
    """Waits for an order before every round and gives its clients to the simulator."""

    def __init__(self, turnstile, task, net):
        self.turnstile, self.task, self.net, self.clients = turnstile, task, net, iter(())

    def next_client(self) -> int:
        """The client that the simulator trains next."""
        return next(self.clients)

    def _wait(self) -> bool:
        order = self.turnstile.wait()
        if order is None:
            return True
        if order.from_initial:
            models.set_weights(self.net, self.task.initial)
        self.clients = iter(self.task.cohort(order.k).tolist())
        return False

    def on_train_begin(self, *, model):
        self._wait()
        return super().on_train_begin(model=model)

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.turnstile.done(lambda: models.get_weights(self.net))
        return self._wait(), aggregate_metrics.__class__()


def run(session: _protocol.Session) -> None:
    """Runs the simulator, whose rounds are those that the session receives."""
    task, workload = session.task, session.task.workload
    torch.set_num_threads(int(session.variant[0]))
    net = models.set_weights(models.MODELS[task.name](), task.initial)
    turnstile = _protocol.Turnstile()
    callback = OneByOne(turnstile, task, net)
    data = FederatedDataset(
        lambda c: PyTorchTensorDataset(models.client_tensors(task, c)),
        callback.next_client,
    )
    session.serve_beside(turnstile, f"pfl 0.6.0, torch {torch.__version__}")
    FederatedAveraging().run(
        NNAlgorithmParams(MANY, MANY, workload.cohorts.shape[1], None),
        SimulatedBackend(data, None, [WeightByDatapoints()]),
        PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0)),
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=workload.learning_rate,
            local_batch_size=workload.batch_size,
        ),
        None,
        [callback],
    )


if __name__ == "__main__":
    run(session)
