"""The tree along which accumulators are merged."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.engine._tree import (
    Stack,
    device_edges,
    device_merges,
    nodes_sent,
    server_merges,
    stack_size,
)

leaves = st.sampled_from([1, 2, 4, 8, 16, 32])


def expected(occupied) -> str:
    """The merges of the whole tree, written as nested pairs of leaves."""
    row = [str(i) if there else "" for i, there in enumerate(occupied)]
    while len(row) > 1:
        row = [f"({a} {b})" if a and b else a or b for a, b in zip(row[::2], row[1::2])]
    return row[0]


def merged(stack: list, node: str, merges: int) -> None:
    for _ in range(merges):
        node = f"({stack.pop()} {node})"
    stack.append(node)


def run(occupied, edges) -> str:
    """The merges that devices with these ranges of leaves and then the server make."""
    devices = len(edges) - 1
    each = nodes_sent(len(occupied), devices)
    after, left = device_merges(occupied, edges)
    sent = []
    for begin, end in itertools.pairwise(edges.tolist()):
        stack = []
        for leaf in range(begin, end):
            if occupied[leaf]:
                merged(stack, str(leaf), after[leaf])
        assert len(stack) <= each
        sent += [*stack, *["unused"] * (each - len(stack))]
    stack = []
    for place, merges in zip(*server_merges(occupied, left, each)):
        if place >= 0:
            merged(stack, sent[place], merges)
    assert len(stack) <= 1
    return stack[0] if stack else ""


@given(leaves, st.integers(1, 16), st.randoms())
def test_any_number_of_devices_makes_the_merges_of_the_tree(number, devices, random):
    occupied = np.array([random.random() < 0.7 for _ in range(number)])
    work = np.array([there * random.randint(1, 9) for there in occupied])
    devices = min(devices, number)
    edges = device_edges(work, devices)
    assert edges[0] == 0 and edges[-1] == number and (np.diff(edges) >= 0).all()
    assert run(occupied, edges) == expected(occupied)


def test_any_cut_makes_the_merges_of_the_tree():
    for occupied in itertools.product([False, True], repeat=8):
        for cut in itertools.combinations_with_replacement(range(9), 2):
            edges = np.array([0, *cut, 8])
            assert run(np.array(occupied), edges) == expected(occupied)


def test_a_stack_holds_the_nodes_of_any_range():
    random = np.random.default_rng(0)
    for number in (4, 8, 16, 64):
        patterns = [np.ones(number, bool), *(random.random((20, number)) < 0.8)]
        heights, sizes = [], []
        for occupied, begin, end in itertools.product(patterns, range(number), range(number + 1)):
            stack, height = Stack(occupied), 0
            for leaf in np.flatnonzero(occupied[begin:end]) + begin:
                # The leaf's groups so far, and the one just pushed, are on top of the finished nodes.
                height = max(height, len(stack.nodes) + 2)
                stack.push((0, int(leaf)))
            heights.append(height)
            sizes.append(len(stack.nodes))
        assert max(sizes) == nodes_sent(number, 3) and max(heights) == stack_size(number, 3)


def test_a_subtree_leaves_one_node():
    for number, devices in ((16, 1), (16, 2), (16, 16), (8, 4), (1, 1)):
        edges = device_edges(np.ones(number), devices)
        _, left = device_merges(np.ones(number, bool), edges)
        assert all(len(nodes) == 1 == nodes_sent(number, devices) for nodes in left)
