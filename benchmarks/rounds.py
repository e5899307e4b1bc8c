"""Rounds of W1 to W4 through the public API, alone or in turn with the hand-written programs.

    python benchmarks/rounds.py --workloads W1,W2 --rounds 7 --devices 2 --against limits
    python benchmarks/rounds.py --workloads W1,W2,W4 --lanes 1,2,4,8,16,32,64,cohort

Data preparation is part of a round. Before anything is timed, both run two rounds, and their weights must
agree, for W1 also with a NumPy float64 reference. The script prints one JSON object: medians in seconds, the seconds
for which JAX traced, lowered and compiled in our first round and, with `--against limits`, the ratio of our seconds to
the hand-written program's.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time

import limits
import numpy as np
import workloads
from _machine import machine

TOLERANCES = {"W1": 1e-5, "W2": 3e-2, "W3": 1e-4, "W4": 1e-5}
"""The largest difference of weights after two rounds, relative to their change in training. Single steps of any two
programs agree to 1e-6; the CNN's diverge where rounding puts a ReLU or a maximum on its other side."""


def ours(workload: workloads.Workload, devices: int, lanes: int | str = 1):
    """A round `(state, ids) -> state` through the public API, the process, and the initial state."""
    import jax

    import fedjax_core as fc

    data = workloads.federated_data(workload)
    process, state = workloads.process(workload)
    next_round = process.next.with_config(fc.EngineConfig(lanes=lanes, devices=devices))
    batching = fc.data.Batching(batch_size=workload.batch_size)

    def round_(state, ids):
        return jax.block_until_ready(next_round(state, data.cohort(ids, batching)).state)

    return round_, process, state


@contextlib.contextmanager
def compiling():
    """A list of the seconds for which JAX traces, lowers and compiles while the context lasts."""
    import jax

    seconds = []

    def listen(event: str, duration: float, **about):
        if event.startswith("/jax/core/compile/"):
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def check(name: str, other: str, error: float):
    """Checks that weights agree.

    Raises:
      AssertionError: they do not.
    """
    tolerance = TOLERANCES[name]
    if not error <= tolerance:
        raise AssertionError(f"{name}: after two rounds {error:.1e} from the {other}, more than {tolerance:.0e}")


def measure(
    workload: workloads.Workload, rounds: int, devices: int, reference: dict | None, against: bool, lanes: int | str = 1
) -> dict:
    """Verifies our rounds, then times them and, in turn with them, those of the hand-written program.

    Args:
      workload: the workload to run.
      rounds: the number of timed rounds of each.
      devices: the number of devices.
      reference: the weights expected after two rounds, or None if they are unknown.
      against: whether to time the hand-written program too.
      lanes: our `EngineConfig.lanes`, or "cohort" for as many as there are clients.
    """
    import jax

    workloads.touch(workload)
    mine, process, state = ours(workload, devices, len(workload.cohorts[0]) if lanes == "cohort" else lanes)
    written, weights = limits.HandWritten(workload, devices), jax.tree.map(jax.numpy.asarray, workload.initial)
    begin = time.perf_counter()
    with compiling() as compiled:
        state = mine(state, workload.cohorts[0].tolist())
    first = time.perf_counter() - begin
    state = mine(state, workload.cohorts[1].tolist())
    for ids in workload.cohorts[:2]:
        weights = written(weights, ids)
    found = process.get_model_weights(state)
    errors = {"hand_written": workloads.difference(found, weights, workload.initial)}
    if reference is not None:
        errors["reference"] = workloads.difference(found, reference, workload.initial)
    for other, error in errors.items():
        check(workload.name, other, error)
    programs = {"ours": lambda state, ids: mine(state, ids.tolist()), "hand_written": written}
    states, times = {"ours": state, "hand_written": weights}, {"ours": [], "hand_written": []}
    for r in range(rounds):
        ids = workload.cohorts[(2 + r) % len(workload.cohorts)]
        for name in list(programs if against else ["ours"])[:: 1 if r % 2 else -1]:
            begin = time.perf_counter()
            states[name] = programs[name](states[name], ids)
            times[name].append(time.perf_counter() - begin)
    result = {f"{name}_s": statistics.median(values) for name, values in times.items() if values}
    result |= {f"{name}_best_s": min(values) for name, values in times.items() if values}
    if against:
        result["ratio"] = result["ours_s"] / result["hand_written_s"]
        result["ratio_of_pairs_median"] = float(np.median(np.divide(times["ours"], times["hand_written"])))
    return result | {"rounds": rounds, "difference": errors, "first_round_s": first, "compile_s": sum(compiled)}


def _lanes(text: str) -> list[int | str]:
    return [word if word in ("auto", "cohort") else int(word) for word in text.split(",")]


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rounds of the workloads through the public API.")
    workloads.add_data_option(parser)
    parser.add_argument("--workloads", default="W1,W2,W3,W4", help="with commas between")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="devices; of an accelerator at most all")
    parser.add_argument(
        "--lanes", type=_lanes, default=[1], help="of ours: numbers, auto or cohort, with commas between"
    )
    parser.add_argument("--against", choices=["nothing", "limits"], default="nothing", help="what to run in turn")
    args = parser.parse_args(argv)
    devices = limits.use_devices(args.devices)
    import jax

    result = {"machine": machine(), "devices": devices, "device_kind": jax.devices()[0].device_kind}
    data = workloads.folder(args.data)
    for name in args.workloads.split(","):
        workload = workloads.load(name, data)
        reference = workloads.load_reference(data) if name == "W1" else None
        for lanes in args.lanes:
            key = name if len(args.lanes) == 1 else f"{name}, lanes {lanes}"
            result[key] = measure(workload, args.rounds, devices, reference, args.against == "limits", lanes)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
