"""What a pass aggregates: where it is read, and in one accumulator where memory counts more than time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.engine import _config, _run, _transfer
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.engine._packing import pack
from tests import cohorts
from tests.marks import with_slow


@fc.federated_computation(fc.at_clients("float32"))
def twice_read(values):
    total = fc.federated_sum(values)
    moved = fc.federated_map(lambda v, t: v - t, values, fc.federated_broadcast(total))
    return fc.federated_map(lambda *sums: sums, total, fc.federated_sum(moved), fc.federated_max(moved))


def test_a_later_phase_reads_an_aggregate_of_an_earlier_pass():
    assert [float(x) for x in twice_read([1.0, 2.0, 3.0])] == [6.0, -12.0, -3.0]


def statistics(data):
    def step(carry, batch, mask):
        return carry + jnp.where(mask[:, None], batch["x"], 0).sum(0)

    return data.reduce(jnp.zeros(2), step), data.num_examples


@fc.federated_computation(fc.at_clients(cohorts.DATA))
def sums(data):
    total, number = fc.federated_map(statistics, data)
    most = fc.federated_aggregate(
        number, np.int32(0), lambda a, n: jnp.maximum(a, n), lambda a, b: jnp.maximum(a, b), lambda a: a
    )
    return fc.federated_sum(total), fc.federated_sum(number), fc.federated_min(total), most


@pytest.mark.parametrize("budget", [None, 3000])
@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("lanes", [1, 4])
def test_one_accumulator_sums_all_clients(monkeypatch, lanes, devices, budget):
    monkeypatch.setattr(_config, "_LEAVES", ((-1, 16), (-1, 8)))
    population = cohorts.make_population([1 + i % 7 for i in range(40)])
    cohort = cohorts.make_cohort(population)
    program = sums.with_config(fc.EngineConfig(lanes, devices, budget))
    assert program.layout.direct == (devices < 3) and program.layout.leaves == {1: 1, 2: 2, 3: 4}[devices]
    total, number, least, most = jax.tree.map(np.asarray, program(cohort))
    (packing,) = cohort.packed.values()
    assert (packing.schedule.num_waves > 1) == (budget is not None)
    expected = np.stack([client["x"].astype(np.float64).sum(0) for client in population.values()])
    np.testing.assert_allclose(total, expected.sum(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(least, expected.min(0), rtol=1e-5, atol=1e-6)
    assert number == sum(len(client["x"]) for client in population.values()) and most == 7


def memory(program, state, cohort) -> tuple:
    """The compiled first pass and the phase after it, as XLA analyses their memory."""
    executable = program._body._executable
    program(state, cohort)
    compiled = executable._programs[1]
    ((parameter, value), *_) = ((n, state) for n in executable.plan.parameters if not n.per_client)
    server, pass_ = {parameter: value}, executable.plan.passes[0]
    layout, packing = compiled.layout, pack(cohort, compiled.layout)
    known = server | compiled._run_phase(0, server, _run._NOTHING)
    inputs = _transfer.broadcast(tuple(evaluate(pass_.server_inputs, known)), layout)
    nodes, *_ = jax.eval_shape(compiled._passes[0], inputs, None, compiled._clients(packing.resident))
    others = tuple(known[n] for n in executable.plan.phases[1].inputs if n not in pass_.aggregates)
    phase = compiled._phases[1].lower(others, (nodes,), packing.merges[1]).compile()
    return compiled.lowered(server, cohort).compile().memory_analysis(), phase.memory_analysis()


LAYOUTS = {16: (2**40, 2**41), 8: (0, 2**41), 1: (0, 0)}
SIZES = list(itertools.product((1000, 2000), LAYOUTS))


@pytest.mark.parametrize(("rows", "leaves"), with_slow(SIZES, {(2000, 16), (1000, 8), (2000, 8), (1000, 1)}))
def test_memory_grows_with_virtual_shards_and_the_model_only(monkeypatch, rows, leaves):
    """Of a round of `fed_avg`, in multiples of the weights: what XLA allocates besides the clients' data."""
    monkeypatch.setattr(_config, "_LEAVES", tuple(zip(LAYOUTS[leaves], (16, 8))))
    model = fc.models.logistic_regression(rows, 100)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    clients = [{"x": np.ones((5, rows), np.float32), "y": np.zeros(5, np.int32)}] * 2
    data = fc.data.FederatedData.from_clients(clients)
    program = process.next.with_config(fc.EngineConfig(devices=1))
    of_pass, phase = memory(program, process.initialize(), data.cohort(data.client_ids, fc.data.Batching(5)))
    weights, layout = 400 * rows, program.layout
    assert layout.leaves == leaves and layout.direct == (leaves == 1)
    # The budget counts the accumulators; besides these a client needs its weights and a gradient.
    assert of_pass.temp_size_in_bytes <= layout.accumulator_bytes + 2.2 * weights
    assert of_pass.output_size_in_bytes <= 2.1 * weights  # both words of the sum
    assert phase.output_size_in_bytes <= 1.1 * weights  # the new weights, once
    # A model that has one accumulator is copied nowhere: the round takes less than 6 GiB where its weights take .75.
    assert leaves > 1 or (of_pass.temp_size_in_bytes <= 2.2 * weights and phase.temp_size_in_bytes <= 1.1 * weights)
