"""The start of a run: its first state, or its latest checkpoint."""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.algorithms import LearningState
from fedjax_core.computations import Computation
from fedjax_core.data import FederatedData
from fedjax_core.privacy import Sampling
from fedjax_core.program._checkpoint_folder import state_digest
from fedjax_core.program._checkpoints import Checkpoint, Checkpoints
from fedjax_core.program._history import History, flatten_metrics
from fedjax_core.program._warn import warn
from fedjax_core.templates import LearningProcess


class RunStart(NamedTuple):
    """The point from which a run continues.

    Attributes:
      state: the process's state.
      history: what was measured so far; the run appends to it.
      completed: the number of rounds done so far.
      next: the computation of a round, with the lanes of the checkpoint.
      run_identity: see `Checkpoint.run_identity`.
    """

    state: Any
    history: History
    completed: int
    next: Computation
    run_identity: dict[str, Any]


def first_state(process: LearningProcess, initial_state: Any) -> Any:
    """The state before the first round: the given one, or else the process's own."""
    own = process.initialize()
    if initial_state is None:
        return own
    # Placed on the devices of the process's own state; otherwise the first round would be traced twice.
    leaves = map(_placed, jax.tree.leaves(initial_state), jax.tree.leaves(own))
    return jax.tree.unflatten(jax.tree.structure(own), list(leaves))


def what_runs(process: LearningProcess, data: FederatedData, sampling: Sampling | None) -> dict[str, Any]:
    """Fingerprints of what a run computes and of its data, by which it is told apart from that of a checkpoint.

    Args:
      process: the `process` of the run.
      data: its `train_data`.
      sampling: how its sampler draws; None if that is unknown.

    Returns:
      A JSON value: `programs`, the fingerprints of the round by function; `hparams`, those in the process's first
      state; `data`, a digest of the clients' numbers of examples and of their type; `sampling`; `noise_multiplier`.
    """
    hparams = process.get_hparams
    has_some = bool(types.type_leaves(hparams.type_signature.result))
    sizes = np.ascontiguousarray(data.sizes, np.int64).tobytes()
    return {
        "programs": process.next.fingerprints(),
        "hparams": flatten_metrics(hparams(process.initialize())) if has_some else {},
        "data": hashlib.blake2b(sizes + str(data.element_type).encode(), digest_size=8).hexdigest(),
        "sampling": None if sampling is None else str(sampling),
        "noise_multiplier": process.noise_multiplier,
    }


def run_start(
    process: LearningProcess,
    initial_state: Any,
    checkpoints: Checkpoints | None,
    identity: dict[str, Any],
    is_accounted: bool = False,
) -> RunStart:
    """The start at the latest checkpoint, or at the first state if there is no checkpoint.

    Args:
      process: the `process` of the run.
      initial_state: the `initial_state` of the run.
      checkpoints: the `checkpoints` of the run.
      identity: what `RunSettings.identity` and `what_runs` return.
      is_accounted: whether the run has an accounting, which is of all its rounds alike.

    Warns:
      UserWarning: the next rounds are not those of an uninterrupted run, because the settings, the process, the data or
        the environment have changed; the run began with another state; or the process was built with another key.

    Raises:
      ValueError: the run has an accounting, and the rounds of the checkpoint had another noise or sampling.
      CheckpointTypeError: the checkpoint is of another model or algorithm.
    """
    first = first_state(process, initial_state)
    begun = {} if initial_state is None else {"initial_state": state_digest(first)}
    checkpoint = None if checkpoints is None else checkpoints.restore(like=first)
    if checkpoint is None:
        return RunStart(first, History(), 0, process.next, {**identity, **begun})
    if is_accounted:
        _check_accounted(checkpoint, identity)
    next_round = _with_lanes(process.next, checkpoint.environment.get("lanes"))
    _warn_if_different(checkpoint, {**identity, **environment_of(next_round)})
    _warn_of_another_beginning(checkpoint, begun)
    _warn_of_another_key(checkpoint.state, first)
    began = {n: value for n, value in checkpoint.run_identity.items() if n == "initial_state"}
    return RunStart(checkpoint.state, checkpoint.history, checkpoint.round, next_round, {**identity, **began})


def _placed(leaf: Any, own: jax.Array) -> jax.Array:
    is_key = jnp.issubdtype(own.dtype, jax.dtypes.prng_key)
    return jax.device_put(leaf if is_key else jnp.asarray(leaf, own.dtype), own.sharding)


def _with_lanes(next_round: Computation, lanes: int | None) -> Computation:
    """The same computation with the lanes of a checkpoint, if the engine chooses their number."""
    config = next_round.config
    if lanes is None or isinstance(config.lanes, int) or (config.lanes is None and config.resolve().lanes == lanes):
        return next_round
    return next_round.with_config(dataclasses.replace(config, lanes=lanes))


def environment_of(next_round: Computation) -> dict[str, Any]:
    """What decides the bits of a round besides its arguments: the JAX version, device kind, lanes, virtual shards."""
    layout = next_round.layout
    assert layout is not None  # a round has placements
    device = layout.devices[0].device_kind
    return {"jax": jax.__version__, "device": device, "lanes": layout.lanes, "virtual_shards": layout.leaves}


def _warn_if_different(checkpoint: Checkpoint, now: dict[str, Any]) -> None:
    before = {**checkpoint.run_identity, **checkpoint.environment}
    different = [name for name in now if name in before and before[name] != now[name]]
    if "jax" in different and "programs" in different:
        different.remove("programs")  # another version of JAX writes down the same functions in another way
    if different:
        described = "; ".join(_difference(name, before[name], now[name]) for name in different)
        warn(f"the rounds after {checkpoint.round} are not those of an uninterrupted run: {described}")


def _difference(name: str, before: Any, now: Any) -> str:
    if name == "data":
        return "the training data had other clients or other numbers of examples"
    if name == "programs":
        functions = [function for function in {**before, **now} if before.get(function) != now.get(function)]
        return f"a round computed something else in {', '.join(functions)} (see `process.next.describe()`)"
    return f"{name} was {before} and is {now}"


def _check_accounted(checkpoint: Checkpoint, now: dict[str, Any]) -> None:
    for name in ("noise_multiplier", "sampling"):
        before = checkpoint.run_identity.get(name, now[name])
        if before != now[name]:
            raise ValueError(
                f"Run(accounting=...) accounts for all rounds alike, but the {name} was {before} up to round "
                f"{checkpoint.round} and is {now[name]}; leave out the accounting, or give the run a folder of its own"
            )


def _warn_of_another_beginning(checkpoint: Checkpoint, begun: dict[str, str]) -> None:
    """Warns if the run began with a state other than the given initial one; a resumed run need not be given one."""
    if begun and checkpoint.run_identity.get("initial_state") != begun["initial_state"]:
        warn(
            f"the run resumes from its checkpoint of round {checkpoint.round}, which did not begin with this "
            "initial_state; to begin with it, give the run a folder of its own"
        )


def _warn_of_another_key(restored: Any, first: Any) -> None:
    """Warns if the process has another key than the checkpoint; no round changes the key of a `LearningState`."""
    if not isinstance(first, LearningState):
        return
    before, now = (jax.random.key_data(state.key).tolist() for state in (restored, first))
    if before != now:
        warn(
            "the process was built with another key than that of the checkpoint, which the run continues to use; for "
            "another key, give the run a folder of its own"
        )
