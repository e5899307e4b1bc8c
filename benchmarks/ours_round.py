"""Our program, through the public API, and the hand-written one, over the peers' line protocol, on all cores."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "peers"))
import _protocol

if __name__ == "__main__":
    session = _protocol.begin(__doc__, ("ours", "hand-written"))

import jax
import limits
import rounds


def peer(task: _protocol.Task, variant: str) -> _protocol.Peer:
    """One of the two as a peer."""
    devices, workload = os.cpu_count() or 1, task.workload
    if variant == "ours":
        next_round, process, initial = rounds.ours(workload, devices)
        return _protocol.Peer(
            f"fedjax_core, jax {jax.__version__}",
            start=lambda: initial,
            round=lambda state, k: next_round(state, task.cohort(k).tolist()),
            weights=lambda state: _protocol.flat(process.get_model_weights(state)),
        )
    written = limits.HandWritten(workload, devices)
    return _protocol.Peer(
        f"jax {jax.__version__}",
        start=lambda: jax.tree.map(jax.numpy.asarray, workload.initial),
        round=lambda weights, k: written(weights, task.cohort(k)),
        weights=_protocol.flat,
    )


if __name__ == "__main__":
    limits.use_devices(os.cpu_count() or 1)
    session.serve(peer(session.task, session.variant))
