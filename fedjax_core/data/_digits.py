"""The handwritten digits that ship with the package."""

import io
from importlib import resources

import jax
import numpy as np

from fedjax_core.data import _federated_data, _partitioners


def digits(
    num_clients: int | None = 100,
    partitioner: _partitioners.Partitioner | None = None,
    *,
    key: jax.Array | None = None,
) -> _federated_data.FederatedData:
    """1,797 images of handwritten digits, partitioned over clients.

    An example is an image `x`, float32 `[8, 8, 1]` from 0 (background) to 1, and its digit `y`, an int32
    from 0 to 9. Images have a channel axis, so convolutions take them as they are; `map` flattens them for a model
    that takes vectors. The data do not say who wrote which digit, so a partitioner assigns them to clients. There is
    no separate test set: hold out some examples of every client with `split_examples`, or some clients with
    `split_clients`.

    Args:
      num_clients: number of clients, whose ids are 0, 1, ...; None where the partitioner chooses the clients.
      partitioner: assigns the digits to clients; None is `dirichlet(0.5)`, which gives each client mostly a few of the
        ten digits.
      key: for partitioners that draw.

    Returns:
      Data of the type `<x=float32[?,8,8,1],y=int32[?]>`.

    Raises:
      ValueError: the partitioner cannot serve so many clients, for instance more than 1,797.
      TypeError: the partitioner draws and there is no key.

    Example:
      >>> data = digits(num_clients=100, key=jax.random.key(0))
      >>> data
      FederatedData(100 clients with 1797 examples of <x=float32[?,8,8,1],y=int32[?]>)
      >>> train, test = data.split_examples(0.8, key=jax.random.key(1))
      >>> flat = train.map(lambda e: {"x": e["x"].reshape(-1, 64), "y": e["y"]})
      >>> flat[0]["x"].shape
      (14, 64)

    References:
      E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
      1998 (CC BY 4.0), as shipped by scikit-learn; see `files/PROVENANCE.md`.
    """
    return _partitioners.partition(
        digits_arrays(),
        num_clients,
        _partitioners.dirichlet(0.5) if partitioner is None else partitioner,
        key=key,
    )


def digits_arrays() -> dict[str, np.ndarray]:
    """All digits without clients, for a centralized baseline or a split of your own before partitioning.

    Returns:
      `{"x": float32 [1797, 8, 8, 1] from 0 to 1, "y": int32 [1797] from 0 to 9}`.

    Example:
      >>> arrays = digits_arrays()
      >>> arrays["x"].shape, arrays["y"][:5]
      ((1797, 8, 8, 1), array([0, 1, 2, 3, 4], dtype=int32))
    """
    content = resources.files("fedjax_core.data").joinpath("files", "digits.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {"x": arrays["x"][..., None] / np.float32(16), "y": arrays["y"].astype(np.int32)}
