"""Values of nodes from known ones."""

import fedjax_core as fc
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.language._placed import node_of


def test_a_node_is_evaluated_once_however_often_it_is_read():
    calls = []

    def counted(x):
        calls.append(x)
        return x + 1.0

    nodes = {}

    @fc.federated_computation(fc.at_server("float32"))
    def program(x):
        shared = fc.federated_map(counted, x)
        both = fc.federated_map(lambda a, b: a * b, shared, shared)
        nodes.update(x=node_of(x), shared=node_of(shared), both=node_of(both))
        return both

    calls.clear()
    known = {nodes["x"]: 2.0}
    shared, both = evaluate((nodes["shared"], nodes["both"]), known)
    assert (float(shared), float(both)) == (3.0, 9.0)
    assert calls == [2.0]
    assert known == {nodes["x"]: 2.0}


def test_evaluation_starts_at_what_is_known():
    nodes = {}

    @fc.federated_computation(fc.at_server("float32"))
    def program(x):
        double = fc.federated_map(lambda v: 2 * v, x)
        nodes.update(double=node_of(double), result=node_of(fc.federated_map(lambda v: v + 1, double)))
        return fc.federated_map(lambda v: v + 1, double)

    assert float(evaluate((nodes["result"],), {nodes["double"]: 10.0})[0]) == 11.0


def test_a_deep_graph_and_a_wide_one_take_neither_recursion_nor_forever():
    @fc.federated_computation(fc.at_server("int32"), fc.at_server("int32"))
    def program(x, y):
        pair = fc.federated_zip((x, y))
        for _ in range(1000):
            pair = fc.federated_zip((pair[1], pair[0]))
        return pair

    assert [int(v) for v in program(7, 8)] == [7, 8]
