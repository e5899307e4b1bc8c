"""The workloads' models in torch, to and from the weights' common names and layout."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class _Classifier(nn.Module):
    """The functions that pfl needs of a module besides `forward`: a loss, and metrics, of which there are none."""

    def loss(self, x, y, eval=False):
        """Mean cross entropy of a batch."""
        return functional.cross_entropy(self(x), y)

    def metrics(self, x, y, eval=False):
        """No metrics."""
        return {}


class Logistic(_Classifier):
    """W1 and W4: softmax regression."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 62)

    def forward(self, x):
        return self.linear(x)

    def names(self):
        """By common name: parameter, and how the common layout becomes torch's and back."""
        return {"kernel": (self.linear.weight, _transpose), "bias": (self.linear.bias, _same)}


class Convolutional(_Classifier):
    """W2: two convolutions, max pooling, two dense layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.dense1, self.dense2 = nn.Linear(9216, 128), nn.Linear(128, 62)

    def forward(self, x):
        h = functional.relu(self.conv2(functional.relu(self.conv1(x.view(-1, 1, 28, 28)))))
        h = functional.max_pool2d(h, 2).flatten(1)
        return self.dense2(functional.relu(self.dense1(h)))

    def names(self):
        """By common name: parameter, and how the common layout becomes torch's and back."""
        layers = {"conv1": _kernel, "conv2": _kernel, "dense1": _flattened, "dense2": _transpose}
        found = {f"{name}/kernel": (getattr(self, name).weight, layout) for name, layout in layers.items()}
        return found | {f"{name}/bias": (getattr(self, name).bias, _same) for name in layers}


class Recurrent(_Classifier):
    """W3: embedding, two LSTM layers, dense.

    Torch has two biases per layer where the others have one: the first is trained, the second stays zero.
    """

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(90, 8), nn.LSTM(8, 256, 2, batch_first=True)
        self.dense = nn.Linear(256, 90)
        for layer in (0, 1):
            getattr(self.lstm, f"bias_hh_l{layer}").requires_grad_(False).zero_()

    def forward(self, x):
        return self.dense(self.lstm(self.embedding(x))[0]).transpose(1, 2)

    def names(self):
        """By common name: parameter, and how the common layout becomes torch's and back."""
        found = {"embedding": (self.embedding.weight, _same)}
        for i in (0, 1):
            found[f"layer_{i}/kernel"] = (getattr(self.lstm, f"weight_ih_l{i}"), _transpose)
            found[f"layer_{i}/recurrent_kernel"] = (getattr(self.lstm, f"weight_hh_l{i}"), _transpose)
            found[f"layer_{i}/bias"] = (getattr(self.lstm, f"bias_ih_l{i}"), _same)
        return found | {"dense/kernel": (self.dense.weight, _transpose), "dense/bias": (self.dense.bias, _same)}


def _same(array, back=False):
    return array


def _transpose(array, back=False):
    return array.T


def _kernel(array, back=False):
    """HWIO to OIHW."""
    return array.transpose(2, 3, 1, 0) if back else array.transpose(3, 2, 0, 1)


def _flattened(array, back=False):
    """A dense layer after flattening: rows in (height, width, channel) order to (channel, height, width)."""
    if back:
        return array.reshape(128, 64, 12, 12).transpose(2, 3, 1, 0).reshape(9216, 128)
    return array.reshape(12, 12, 64, 128).transpose(3, 2, 0, 1).reshape(128, 9216)


MODELS = {"W1": Logistic, "W2": Convolutional, "W3": Recurrent, "W4": Logistic}


def set_weights(model: nn.Module, weights: dict) -> nn.Module:
    """Writes weights in the common layout into a model, and returns it."""
    with torch.no_grad():
        for name, (parameter, layout) in model.names().items():
            parameter.copy_(torch.tensor(np.ascontiguousarray(layout(weights[name]))))
    return model


def get_weights(model: nn.Module) -> dict:
    """A copy of a model's weights in the common layout."""
    return {k: layout(p.detach().numpy(), back=True).copy() for k, (p, layout) in model.names().items()}


def client_tensors(task, c: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The examples of client `c`, copied once out of the memory map."""
    x, y = task.client(c)
    x = torch.tensor(x.astype(np.int64) if task.name == "W3" else x)
    return x, torch.tensor(y.astype(np.int64))
