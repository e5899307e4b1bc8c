"""A check of whether padding can change what a model computes for the other examples of a batch."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees, types
from fedjax_core.contracts import Model
from fedjax_core.language.rows import combines_rows, differ, trial_batches, trial_mask
from fedjax_core.model_calls import losses, predicted


def warn_of_coupled_rows(model: Model, training: bool) -> None:
    """Warns, once per model, if padding rows of a batch change the model's results for the other rows.

    The model is traced first, which is enough to clear a model that never combines rows. Only if an operation may
    combine them, the model runs on two small batches that differ in padding rows only. If it fails on these, or
    returns nothing but NaN, the warning says that the check was not possible.

    Args:
      model: the model.
      training: whether the model is used in training or in evaluation.

    Example: a loss with in-batch negatives that does not take the mask.

    >>> def contrastive(predictions, batch):
    ...     return -jnp.diagonal(jax.nn.log_softmax(predictions @ predictions.T))
    >>> model = Model(
    ...     init=lambda key: jnp.ones((2, 2)),
    ...     predict=lambda weights, batch, key=None, training=False: batch["x"] @ weights,
    ...     loss=contrastive,
    ...     metrics={},
    ...     batch_type=types.parse_type("<x=float32[?,2]>"),
    ... )
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_of_coupled_rows(model, training=True)
    ...     warn_of_coupled_rows(model, training=True)
    >>> [str(warning.message).partition(";")[0] for warning in caught]
    ['padding changes the loss `contrastive` of the other examples of a batch']
    """
    looked_at = (model.init, model.predict, model.loss, model.batch_type, bool(training))
    try:
        hash(looked_at)
    except TypeError:  # without a hash, the warning is repeated in each call
        _warn_once.__wrapped__(*looked_at)
    else:
        _warn_once(*looked_at)


@functools.lru_cache(maxsize=16)
def _warn_once(init, predict, loss, batch_type, training: bool) -> None:
    message = _found(Model(init, predict, loss, {}, batch_type), training)
    if message:
        warnings.warn(message, UserWarning, stacklevel=2)


def _found(model: Model, training: bool) -> str:
    """The text of the warning about a model; "" for no warning."""
    with warnings.catch_warnings(), jax.debug_nans(False):
        warnings.simplefilter("ignore")  # a model's own warnings, which a user's filter could turn into errors
        if not _may_couple(model, training):
            return ""
        try:
            coupled = _coupled(model, training)
        except Exception as error:  # a model that fails on every batch raises again where it is used
            return _untried(model, error)
    return _message(model, coupled) if coupled else ""


_REPAIRED = {
    "loss": (
        "`def loss(predictions, batch, mask=None)` and leave out what the mask excludes, for example "
        "`jnp.where(mask[None, :], scores, -jnp.inf)`"
    ),
    "predictions": (
        "`def predict(weights, batch, key=None, training=False, mask=None)` and leave out what the mask "
        "excludes, for example `jnp.mean(x, axis=0, where=mask[:, None])`; in a module use its library's own batch "
        "normalization without an axis name, which gets the mask, or a group or layer normalization, or with flax "
        "name the parameter "
        'that takes the mask: `fc.models.from_linen(module, ..., mask="mask")`, '
        '`fc.models.from_nnx(create, ..., mask="mask")`'
    ),
}


def _message(model: Model, coupled: str) -> str:
    return (
        f"padding changes the {coupled} `{_name(model.loss if coupled == 'loss' else model.predict)}` of the other "
        "examples of a batch; batches are padded to one size, so results depend on the batch size: write "
        f"{_REPAIRED[coupled]}"
    )


def _untried(model: Model, error: Exception) -> str:
    return (
        f"whether padding changes what `{_name(model.predict)}` and `{_name(model.loss)}` give for the other examples "
        f"of a batch could not be tried on random batches: {type(error).__name__}: {error}; if they combine examples, "
        f"write {_REPAIRED['predictions']}; if they do not, or if they leave padding out, write "
        "`warnings.filterwarnings('ignore', 'whether padding changes')`"
    )


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function))


def _may_couple(model: Model, training: bool) -> bool:
    """Whether an operation may combine rows, judged by what it does to the dimension that holds them."""
    try:
        return combines_rows(*_traced(model, training))
    except Exception:  # some models cannot be traced like this, and another JAX may describe them differently
        return True


def _traced(model: Model, training: bool) -> tuple[Any, int]:
    """The jaxpr of a model and its loss, and the number of rows, a size that no other dimension has."""
    weights, fixed = jax.eval_shape(model.init, _abstract_key()), _fixed_size(model)
    others = (weights, _abstract_batch(model, 1))
    num_rows = trees.distinct_size(others) if fixed is None else fixed
    if any(size % num_rows == 0 for leaf in jax.tree.leaves(others) for size in leaf.shape):
        raise ValueError(f"{num_rows} rows cannot be distinguished from other dimensions")
    arguments = (weights, _abstract_batch(model, num_rows), jax.ShapeDtypeStruct((num_rows,), bool), _abstract_key())
    return jax.make_jaxpr(functools.partial(_run, model, training))(*arguments).jaxpr, num_rows


def _fixed_size(model: Model) -> int | None:
    shapes = (types.of_kind(leaf, types.TensorType).shape for _, leaf in types.type_leaves(model.batch_type))
    return next((shape[0] for shape in shapes if shape and shape[0]), None)


def _abstract_batch(model: Model, size: int) -> Any:
    def sized(tensor):
        return jax.ShapeDtypeStruct((size, *(3 if d is None else d for d in tensor.shape[1:])), tensor.dtype)

    return jax.tree.map(sized, types.tree_of_types(model.batch_type))


def _abstract_key():
    return jax.eval_shape(lambda: jax.random.key(0))


def _run(model: Model, training: bool, weights, batch, mask, key) -> tuple[Any, Any]:
    output = predicted(model, weights, batch, mask, key if training else None, training)
    return output, losses(model, output.predictions, batch, mask)


def _coupled(model: Model, training: bool) -> str:
    """What changes with the padding: "predictions", "loss", or "" for nothing.

    Raises:
      ValueError: predictions or losses are NaN for every example, so they cannot be compared.
    """
    mask = trial_mask(_fixed_size(model))
    abstract = _abstract_batch(model, len(mask))

    def run(key, batch, mask):
        init_key, run_key = jax.random.split(key)
        return _run(model, training, _moved(model.init(init_key)), batch, mask, run_key)

    compiled = jax.jit(run).lower(_abstract_key(), abstract, mask).compile()
    for batch, other in trial_batches(abstract, mask):
        with jax.ensure_compile_time_eval():  # this may be called while something else is traced
            results = [_of_examples(compiled(jax.random.key(0), b, mask), mask) for b in (batch, other)]
        (predictions, loss), (other_predictions, other_loss) = results
        if differ(predictions, other_predictions):
            return "predictions"
        if differ(loss, other_loss):
            return "loss"
        # If one example has numbers, these were compared; a NaN that spreads from other examples would be in all.
        if not any(leaf.size and np.isnan(leaf).all() for leaf in jax.tree.leaves(results)):
            return ""
    raise ValueError("predictions or losses are NaN")


def _of_examples(result: tuple[Any, Any], mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The results of `_run` for the rows that are examples; running state, of any size, comes from all rows."""
    output, loss = result
    predictions, running, values = (
        [np.asarray(leaf).astype(np.float64) for leaf in jax.tree.leaves(part)]
        for part in (output.predictions, output.non_trainable, loss)
    )
    predictions = [leaf[mask] if leaf.shape[:1] == mask.shape else leaf for leaf in predictions]
    return [*predictions, *running], [leaf[mask] for leaf in values]


def _moved(weights):
    """The weights moved away from their initial values, since a head of zeros would hide everything before it."""

    def move(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf + 0.1 * jax.random.uniform(jax.random.key(len(jax.tree_util.keystr(path))), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(move, weights)
