"""The fixed binary tree along which the clients' accumulators are merged, whatever devices and waves there are.

A cohort's blocks lie on `V` leaves, a power of two. Node `(l, j)` of the tree covers the leaves from `j * 2**l` to
`(j + 1) * 2**l`. A node is merged only with its sibling, the left one first, so the order of all merges, and with it
every bit of a result, is that of the tree. A node without clients is never merged: its sibling takes the parent's
place.

The blocks of a leaf are aggregated in *groups* of at most `GROUP`, and the groups merged in their order.

Whoever runs a consecutive range of leaves, a device or the server, keeps a *stack* of finished nodes: it pushes a node
and then merges the two topmost nodes as often as the host has written down.

Axis letters: `V` leaves, `D` devices.
"""

import numpy as np

Node = tuple[int, int]

GROUP = 16
"""The blocks that are aggregated before the accumulator is closed (see `Aggregate`), counted from a leaf's first."""


def is_power_of_two(n: int) -> bool:
    """Whether `n`, at least one, is a power of two."""
    return n & (n - 1) == 0


def device_edges(work: np.ndarray, devices: int) -> np.ndarray:
    """int64 `[D + 1]`: the leaves at which a device's consecutive range begins and ends.

    Every range gives the same bits. If the number of devices is a power of two, each gets one whole subtree, whose only
    node is all that it has to send; otherwise the ranges have nearly equal work.

    Args:
      work: `[V]`, the work of each leaf.
      devices: `D`, at most `V`.

    Example:

    >>> device_edges(np.ones(8), 4).tolist(), device_edges(np.ones(8), 3).tolist()
    ([0, 2, 4, 6, 8], [0, 3, 5, 8])
    """
    leaves = len(work)
    if is_power_of_two(devices):
        return np.arange(devices + 1) * (leaves // devices)
    upto = np.concatenate([[0.0], np.cumsum(work, dtype=np.float64)])
    wanted = upto[-1] * np.arange(devices + 1) / devices
    right = np.clip(np.searchsorted(upto, wanted), 1, leaves)
    edges = np.where(wanted - upto[right - 1] < upto[right] - wanted, right - 1, right)
    edges[[0, -1]] = 0, leaves
    return edges


def stack_size(leaves: int, devices: int) -> int:
    """The largest number of nodes that a device holds at once while it runs its range of leaves.

    Example: a device that runs the whole tree, one that runs a half, and one that runs any range.

    >>> stack_size(16, 1), stack_size(16, 2), stack_size(16, 3)
    (6, 5, 8)
    """
    # Besides the finished nodes: a leaf's groups so far, and the one just pushed.
    if is_power_of_two(devices):
        return (leaves // devices).bit_length() + 1
    return nodes_sent(leaves, devices) + 2


def nodes_sent(leaves: int, devices: int) -> int:
    """The largest number of nodes that a device is left with.

    Example: a device with one subtree, and one with any range.

    >>> nodes_sent(16, 2), nodes_sent(16, 3)
    (1, 6)
    """
    # At the left edge of a range, right children wait for a sibling on another device, and at the right edge left ones,
    # at most one on each level, without the root and one of its children.
    return 1 if is_power_of_two(devices) else 2 * (leaves.bit_length() - 1) - 2


class Stack:
    """The nodes on a stack, as the host follows them to write down the merges.

    Args:
      occupied: bool `[V]`, which leaves have a client.
    """

    def __init__(self, occupied: np.ndarray):
        self._levels = len(occupied).bit_length() - 1
        self._upto = np.concatenate([[0], np.cumsum(occupied)]).tolist()
        self.nodes: list[Node] = []

    def push(self, node: Node) -> int:
        """Pushes a node and returns how many merges follow."""
        merges = 0
        level, place = node
        while level < self._levels:
            if self._is_empty(level, place ^ 1):
                level, place = level + 1, place >> 1
            elif place & 1 and self.nodes and self.nodes[-1] == (level, place - 1):
                self.nodes.pop()
                level, place, merges = level + 1, place >> 1, merges + 1
            else:
                break
        self.nodes.append((level, place))
        return merges

    def _is_empty(self, level: int, place: int) -> bool:
        return self._upto[(place + 1) << level] == self._upto[place << level]


def device_merges(occupied: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, list[list[Node]]]:
    """The merges that the devices make.

    Args:
      occupied: bool `[V]`, which leaves have a client.
      edges: `[D + 1]`, from `device_edges`.

    Returns:
      int32 `[V]`, the merges after each leaf, and per device the nodes that are left.

    Example: four leaves on one device.

    >>> merges, left = device_merges(np.ones(4, bool), np.array([0, 4]))
    >>> merges.tolist(), left
    ([0, 1, 0, 2], [[(2, 0)]])
    """
    merges, left = np.zeros(len(occupied), np.int32), []
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist()):
        stack = Stack(occupied)
        for leaf in range(begin, end):
            if occupied[leaf]:
                merges[leaf] = stack.push((0, leaf))
        left.append(stack.nodes)
    return merges, left


def server_merges(occupied: np.ndarray, left: list[list[Node]], each: int) -> tuple[np.ndarray, np.ndarray]:
    """The merges that the server makes of what the devices have left.

    Args:
      occupied: bool `[V]`, which leaves have a client.
      left: per device, the nodes that are left.
      each: the number of nodes that every device sends, most of them unused.

    Returns:
      int32 `[D * each]` twice: the places of the nodes in what the devices have sent, and the merges after each; behind
      the last node both are -1.

    Example: two devices, one node each.

    >>> [x.tolist() for x in server_merges(np.ones(4, bool), [[(1, 0)], [(1, 1)]], 1)]
    [[0, 1], [0, 1]]
    """
    place, merges = np.full((2, len(left) * each), -1, np.int32)
    stack = Stack(occupied)
    order = ((d * each + i, node) for d, nodes in enumerate(left) for i, node in enumerate(nodes))
    for k, (where, node) in enumerate(order):
        place[k], merges[k] = where, stack.push(node)
    return place, merges
