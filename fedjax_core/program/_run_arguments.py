"""The checks that `Run` makes of its arguments before anything runs."""

import contextlib
import math
import numbers
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_core import _checks, types
from fedjax_core.algorithms import federated_evaluation
from fedjax_core.computations import Computation
from fedjax_core.contracts import Model
from fedjax_core.data import Batching, FederatedData
from fedjax_core.privacy import Accounting, Sampling, everyone, fixed_size, poisson
from fedjax_core.program._checkpoints import Checkpoints
from fedjax_core.program._checks import check_batching, check_data
from fedjax_core.program._early_stopping import EarlyStopping
from fedjax_core.program._evaluating import Evaluation, measuring
from fedjax_core.program._exports import Export
from fedjax_core.program._history import flatten_metrics
from fedjax_core.program._paths import checked_name, checked_path
from fedjax_core.program._releases import ReleaseManager
from fedjax_core.program._run_folder import NAMES_IN_FOLDER, RunFolder
from fedjax_core.templates import LearningProcess

_PROCESS = "fc.algorithms.fed_avg(model, optax.sgd(0.1), key=key)"


@contextlib.contextmanager
def renamed(caller: str, names: Mapping[str, str]) -> Iterator[None]:
    """Rewrites errors about the arguments of `Run` with the names that an adapter has for them.

    Args:
      caller: the adapter's name.
      names: the adapter's names, by those of `Run` and `Evaluation`.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        text = re.sub(r"(?<![.\w])(Run|Evaluation)\(", f"{caller}(", str(error))
        text = re.sub(r"\b(\w+)=", lambda match: f"{names.get(match[1], match[1])}=", text)
        raise type(error)(text) from None


def check_process(process: Any) -> None:
    """Checks the process.

    Raises:
      ValueError: it has no `next` or no `get_model_weights`.
      TypeError: it has them, but is not a `LearningProcess`.
    """
    for name in ("next", "get_model_weights"):
        if not callable(getattr(process, name, None)):
            raise ValueError(
                f"Run(process=...) needs `{name}`, which a {type(process).__name__} lacks; give a LearningProcess, for "
                f"example {_PROCESS}"
            )
    if not isinstance(process, LearningProcess):
        raise TypeError(f"Run(process=...) must be a LearningProcess, got {process!r}; for example {_PROCESS}")


def checked_sampler(sampler: Any, train_data: FederatedData) -> int | Callable[[int], Any]:
    """The cohort size as a Python integer, or the sampler itself.

    Raises:
      TypeError: the sampler is neither an integer nor a function.
      ValueError: a cohort of that size cannot be drawn.
    """
    if callable(sampler):
        _checks.check_not_async("Run(sampler=...)", sampler)
        return sampler
    if isinstance(sampler, bool) or not isinstance(sampler, numbers.Integral):
        rule = "the number of clients a round or a function of the round number"
        repair = "for example sampler=10, or sampler=fc.data.poisson_sampler(data.client_ids, 0.1, key=key)"
        raise TypeError(_checks.message("Run(sampler=...)", rule, sampler, repair))
    size = _checks.checked_integer("Run(sampler=...)", sampler, 1, "write sampler=10")
    if not len(train_data):
        raise ValueError("Run(train_data=...) needs clients to draw from, got none")
    if size > len(train_data):
        raise ValueError(
            f"Run(sampler={size}) draws without replacement, but there are only {len(train_data)} clients; use "
            f"sampler={len(train_data)} or less"
        )
    return size


def checked_rounds(rounds: Any) -> int | EarlyStopping | None:
    """The number of the last round, an `EarlyStopping`, or None.

    Raises:
      TypeError: `rounds` is none of these.
      ValueError: the number is not positive.
    """
    if rounds is None or isinstance(rounds, EarlyStopping):
        return rounds
    return _checks.checked_integer("Run(rounds=...)", rounds, 1, "write rounds=10")


def checked_evaluation(evaluation: Any, process: LearningProcess, batching: Batching) -> Evaluation | None:
    """The evaluation, with a computation or a process in `by` and with its batching filled in.

    Raises:
      TypeError, ValueError: a field is not as `Evaluation` describes it, or does not fit the process.
    """
    if evaluation is None:
        return None
    if not isinstance(evaluation, Evaluation):
        raise TypeError(
            f"Run(evaluation=...) must be an Evaluation, got {evaluation!r}; write "
            "evaluation=fc.program.Evaluation(test_data, model)"
        )
    own = Batching(batching.batch_size) if evaluation.batching is None else evaluation.batching
    _check_eval_batching(own)
    given = {name: getattr(evaluation, name) for name in ("steps", "every")}
    counts = {
        name: _checks.checked_integer(f"Evaluation({name}=...)", value, 1, f"write {name}=10")
        for name, value in given.items()
        if value is not None
    }
    by = _checked_by(evaluation)
    computation = by.next if isinstance(by, LearningProcess) else by
    check_data("Evaluation", "data", evaluation.data, "the evaluation", computation)
    selection(process, by)
    hooks = checked_functions("Evaluation", "hooks", evaluation.hooks)
    if evaluation.name is not None:
        _check_evaluation_name(evaluation.name)
    return evaluation._replace(by=by, metrics=None, batching=own, hooks=hooks, **counts)


def _check_evaluation_name(name: Any) -> None:
    checked_name("Evaluation(name=...)", name, "write name='evaluation'")
    if name.casefold() in NAMES_IN_FOLDER:
        rule = "another name than those of the run's own files"
        raise ValueError(_checks.message("Evaluation(name=...)", rule, name, "write name='evaluation'"))


def _check_eval_batching(batching: Any) -> None:
    check_batching("Evaluation", "batching", batching)
    if batching.shuffle:
        raise ValueError(
            f"Evaluation(batching={batching}) must not shuffle, since that changes no metric; leave out `shuffle=True`"
        )


def _checked_by(evaluation: Evaluation) -> Computation | LearningProcess:
    by, metrics = evaluation.by, evaluation.metrics
    if isinstance(by, Model):
        return federated_evaluation(by if metrics is None else by._replace(metrics=metrics))
    computation = by.next if isinstance(by, LearningProcess) else by
    if not isinstance(computation, Computation) or len(computation.parameters) != 2:
        raise TypeError(
            "Evaluation(by=...) must be a model, a computation of weights and client data, or a process, got "
            f"{by!r}; use by=model, by=fc.algorithms.federated_evaluation(model) or by=fc.algorithms.fed_eval(model)"
        )
    if metrics is not None:
        raise ValueError(
            "Evaluation(metrics=...) must come with a model, got a computation or a process in `by`, which has its own "
            "metrics; write by=model, or leave out the metrics"
        )
    return by


def selection(process: LearningProcess, by: Computation | LearningProcess) -> Callable[[Any], Any]:
    """A function from a state of the process to the part that is evaluated: the weights, or the state itself.

    Raises:
      TypeError: the evaluation accepts neither.
    """
    taken = by.set_model_weights.parameters[1][1] if isinstance(by, LearningProcess) else by.parameters[0][1]
    taken = getattr(taken, "member", taken)
    weights, state = process.get_model_weights.type_signature.result, types.member_of(process.state_type)
    if taken.is_assignable_from(weights):
        return process.get_model_weights
    if taken.is_assignable_from(state):
        return lambda value: value
    raise TypeError(
        f"Evaluation(by=...) must take the weights of the process, {weights}, or its state, {state}, got an evaluation "
        f"of {taken}; build the process and the evaluation from the same model"
    )


def checked_exports(exports: Any, folder: pathlib.Path | None) -> tuple[Export, ...]:
    """The exports as a tuple.

    Raises:
      ValueError: one of them is not an `Export`, a name is not that of a folder or is that of two exports, or there is
        no folder for them.
      TypeError: a name is not a string.
    """
    exports = () if exports is None else (exports,) if isinstance(exports, Export) else exports
    if not isinstance(exports, Sequence) or not all(isinstance(export, Export) for export in exports):
        raise ValueError(
            f"Run(exports=...) must be an Export or several, got {exports!r}; for example fc.program.export_weights()"
        )
    names = [checked_name("Export(name=...)", export.name, "write name='weights'") for export in exports]
    if len({name.casefold() for name in names}) < len(names):  # some file systems do not know case
        raise ValueError(f"Run(exports=...): each Export needs a name of its own, got {', '.join(names)}")
    if exports and folder is None:
        raise ValueError("Run(exports=...) needs a folder to write to, got none; add folder='runs/first'")
    return tuple(exports)


def checked_releases(releases: Any) -> tuple[ReleaseManager, ...]:
    """The release managers as a tuple.

    Raises:
      TypeError: one of them is not a `ReleaseManager`.
    """
    # A ReleaseManager is itself a tuple, so this test comes first.
    several = (releases,) if isinstance(releases, ReleaseManager) else releases
    if not isinstance(several, Sequence) or not all(isinstance(manager, ReleaseManager) for manager in several):
        raise TypeError(
            f"Run(releases=...) must be a ReleaseManager or several, got {releases!r}; for example "
            "fc.program.release_to_csv('metrics.csv')"
        )
    return tuple(several)


def checked_functions(caller: str, name: str, hooks: Any) -> tuple[Callable, ...]:
    """The hooks as a tuple.

    Raises:
      TypeError: one of them is not a function.
    """
    hooks = (hooks,) if callable(hooks) else hooks
    if not isinstance(hooks, Sequence) or not all(map(callable, hooks)):
        raise TypeError(f"{caller}({name}=...) must be functions, got {hooks!r}; for example {name}=[print]")
    return tuple(hooks)


def check_accounting(accounting: Any, process: LearningProcess, sampler: Any, population: int) -> None:
    """Checks that the accounting describes the noise of the process and how the sampler draws.

    Raises:
      TypeError: it is not an `Accounting`.
      ValueError: it is for another noise than the process's, or for another sampling than the sampler's.
    """
    if accounting is None:
        return
    drawn = sampling_of(sampler, population)
    if not isinstance(accounting, Accounting):
        raise TypeError(
            f"Run(accounting=...) must be an Accounting, got {accounting!r}; use fc.privacy.accounting("
            f"noise_multiplier=1.0, delta=1e-6, sampling=fc.privacy.{drawn or 'poisson(0.01)'})"
        )
    _check_sampling(accounting.sampling, drawn)
    if accounting.noise_multiplier is not None:
        _check_noise(accounting.noise_multiplier, process.noise_multiplier)


def _check_sampling(sampling: Sampling, drawn: Sampling | None) -> None:
    fitting = (drawn, everyone()) if drawn is None or drawn.probability == 1 else (drawn,)
    if sampling in fitting:
        return
    repair = f"use sampling=fc.privacy.{drawn}"
    if drawn is None:  # nothing is known about the cohorts, so only the largest cost is right
        repair = "use sampling=fc.privacy.everyone(), or declare how your sampler draws: sampler.sampling = "
        repair += (
            f"('fixed_size', {sampling.cohort_size}, {sampling.population})"
            if sampling.cohort_size
            else (f"('poisson', {sampling.probability})")
        )
    raise ValueError(
        f"Run(accounting=...) must be for the cohorts that the run draws, got sampling={sampling}; {repair}"
    )


def _check_noise(accounted: float, added: float) -> None:
    if math.isclose(accounted, added, rel_tol=1e-6):
        return
    if added:
        raise ValueError(
            f"Run(accounting=...) must be for the noise that the process adds, noise_multiplier={added}, got one for "
            f"noise_multiplier={accounted}; use fc.privacy.accounting(noise_multiplier={added}, ...)"
        )
    raise ValueError(
        f"Run(accounting=...) must be for the noise that the process adds, which is none, got noise_multiplier="
        f"{accounted}; build the process with aggregator=fc.aggregators.private_mean(max_norm, {accounted}, "
        "cohort_size, key=key), or leave out the accounting. An aggregator of your own that adds noise says so: "
        f"aggregator._replace(noise_multiplier={accounted})"
    )


def sampling_of(sampler: Any, population: int) -> Sampling | None:
    """The sampling of a sampler, as an accounting describes it; None if the sampler does not declare it."""
    if isinstance(sampler, int):
        return fixed_size(sampler, population)
    made_by = {"fixed_size": fixed_size, "poisson": poisson}
    said = getattr(sampler, "sampling", None)
    if said is None:
        return None
    if not isinstance(said, tuple) or not said or said[0] not in made_by:
        raise TypeError(
            f"Run(accounting=...): a sampler's attribute `sampling` must say how it samples, got {said!r}; write "
            "sampler.sampling = ('poisson', 0.01) or ('fixed_size', 10, 1000), or leave the attribute out"
        )
    name, *numbers = said
    return made_by[name](*numbers)


def checked_initial_state(state: Any, process: LearningProcess) -> Any:
    """The given state in the containers of the process's own state, with dicts matched by name; None for None.

    Raises:
      TypeError: the value is not a state of the process.
    """
    if state is None:
        return None
    expected, weights = types.member_of(process.state_type), process.get_model_weights.type_signature.result
    try:
        given = types.type_of(state)
    except TypeError as error:
        raise TypeError(f"Run(initial_state=...) must be a state of the process, got {error}") from None
    if expected.is_assignable_from(types.matched_type(expected, given)):
        return types.matched(expected, state)
    raise TypeError(
        f"Run(initial_state=...) must be a state of the process, {expected}, got "
        + (
            "the model's weights; write initial_state=process.set_model_weights(process.initialize(), weights)"
            if weights.is_assignable_from(given)
            else f"{given}; to begin with weights write process.set_model_weights(process.initialize(), weights)"
        )
    )


def check_early_stopping(
    rounds: Any, sampler: Any, process: LearningProcess, evaluation: Evaluation | None, accounting: Any
) -> None:
    """Raises ValueError if nothing measures the metric of an early stopping, so that it would never end the run."""
    if not isinstance(rounds, EarlyStopping):
        return
    if rounds.is_of_participation:
        if isinstance(sampler, int):
            raise ValueError(
                f"EarlyStopping(metric={rounds.metric!r}) needs a sampler that reports who took part, got {sampler}; "
                f"use sampler=fc.data.participation(fc.data.uniform_sampler(data.client_ids, {sampler}, key=key))"
            )
        return
    if not rounds.is_held_out:
        known = _measured_by(process) + (["privacy/epsilon"] if accounting is not None else [])
    elif evaluation is None or evaluation.every is None:
        raise ValueError(
            f"EarlyStopping(metric={rounds.metric!r}) needs evaluations during the run; add "
            "evaluation=fc.program.Evaluation(test_data, model, every=10)"
        )
    else:
        known = [f"held_out/{name}" for name in _measured_by(measuring(evaluation))]
    if rounds.metric not in known:
        raise ValueError(
            f"EarlyStopping(metric={rounds.metric!r}) is not among what is measured; use one of {', '.join(known)}"
        )


def _measured_by(by: Computation | LearningProcess) -> list[str]:
    """The names of the numbers that a computation returns, or of a process's metrics."""
    if isinstance(by, LearningProcess):
        result = types.of_kind(by.next.type_signature.result, types.StructType)["metrics"]
    else:
        result = by.type_signature.result
    abstract = types.tree_of_types(getattr(result, "member", result))
    return list(flatten_metrics(jax.tree.map(lambda leaf: np.zeros([d or 1 for d in leaf.shape]), abstract)))


def checked_folder(folder: Any) -> RunFolder | pathlib.Path | None:
    """The folder as a path or a `RunFolder`; None for none.

    Raises:
      TypeError: it is neither a path nor a `RunFolder`.
      ValueError: no folder can have that path.
    """
    if folder is None or isinstance(folder, RunFolder):
        return folder
    return checked_path("Run(folder=...)", folder, "for example folder='runs/first'", "a path or a RunFolder")


def checked_checkpoints(checkpoints: Any, folder: pathlib.Path | None) -> Checkpoints | None:
    """The given checkpoints, or by default those in the folder; None without a folder.

    Raises:
      TypeError: the value is not a `Checkpoints`.
    """
    if checkpoints is None:
        return None if folder is None else Checkpoints(folder / "checkpoints")
    if not isinstance(checkpoints, Checkpoints):
        raise TypeError(
            f"Run(checkpoints=...) must be Checkpoints, got {checkpoints!r}; use "
            "fc.program.Checkpoints('runs/first/checkpoints')"
        )
    return checkpoints
