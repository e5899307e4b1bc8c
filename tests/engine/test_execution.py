"""The shape of the compiled programs: loops with dynamic bounds over flat examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine._execution import pass_program
from fedjax_core.engine._packing import pack
from fedjax_core.language._graph import Parameter
from tests import cohorts


@fc.federated_computation(fc.at_server("float32[2]"), fc.at_clients(cohorts.DATA))
def descend(weights, data):
    def train(weights, data):
        def step(w, batch, mask):
            residual = jnp.where(mask, batch["x"] @ w - batch["y"], 0.0)
            return w - 0.1 * residual @ batch["x"]

        return data.reduce(weights, step)

    return fc.federated_mean(fc.federated_map(train, fc.federated_broadcast(weights), data))


@fc.federated_computation(fc.at_server("float32[2,3]"), fc.at_clients(cohorts.DATA))
def descend_three(weights, data):
    def train(weights, data):
        def step(w, batch, mask):
            residual = jnp.where(mask[:, None], batch["x"] @ w - batch["y"][:, None], 0.0)
            return w - 0.1 * batch["x"].T @ residual

        return data.reduce(weights, step)

    return fc.federated_mean(fc.federated_map(train, fc.federated_broadcast(weights), data))


def lowered(lanes: int, sizes, computation=descend, weights=(2,)):
    """The first pass, before XLA's own optimizations."""
    layout = fc.EngineConfig(lanes=lanes, devices=1).resolve()
    plan = computation._body._executable.plan
    assert isinstance(plan.parameters[0].operation, Parameter) and len(plan.passes) == 1
    clients = pack(cohorts.make_cohort(cohorts.make_population(sizes)), layout).resident
    clients = type(clients)(**(vars(clients) | {"value": (clients.value,)}))
    return pass_program(plan, plan.passes[0], layout).lower((jnp.zeros(weights),), None, clients)


def test_one_lane_is_nested_loops_and_nothing_batched():
    text = lowered(1, [4, 5, 90]).as_text()
    assert text.count("stablehlo.while") == 4  # groups, blocks, steps; merges
    assert "batching_dims" not in text


def test_lanes_are_batched_inside_a_block_and_not_looped_over():
    text = lowered(8, [4, 5, 90]).as_text()
    assert text.count("stablehlo.while") == 5  # groups, blocks, common steps, the rest of the steps; merges
    assert "batching_dims = [0] x [0]" in text


@pytest.mark.parametrize("lanes", [1, 8])
def test_compiled_lanes_are_products_of_a_batch_without_a_loop_over_them(lanes):
    text = lowered(lanes, range(1, 30), descend_three, (2, 3)).compile().as_text()
    products = [line for line in text.splitlines() if " dot(" in line]
    shapes = {line.split(" = ")[1].split("{")[0] for line in products}
    assert shapes
    if lanes == 1:
        assert all(shape.count(",") == 1 for shape in shapes), shapes
        assert text.count(" while(") == 4  # groups, blocks, steps; merges
    else:
        assert all(shape.startswith("f32[8,") and shape.count(",") == 2 for shape in shapes), shapes
        assert all("lhs_batch_dims={0}" in line for line in products)
        assert text.count(" while(") == 5  # groups, blocks, common steps, the rest of the steps; merges


@pytest.mark.parametrize("lanes", [1, 8])
def test_no_tensor_holds_all_batches_of_all_clients(lanes):
    sizes = [4] * 30 + [400]
    text = lowered(lanes, sizes).as_text()
    shapes = {tuple(map(int, s.split("x")[:-1])) for s in _tensors(text)}
    largest_of_floats = max(int(np.prod(shape)) for shape in shapes)
    padded = len(sizes) * max(sizes) * 2
    assert largest_of_floats < padded / 4


def _tensors(text: str) -> set[str]:
    return {part.split(">")[0] for part in text.split("tensor<")[1:] if part.split(">")[0].endswith("xf32")}


def test_what_was_passed_in_is_not_donated():
    weights = jax.device_put(jnp.ones(2), jax.devices()[0])
    cohort = cohorts.make_cohort(cohorts.make_population([4, 5]))
    first, second = descend(weights, cohort), descend(weights, cohort)
    assert not weights.is_deleted()
    np.testing.assert_array_equal(first, second)
