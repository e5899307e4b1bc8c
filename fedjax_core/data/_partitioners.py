"""Ways to assign the rows of a central data set to clients.

A partitioner is a function `(arrays, num_clients, key) -> client_ids`. It takes a dict of arrays `[rows, ...]`
(64-bit types narrowed as JAX narrows them), the number of clients and a key, and returns for each row the client
that gets it: an integer below `num_clients`. With `num_clients=None` it chooses the clients itself and returns their
ids.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _examples, _federated_data, _grouping, _hashing, _ids

Partitioner = Callable[[Mapping, int | None, jax.Array | None], np.ndarray]


def partition(
    arrays: Mapping, num_clients: int | None, partitioner: Partitioner, *, key: jax.Array | None = None
) -> _federated_data.FederatedData:
    """Assigns every row of a central data set to exactly one client.

    Args:
      arrays: dict of arrays `[rows, ...]`. A column of strings that equals the client ids is dropped.
      num_clients: number of clients, whose ids are 0, 1, ..., `num_clients - 1`; None where the partitioner chooses
        the clients (`by_column`).
      partitioner: `iid()`, `dirichlet(alpha)`, `shards(k)`, `by_column(name)`, or your own function.
      key: for partitioners that draw.

    Returns:
      The clients' data. The rows of a client keep their order.

    Raises:
      TypeError: `arrays` is not a dict of arrays, `num_clients` is not an integer, or the partitioner draws and
        there is no key.
      ValueError: `num_clients` is not positive, the fields differ in length, or the partitioner returns something
        other than a client for each row.

    Example:
      >>> arrays = {"x": np.zeros((100, 4)), "y": np.arange(100) % 10}
      >>> partition(arrays, 5, iid(), key=jax.random.key(0)).sizes
      array([20, 20, 20, 20, 20])
    """
    if num_clients is not None:
        _checks.check_integer("partition(num_clients=...)", num_clients, 1, "write num_clients=10")
    arrays = _checked(arrays)
    owners = np.asarray(partitioner(arrays, num_clients, key))
    if num_clients is None:
        kept = {name: column for name, column in arrays.items() if not _names_clients(column, owners)}
        return _federated_data.FederatedData.from_arrays(kept, owners)
    if owners.dtype.kind not in "iu" or (owners.size and not 0 <= owners.min() <= owners.max() < num_clients):
        raise ValueError(
            f"a partitioner must return for every row an integer from 0 to {num_clients - 1}, got "
            f"{owners.dtype} from {owners.min()} to {owners.max()}; for other ids use partition(arrays, None, ...)"
        )
    ids = _ids.ClientIds(range(num_clients))
    return _federated_data.FederatedData(ids, _grouping.grouped(arrays, owners.astype(np.int64), ids))


def _checked(arrays: Mapping) -> dict:
    if not isinstance(arrays, Mapping) or not arrays:
        raise TypeError(f"partition takes a dict of arrays, got {arrays!r}; name the fields: {{'x': ..., 'y': ...}}")
    leaves, treedef = _examples.flatten(dict(arrays))
    names = _examples.field_names(dict(arrays))
    for number, (leaf, name) in enumerate(zip(leaves, names)):
        where = f"partition: {_examples.field_of(name)}"
        leaves[number] = np.asarray(leaf) if _is_text(leaf) else _examples.canonical(leaf, where)
    _examples.check_same_rows(leaves, names, "partition")
    return jax.tree.unflatten(treedef, leaves)


def _is_text(leaf) -> bool:
    if isinstance(leaf, list):
        return bool(leaf) and isinstance(leaf[0], str)
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OU"


def _names_clients(column, owners: np.ndarray) -> bool:
    return _is_text(column) and np.array_equal(column, owners)


def iid() -> Partitioner:
    """Assigns the rows at random. The clients' sizes differ by at most one, and no client is empty.

    Raises:
      ValueError: when applied: there are fewer rows than clients.

    Example:
      >>> partition({"x": np.arange(7)}, 3, iid(), key=jax.random.key(0)).sizes
      array([3, 2, 2])
    """

    def assign(arrays: Mapping, num_clients: int | None, key: jax.Array | None) -> np.ndarray:
        num_rows, num_clients = _sizes("iid()", arrays, num_clients)
        owners = np.empty(num_rows, np.int64)
        owners[_hashing.generator(key, "iid").permutation(num_rows)] = np.arange(num_rows) % num_clients
        return owners

    return assign


def dirichlet(alpha: float, column: str = "y") -> Partitioner:
    r"""Gives every client its own mixture of labels, drawn from a Dirichlet distribution.

    Client c draws :math:`q_c \sim \mathrm{Dir}(\alpha p)`, where p is the distribution of the labels over all rows,
    and then draws its rows, without replacement, with labels from :math:`q_c`. The clients' sizes differ by at most
    one, so no client is empty. When a label is used up, :math:`q_c` is renormalized over the labels that are left, so
    the clients that draw last deviate from their own mixture; the order in which clients draw is random.

    Args:
      alpha: concentration, positive. Large values approach iid clients, small ones give each client few labels.
      column: name of the field with the labels, `[rows]`.

    Raises:
      TypeError: `alpha` is not a number.
      ValueError: `alpha` is not positive and finite; when applied: there are fewer rows than clients, or there is no
        such column.

    Example:
      >>> arrays = {"x": np.zeros((1000, 4)), "y": np.arange(1000) % 10}
      >>> data = partition(arrays, 10, dirichlet(0.01), key=jax.random.key(0))
      >>> set(data.sizes.tolist()), bool(np.bincount(data[0]["y"]).max() > 50)
      ({100}, True)

    References:
      Hsu, Qi, Brown: Measuring the effects of non-identical data distribution for federated visual
      classification, arXiv:1909.06335, section 2.
    """
    repair = "write dirichlet(0.5), or iid() for clients that are alike"
    alpha = _checks.checked_number("dirichlet(alpha=...)", alpha, _checks.POSITIVE, repair)

    def assign(arrays: Mapping, num_clients: int | None, key: jax.Array | None) -> np.ndarray:
        num_rows, num_clients = _sizes("dirichlet(alpha)", arrays, num_clients)
        random = _hashing.generator(key, "dirichlet")
        labels = _labels("dirichlet(alpha)", arrays, column)
        left = np.bincount(labels)
        counts = np.empty((num_clients, len(left)), np.int64)
        sizes = np.bincount(np.arange(num_rows) % num_clients)
        prior = alpha * left / num_rows
        mixtures = random.dirichlet(prior, num_clients)
        for client in random.permutation(num_clients):
            counts[client] = _draw(random, mixtures[client], prior, int(sizes[client]), left)
            left = left - counts[client]
        return _deal(random, labels, counts)

    return assign


def _draw(
    random: np.random.Generator, mixture: np.ndarray, prior: np.ndarray, size: int, left: np.ndarray
) -> np.ndarray:
    """The number of rows of each label that a client takes: `size` in total, at most `left` of each.

    A Dirichlet variable that is renormalized over some of its components is again Dirichlet distributed, with the
    parameters of these components. That distribution is drawn from directly where too little of `mixture` is left to
    renormalize it.
    """
    counts = np.zeros_like(left)
    while missing := size - counts.sum():
        available = left > counts
        shares = np.where(available, mixture, 0.0)
        if shares.sum() < 1e-12:
            shares[available] = random.dirichlet(prior[available])
        counts = np.minimum(counts + random.multinomial(missing, shares / shares.sum()), left)
    return counts


def _deal(random: np.random.Generator, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Assigns `counts[client, label]` random rows of each label to each client; returns the client of each row."""
    rows = random.permutation(len(labels))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    num_clients, num_labels = counts.shape
    owners = np.empty(len(labels), np.int64)
    owners[rows] = np.repeat(np.tile(np.arange(num_clients), num_labels), counts.T.ravel())
    return owners


def shards(shards_per_client: int, column: str = "y") -> Partitioner:
    """Sorts the rows by label, cuts them into equal shards and assigns the shards to clients at random.

    Every client gets `shards_per_client` shards, whose sizes differ by at most one, so no client is empty and most
    clients have about as many labels as shards.

    Args:
      shards_per_client: number of shards of each client, positive; 2 in the paper.
      column: name of the field with the labels, `[rows]`.

    Raises:
      TypeError: `shards_per_client` is not an integer.
      ValueError: `shards_per_client` is not positive; when applied: there are fewer rows than shards, or there is no
        such column.

    Example:
      >>> arrays = {"x": np.zeros((100, 4)), "y": np.arange(100) % 10}
      >>> data = partition(arrays, 10, shards(1), key=jax.random.key(0))
      >>> [len(np.unique(data[i]["y"])) for i in range(10)]
      [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]

    References:
      McMahan et al.: Communication-efficient learning of deep networks from decentralized data,
      AISTATS 2017, section 3.
    """
    _checks.check_integer("shards(shards_per_client=...)", shards_per_client, 1, "write shards(2)")

    def assign(arrays: Mapping, num_clients: int | None, key: jax.Array | None) -> np.ndarray:
        num_rows, num_clients = _sizes("shards(k)", arrays, num_clients)
        num_shards = num_clients * shards_per_client
        if num_shards > num_rows:
            raise ValueError(
                f"shards({shards_per_client}) cuts {num_shards} shards for {num_clients} clients, got {num_rows} rows; "
                f"use at most shards({num_rows // num_clients})"
            )
        labels = _labels("shards(k)", arrays, column)
        client_of_shard = _hashing.generator(key, "shards").permutation(num_shards) // shards_per_client
        owners = np.empty(num_rows, np.int64)
        owners[np.argsort(labels, kind="stable")] = client_of_shard[np.arange(num_rows) * num_shards // num_rows]
        return owners

    return assign


def by_column(name: str) -> Partitioner:
    """Makes a client of all rows that have the same value in a column of strings or integers.

    It needs neither a number of clients nor a key. A column of integers stays a field of the examples; a column of
    strings only becomes the client ids.

    Args:
      name: name of the column, `[rows]`.

    Raises:
      ValueError: when applied: there is no such column, or a number of clients is given.

    Example:
      >>> arrays = {"x": np.arange(4), "writer": np.array(["ada", "bob", "ada", "ada"])}
      >>> data = partition(arrays, None, by_column("writer"))
      >>> data.client_ids, data["ada"]
      (ClientIds('ada', 'bob'), {'x': array([0, 2, 3], dtype=int32)})
    """

    def assign(arrays: Mapping, num_clients: int | None, key: jax.Array | None) -> np.ndarray:
        if num_clients is not None:
            raise ValueError(
                f"by_column({name!r}) makes one client of each value, got num_clients={num_clients}; use "
                f"partition(arrays, None, by_column({name!r}))"
            )
        return _column(f"by_column({name!r})", arrays, name)

    return assign


def _column(what: str, arrays: Mapping, name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{what} needs a field {name!r}, got the fields {sorted(arrays)}; name the one to use")
    column = np.asarray(arrays[name])
    if column.ndim != 1 or column.dtype.kind not in "biuOU":
        raise ValueError(
            f"{what} needs one integer or string per row in field {name!r}, got {column.dtype}{list(column.shape)}; "
            "name another column"
        )
    return column


def _labels(what: str, arrays: Mapping, name: str) -> np.ndarray:
    """The labels, numbered from 0 without gaps."""
    return np.unique(_column(what, arrays, name), return_inverse=True)[1]


def _sizes(what: str, arrays: Mapping, num_clients: int | None) -> tuple[int, int]:
    if num_clients is None:
        raise ValueError(f"{what} needs the number of clients, got None; use partition(arrays, 100, {what}, key=key)")
    num_rows = len(jax.tree.leaves(arrays)[0])
    if num_rows < num_clients:
        raise ValueError(
            f"{what} leaves no client empty and needs a row for each client, got {num_rows} rows for "
            f"{num_clients} clients; use at most {num_rows} clients"
        )
    return num_rows, num_clients
