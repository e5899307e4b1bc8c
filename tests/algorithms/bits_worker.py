"""Two rounds with every aggregator, for all numbers of devices up to 16, orders of clients and waves.

The arguments are numbers of devices, with commas between, and names of `CASES`. Prints one JSON line: for each case the
digests of the bits that its rounds left, by the name of the variant.
"""

import functools
import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjax_core as fc

AGGREGATORS = {
    "mean": fc.aggregators.mean,
    "robust": fc.aggregators.robust,
    "median": fc.aggregators.median,
    "trimmed_mean": lambda: fc.aggregators.trimmed_mean(0.1),
    "quantize": lambda: fc.aggregators.quantize(3, key=jax.random.key(5)),
    "private_mean": lambda: fc.aggregators.private_mean(1.0, 0.5, 20, key=jax.random.key(5)),
}
CASES = (*AGGREGATORS, "operators")
KEEPS_ROWS = ("median", "trimmed_mean")  # of every client, which the budget of a wave must hold
WAVES = {1: 20_000, 3: 10_000}
"""The memory of a wave in bytes, by the number of devices."""


def population() -> fc.data.FederatedData:
    """Clients of few and of many examples, more than there are virtual shards, and one without any."""
    random = np.random.default_rng(0)
    clients = {}
    for number, size in enumerate([0, 90, *random.integers(1, 30, 43).tolist()]):
        x = random.normal(size=(size, 6)).astype(np.float32)
        clients[f"client{number}"] = {"x": x, "y": random.integers(0, 3, size).astype(np.int32)}
    return fc.data.FederatedData.from_clients(clients)


def learning(aggregator):
    """Two rounds of federated averaging with server Adam: `(config, cohort) -> what they leave`."""
    model = fc.models.logistic_regression(6, 3, metrics={"accuracy": fc.metrics.accuracy()})
    process = fc.algorithms.fed_avg(
        model, optax.sgd(0.1), server_optimizer=optax.adam(0.1), aggregator=aggregator, key=jax.random.key(0)
    )
    initial = process.initialize()
    next_round = functools.cache(process.next.with_config)  # compiles once for a configuration

    def rounds(config, cohort):
        state, told = initial, []
        for _ in range(2):
            state, metrics = next_round(config)(state, cohort)
            told.append(metrics)
        return state.weights, state.aggregator, state.finalizer, told

    return rounds


def operators(data_type):
    """Reductions of which some depend on the order, and none may depend on the devices."""

    def affine(data):
        """A client's affine map, which does not commute with those of others."""
        total = data.sum()["x"] / jnp.maximum(data.num_examples, 1).astype(jnp.float32)
        return 1 + total[:3] / 8, total[3:]

    def after(first, second):
        return first[0] * second[0], first[1] * second[0] + second[1]

    sampler = fc.aggregators.reservoir_sample(5, key=jax.random.key(5))

    @fc.federated_computation(fc.at_server("key<fry>"), fc.at_clients(data_type))
    def reduced(key, data):
        maps = fc.federated_map(affine, data)
        draw = fc.federated_map(jax.random.uniform, fc.federated_split_key(key))
        zero = (np.ones(3, np.float32), np.zeros(3, np.float32))
        return {
            "composed": fc.federated_aggregate(maps, zero, after, after, lambda a: a),
            "least": fc.federated_min(maps),
            "most": fc.federated_max(maps),
            "sum": fc.federated_sum((maps, draw)),
            "mean": fc.federated_mean(maps, draw),
            "sample": sampler.next(sampler.init(fc.types.to_type("float32")), draw, draw).result[0],
        }

    program = functools.cache(reduced.with_config)
    return lambda config, cohort: program(config)(jax.random.key(3), cohort)


def digest(tree) -> str:
    """A digest of all bits of a pytree."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def digests(case: str, devices: list[int]) -> dict[str, str]:
    """The digest of a case for every variant that must not change a bit."""
    data = population()
    ids, batching = list(data.client_ids), fc.data.Batching(4)
    run = learning(AGGREGATORS[case]()) if case in AGGREGATORS else operators(data.cohort(ids, batching).member_type)
    shuffled = np.random.default_rng(1).permutation(ids).tolist()

    def found(order, number, budget=None):
        cohort = data.cohort(order, batching)
        left = digest(run(fc.EngineConfig(1, number, budget), cohort))
        waves = max(packing.schedule.num_waves for packing in cohort.packed.values())
        assert (waves > 1) == (budget is not None), f"{waves} waves with a budget of {budget}"
        return left

    variants = {f"{n} devices": found(ids, n) for n in devices}
    variants |= {f"another order, {n} devices": found(shuffled, n) for n in (1, 3)}
    if case not in KEEPS_ROWS:
        variants |= {f"waves, {n} devices": found(ids, n, budget) for n, budget in WAVES.items()}
    return variants


if __name__ == "__main__":
    # Nothing above may touch a device, since their number is fixed at the first use.
    jax.config.update("jax_num_cpu_devices", 16)
    numbers = [int(number) for number in sys.argv[1].split(",")]
    print(json.dumps({case: digests(case, numbers) for case in sys.argv[2:]}), flush=True)
