"""The graph: its order, and where the user's line is."""

import fedjax_core as fc
from fedjax_core.language._graph import ancestors, user_location
from fedjax_core.language._placed import node_of


def test_inputs_come_before_what_is_made_of_them_and_nothing_comes_twice():
    found = []

    @fc.federated_computation(fc.at_server("float32"), fc.at_clients("float32"))
    def program(a, b):
        total = fc.federated_sum(b)
        both = fc.federated_map(lambda x, y: x + y, a, total)
        again = fc.federated_map(lambda x, y: x * y, both, total)
        found.extend(ancestors([node_of(again), node_of(both)]))
        return again

    assert len(found) == len(set(found)) == 5
    places = {node: i for i, node in enumerate(found)}
    assert all(places[i] < places[node] for node in found for i in node.inputs)


def test_the_location_is_the_callers_line():
    file, _, line = user_location().rpartition(":")
    assert file == __file__ and int(line) > 0


def test_the_location_in_a_notebook_is_the_cell():
    code = compile("where = user_location()", "/anywhere/ipykernel_12/34.py", "exec")
    names = {"user_location": user_location}
    exec(code, names)
    assert names["where"] == "cell:1"
