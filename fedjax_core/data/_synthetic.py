"""The synthetic classification task of the FedProx paper."""

import jax
import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _federated_data, _hashing

_NUM_FEATURES = 60
_NUM_CLASSES = 10


def synthetic(alpha: float, beta: float, num_clients: int = 30, *, key: jax.Array) -> _federated_data.FederatedData:
    r"""Synthetic clients whose models and features differ, each by a chosen amount.

    Client k draws its own linear model and uses it to label its own Gaussian features:

    .. math::
      u_k &\sim N(0, \alpha), & W_k &\sim N(u_k, 1)^{60 \times 10}, & b_k &\sim N(u_k, 1)^{10} \\
      B_k &\sim N(0, \beta), & v_k &\sim N(B_k, 1)^{60}, & x &\sim N(v_k, \Sigma),\ \Sigma_{jj} = j^{-1.2} \\
      y &= \operatorname{argmax}(\operatorname{softmax}(x W_k + b_k))

    `alpha` is meant to control how much the models differ, `beta` how much the features do. Both are variances, like
    the second argument of N in the paper. The authors' program passes them as standard deviations, which makes no
    difference for 0 and 1 but does for 0.5. Even (0, 0) is not iid, since every client draws its own :math:`W_k` and
    :math:`v_k`; see `synthetic_iid`. Note that :math:`u_k` shifts the scores of all classes equally, so `alpha`,
    taken literally, changes no label: clients differ by the rest of :math:`W_k` and by `beta`.

    The number of examples is 50 plus the integer part of a lognormal draw (whose logarithm has mean 4 and standard
    deviation 2), so a few clients hold most of the examples. What a client holds depends on the key and the client's
    number only, not on the number of clients.

    Args:
      alpha: variance of the models' means, at least 0.
      beta: variance of the features' means, at least 0.
      num_clients: number of clients, whose ids are 0, 1, ...; 30 in the paper.
      key: draws everything.

    Returns:
      Data of the type `<x=float32[?,60],y=int32[?]>`, with labels from 0 to 9.

    Raises:
      TypeError: `key` is not a typed key, a variance is not a number, or the number of clients is not an integer.
      ValueError: a variance is negative or not finite, or there is no client.

    Example:
      >>> synthetic(1.0, 1.0, num_clients=3, key=jax.random.key(0)).element_type
      parse_type('<x=float32[?,60],y=int32[?]>')

    References:
      Li et al.: Federated optimization in heterogeneous networks, MLSys 2020, section 5.1 and appendix C.1.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        _checks.checked_number(f"synthetic({name}=...)", value, _checks.NOT_NEGATIVE, f"write {name}=1.0")

    def client(random: np.random.Generator) -> dict:
        num_examples = _num_examples(random)
        model = _model(random, mean=random.normal(0, np.sqrt(alpha)))
        center = random.normal(random.normal(0, np.sqrt(beta)), 1, _NUM_FEATURES)
        return _labelled(random, num_examples, center, model)

    return _clients("synthetic", client, num_clients, key)


def synthetic_iid(num_clients: int = 30, *, key: jax.Array) -> _federated_data.FederatedData:
    r"""The task of `synthetic`, with the same model and the same distribution of features for all clients.

    .. math:: W \sim N(0, 1)^{60 \times 10}, \quad b \sim N(0, 1)^{10}, \quad x \sim N(0, \Sigma)

    :math:`\Sigma`, the labels and the numbers of examples are defined as in `synthetic`.

    Args:
      num_clients: number of clients, whose ids are 0, 1, ...
      key: draws everything.

    Returns:
      Data of the type `<x=float32[?,60],y=int32[?]>`, with labels from 0 to 9.

    Raises:
      ValueError: there is no client.
      TypeError: `key` is not a typed key, or the number of clients is not an integer.

    Example:
      >>> synthetic_iid(num_clients=3, key=jax.random.key(0)).client_ids
      ClientIds(0, 1, 2)
    """
    model = _model(_hashing.generator(key, "synthetic_iid model"), mean=0.0)

    def client(random: np.random.Generator) -> dict:
        return _labelled(random, _num_examples(random), np.zeros(_NUM_FEATURES), model)

    return _clients("synthetic_iid", client, num_clients, key)


def _clients(name: str, client, num_clients: int, key: jax.Array) -> _federated_data.FederatedData:
    num_clients = _checks.checked_integer(f"{name}(num_clients=...)", num_clients, 1, "write num_clients=30")
    clients = [client(_hashing.generator(key, f"{name} client {k}")) for k in range(num_clients)]
    return _federated_data.FederatedData.from_clients(clients)


def _num_examples(random: np.random.Generator) -> int:
    return int(random.lognormal(4, 2)) + 50


def _model(random: np.random.Generator, mean: float) -> tuple[np.ndarray, np.ndarray]:
    return random.normal(mean, 1, (_NUM_FEATURES, _NUM_CLASSES)), random.normal(mean, 1, _NUM_CLASSES)


def _labelled(random: np.random.Generator, num_examples: int, center: np.ndarray, model: tuple) -> dict:
    """Examples around `center` with the labels that the model gives them."""
    deviation = np.arange(1, _NUM_FEATURES + 1) ** -0.6  # the square root of the diagonal of Sigma
    x = center + deviation * random.standard_normal((num_examples, _NUM_FEATURES))
    weights, bias = model
    return {"x": x.astype(np.float32), "y": np.argmax(x @ weights + bias, axis=1).astype(np.int32)}
