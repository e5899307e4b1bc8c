"""What `Experiment` checks of its arguments before anything runs."""

from collections.abc import Callable, Sequence
from typing import Any

from fedjax_core.algorithms import federated_evaluation
from fedjax_core.computations import Computation
from fedjax_core.program._cluster import Cluster
from fedjax_core.program._exports import Export
from fedjax_core.templates import LearningProcess


def check_process(process: Any) -> None:
    """Refuses what has no `next` or no `get_model_weights`, with a ValueError, and what else is no process."""
    for name in ("next", "get_model_weights"):
        if not callable(getattr(process, name, None)):
            raise ValueError(
                f"Experiment(process=...) needs `{name}`, which a {type(process).__name__} lacks; give a "
                "LearningProcess, for example fc.algorithms.fed_avg(model, optax.sgd(0.1), key=key)"
            )
    if not isinstance(process, LearningProcess):
        raise TypeError(
            f"Experiment(process=...) must be a LearningProcess, got {process!r}; for example "
            "fc.algorithms.fed_avg(model, optax.sgd(0.1), key=key)"
        )


def check_participants(cohort_size: Any, participants: Any) -> None:
    """Refuses both or neither of them, with a ValueError."""
    if (cohort_size is None) == (participants is None):
        raise ValueError(
            "Experiment takes either cohort_size=10, clients that are drawn uniformly, or participants="
            f"fc.data.participation(...), got {'neither' if cohort_size is None else 'both'}"
        )
    if participants is not None and not callable(participants):
        raise TypeError(
            f"Experiment(participants=...) is a function of the round number, got {participants!r}; for example "
            "fc.data.uniform_sampler(data.client_ids, 10, key=key)"
        )


def checked_evaluation(evaluation: Any, model: Any, eval_metrics: Any) -> Computation | LearningProcess:
    """What evaluates: that of the model, or the given one."""
    if evaluation is None:
        if model is None:
            raise ValueError("Experiment needs `model`, to evaluate it, or `evaluation`, got neither; add model=model")
        return federated_evaluation(model if eval_metrics is None else model._replace(metrics=eval_metrics))
    if eval_metrics is not None:
        raise ValueError(
            "Experiment(eval_metrics=...) are those of `model`, got an `evaluation` too, which has its own; leave out "
            "one of them"
        )
    computation = round_of(evaluation)
    if not isinstance(computation, Computation) or len(computation.parameters) != 2:
        raise TypeError(
            "Experiment(evaluation=...) must be a computation of weights and client data, or a process, got "
            f"{evaluation!r}; use fc.algorithms.federated_evaluation(model) or fc.algorithms.fed_eval(model)"
        )
    return evaluation


def check_weights(process: LearningProcess, evaluation: Computation | LearningProcess) -> None:
    """Refuses an evaluation of other weights than the process has, with a TypeError."""
    given = process.get_model_weights.type_signature.result
    if isinstance(evaluation, LearningProcess):
        taken = evaluation.set_model_weights.parameters[1][1]
    else:
        taken = evaluation.parameters[0][1].member
    if not taken.is_assignable_from(given):
        raise TypeError(
            f"Experiment evaluates the weights of the process, {given}, got an evaluation of {taken}; make both of "
            "the same model"
        )


def round_of(evaluation: Any) -> Any:
    """The computation of data that is in an evaluation."""
    return evaluation.next if isinstance(evaluation, LearningProcess) else evaluation


def checked_exports(exports: Any) -> tuple[Export, ...]:
    """The exports; a ValueError for one that is none."""
    exports = () if exports is None else (exports,) if isinstance(exports, Export) else exports
    if not isinstance(exports, Sequence) or not all(isinstance(export, Export) for export in exports):
        raise ValueError(
            f"Experiment(exports=...) takes None, an Export or several, got {exports!r}; for example "
            "fc.program.export_weights()"
        )
    names = [export.name for export in exports]
    if len(set(names)) < len(names):
        raise ValueError(f"Experiment(exports=...): each Export has a name of its own, got {', '.join(names)}")
    return tuple(exports)


def checked_functions(name: str, hooks: Any) -> tuple[Callable, ...]:
    """The hooks; a TypeError for one that is no function."""
    if not isinstance(hooks, Sequence) or not all(map(callable, hooks)):
        raise TypeError(f"Experiment({name}=...) are functions, got {hooks!r}; for example {name}=[print]")
    return tuple(hooks)


def check_time(**functions: Any) -> None:
    """Refuses a clock or a sleep that is no function, with a TypeError."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"Experiment({name}=...) is a function, got {function!r}; leave it out")


def checked_predicate(predicate: Any) -> Callable[[Any], bool] | None:
    """The predicate; a TypeError for what is no function."""
    if predicate is not None and not callable(predicate):
        raise TypeError(
            f"Experiment(predicate=...) is a function of the last result, got {predicate!r}; for example "
            "lambda result: result is None or time.monotonic() < end"
        )
    return predicate


def checked_cluster(cluster: Any) -> Cluster:
    """The cluster, without settings if there is none; a TypeError for what is none."""
    if cluster is not None and not isinstance(cluster, Cluster):
        raise TypeError(
            f"Experiment(cluster=...) must be a Cluster, got {cluster!r}; use fc.program.Cluster('host0:1234', 2)"
        )
    return Cluster() if cluster is None else cluster
