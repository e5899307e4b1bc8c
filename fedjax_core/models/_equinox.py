"""Models from equinox modules, and modules with the trained weights."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.contracts import Metric, Model, ModelWeights, Predicted
from fedjax_core.language.rows import MASKED
from fedjax_core.models import _adapting


def from_equinox(
    create: Callable[[jax.Array], Any],
    loss: Callable[..., jax.Array],
    batch_type: Any,
    metrics: Mapping[str, Metric] | None = None,
    *,
    inputs: str | Sequence[str] = "x",
    axis_name: str = "batch",
    running: str = "average",
) -> Model:
    """Makes a `Model` from an `equinox.Module` that takes one example at a time.

    The module's floating point arrays are trained. If it has other arrays, or a state (`equinox.nn.make_with_state`),
    the weights are `ModelWeights(trainable, {"buffers": ..., "state": ...})`. The state that the module returns in
    training is running state; `running` says what happens to it. Integers and booleans in the state, such as the
    counter of an `equinox.nn.BatchNorm`, are float32 in the weights, so that they can be averaged over clients; the
    module gets the nearest integer or boolean.

    The module is mapped over the examples of a batch, in inference mode unless it trains. If its `__call__` has a
    parameter `key`, every example gets its own key in training. An `equinox.nn.BatchNorm` leaves padding out of its
    statistics.

    Args:
      create: `(key) -> module`, or `(key) -> (module, state)`, such as
        `lambda key: equinox.nn.make_with_state(Net)(key=key)`.
      loss: `(predictions, batch) -> [B]`, for example `cross_entropy()`.
      batch_type: the type of a batch, or anything that `to_type` converts: notation, or a dict of notations.
      metrics: metrics by name, in addition to the loss.
      inputs: the batch field that the module takes, or several fields in the order of its parameters.
      axis_name: the name of the mapped axis of examples, as it is given to `equinox.nn.BatchNorm`.
      running: what happens to running state. "average": the server averages the clients' states after training,
        weighted by their numbers of examples. "keep": a client carries it from step to step and does not send it.
        "freeze": it stays as it was created.

    Returns:
      The `Model`. Its weights are nested dicts, keyed by the names of the module's fields.

    Raises:
      ImportError: equinox is not installed.
      TypeError: `create` does not return a module.
      ValueError: `batch_type` lacks one of the inputs, or `running` is not one of the three; when predicting: the
        module needs a key and gets none, or a layer's axis has another name.

    Example:
      >>> import equinox as eqx
      >>> from fedjax_core.models import cross_entropy
      >>> batch_type = {"x": "float32[?,784]", "y": "int32[?]"}
      >>> model = from_equinox(lambda key: eqx.nn.MLP(784, 10, 64, 1, key=key), cross_entropy(), batch_type)
      >>> weights = model.init(jax.random.key(0))
      >>> weights["layers"]["0"]["weight"].shape
      (64, 784)
      >>> model.predict(weights, {"x": jnp.ones((2, 784))}).shape
      (2, 10)
    """
    parts = _Parts(create, "from_equinox")
    batch_type = types.to_type(batch_type)
    names = _adapting.input_names("from_equinox", inputs, batch_type)

    def predict(weights, batch, key=None, training=False, mask=None):
        module, state = parts.module(weights)
        values = [batch[name] for name in names]
        key = key if training else None
        try:
            with _adapting.telling_of_axes("write from_equinox(..., axis_name=...) with the axis name of its layers"):
                predictions, state = _mapped(module, state, values, key, training, mask, axis_name)
        except RuntimeError as error:  # equinox's Dropout raises this when it gets no key
            if training and key is None:
                raise _adapting.missing_key() from error
            raise
        if not training or state is None or running == "freeze":
            return predictions
        return Predicted(predictions, {**weights.non_trainable, "state": parts.written(state)})

    predict.__qualname__ = f"from_equinox({type(parts.abstract).__name__}).predict"
    metrics = _adapting.metrics_dict(metrics)
    running_field = _adapting.running_of_model("from_equinox", running)
    return Model(lambda key: parts.weights(create(key)), predict, loss, metrics, batch_type, running_field)


def to_equinox(weights: Any, create: Callable[[jax.Array], Any]) -> Any:
    """Builds the equinox module with federated weights.

    Args:
      weights: the weights of a `Model` of `from_equinox`, for example `process.get_model_weights(state)`.
      create: the function that was given to `from_equinox`.

    Returns:
      What `create` returns, with these weights: a module, or a module and its state.

    Raises:
      ImportError: equinox is not installed.
      TypeError: `create` does not return a module.
      KeyError: the weights are those of another module.

    Example:
      >>> import equinox as eqx
      >>> weights = {"weight": jnp.ones((1, 2)), "bias": jnp.zeros(1)}
      >>> to_equinox(weights, lambda key: eqx.nn.Linear(2, 1, key=key))(jnp.ones(2))
      Array([2.], dtype=float32)
    """
    module, state = _Parts(create, "to_equinox").module(weights)
    return module if state is None else (module, state)


def _imported_equinox(caller: str) -> Any:
    try:
        import equinox
    except ImportError as error:
        raise ImportError(f"{caller} needs equinox; run: pip install 'fedjax-core[equinox]'") from error
    return equinox


class _Parts:
    """Converts between a module and its weights.

    Attributes:
      abstract: the module, with abstract arrays.
    """

    def __init__(self, create: Callable, caller: str):
        equinox = _imported_equinox(caller)
        if isinstance(create, equinox.Module) or not callable(create):
            raise TypeError(
                f"{caller}(create=...) must be a function that makes an equinox.Module with a key, got "
                f"{type(create).__name__}(...); write `lambda key: equinox.nn.MLP(784, 10, 64, 1, key=key)`"
            )
        made = equinox.filter_eval_shape(create, jax.random.key(0))
        self.abstract, self._state = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(self.abstract, equinox.Module):
            raise TypeError(
                f"{caller}(create=...) must return an equinox.Module, or one and its state, for a key, got "
                f"{self.abstract!r}; write `lambda key: equinox.nn.MLP(784, 10, 64, 1, key=key)`"
            )

    def weights(self, made: Any) -> Any:
        """The weights in `made`, which `create` returned."""
        module, state = (made, None) if self._state is None else made
        arrays = [(path, leaf) for path, leaf in _leaves(module) if isinstance(leaf, jax.Array)]
        trainable = _nested((path, leaf) for path, leaf in arrays if _is_trained(leaf))
        buffers = _nested((path, leaf) for path, leaf in arrays if not _is_trained(leaf))
        others = {"buffers": buffers} if buffers else {}
        if state is not None:
            others["state"] = self.written(state)
        return ModelWeights(trainable, others) if others else trainable

    def module(self, weights: Any) -> tuple[Any, Any]:
        """The module and its state with these weights."""
        trainable, others = weights if isinstance(weights, ModelWeights) else (weights, {})
        leaves = [self._leaf(path, leaf, trainable, others) for path, leaf in _leaves(self.abstract)]
        module = jax.tree.unflatten(jax.tree.structure(self.abstract), leaves)
        return module, None if self._state is None else self._read(others["state"])

    def _leaf(self, path, leaf, trainable, others):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return _at(trainable if _is_trained(leaf) else others["buffers"], path)

    def written(self, state: Any) -> dict:
        """The state as a dict, with its integers and booleans as float32."""
        return {str(i): _as_float(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}

    def _read(self, written: Mapping) -> Any:
        leaves, structure = jax.tree.flatten(self._state)
        return structure.unflatten([_from_float(written[str(i)], leaf.dtype) for i, leaf in enumerate(leaves)])


def _is_trained(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _as_float(leaf: jax.Array) -> jax.Array:
    is_number = jnp.issubdtype(leaf.dtype, jnp.integer) or jnp.issubdtype(leaf.dtype, jnp.bool_)
    return leaf.astype(jnp.float32) if is_number else leaf


def _from_float(leaf: jax.Array, dtype: Any) -> jax.Array:
    if leaf.dtype == dtype:
        return leaf
    return leaf >= 0.5 if jnp.issubdtype(dtype, jnp.bool_) else jnp.round(leaf).astype(dtype)


def _leaves(module: Any) -> list[tuple[tuple[str, ...], Any]]:
    paths = jax.tree_util.tree_leaves_with_path(module)
    return [(tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path), leaf) for path, leaf in paths]


def _nested(leaves: Any) -> dict:
    tree: dict = {}
    for path, leaf in leaves:
        part = functools.reduce(lambda part, name: part.setdefault(name, {}), path[:-1], tree)
        part[path[-1]] = leaf
    return tree


def _at(tree: Mapping, path: Sequence[str]) -> Any:
    return functools.reduce(lambda part, name: part[name], path, tree)


def _mapped(module, state, values, key, training, mask, axis_name) -> tuple[Any, Any]:
    """The module's predictions for all examples, and its state afterwards."""
    import equinox

    module = equinox.nn.inference_mode(module, value=not training)
    takes_key = "key" in inspect.signature(module.__call__).parameters
    number = values[0].shape[0]
    keys = None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number))
    rows = None
    if training and mask is not None:
        with jax.named_scope(MASKED):
            rows = mask | ~jnp.any(mask)  # without an example all rows count, since the mean over none is NaN

    def one(key, row, *values):
        called = module if row is None else _with_row(module, row, axis_name)
        states = () if state is None else (state,)
        output = called(*values, *states, **({"key": key} if takes_key else {}))
        return (output, None) if state is None else output

    axes = (None if keys is None else 0, None if rows is None else 0, *[0] * len(values))
    return jax.vmap(one, in_axes=axes, out_axes=(0, None), axis_name=axis_name)(keys, rows, *values)


def _with_row(module: Any, row: jax.Array, axis_name: str) -> Any:
    """The module with batch normalizations that know whether this row is an example."""
    import equinox

    def is_norm(part):
        return isinstance(part, equinox.nn.BatchNorm) and part.axis_name == axis_name

    return jax.tree.map(lambda part: _masked_norm(part, row) if is_norm(part) else part, module, is_leaf=is_norm)


def _masked_norm(norm: Any, row: jax.Array) -> Any:
    return _masked_norm_class()(norm, row)


@functools.cache
def _masked_norm_class() -> type:
    """The class `MaskedBatchNorm`, created on first use, because equinox is imported only then."""
    import equinox

    class MaskedBatchNorm(equinox.nn.StatefulLayer):
        """An `equinox.nn.BatchNorm` on one row, with statistics over those rows that are examples.

        Attributes:
          norm: the layer.
          row: bool `[]`, whether the current row is an example.
        """

        norm: equinox.nn.BatchNorm
        row: jax.Array

        def __call__(self, x, state, *, key=None, inference=None):
            norm = self.norm
            if norm.inference if inference is None else inference:
                return norm(x, state, key=key, inference=inference)
            with jax.named_scope(MASKED):
                mean, variance = self._moments(x)
            mean, variance, state = _updated_statistics(norm, mean, variance, state)
            shape = (-1, *[1] * (x.ndim - 1))
            normal = (x - mean.reshape(shape)) / jnp.sqrt(variance.reshape(shape) + norm.eps)
            if norm.channelwise_affine:
                assert norm.weight is not None and norm.bias is not None
                normal = normal * norm.weight.reshape(shape) + norm.bias.reshape(shape)
            return normal, state

        def _moments(self, x):
            axes = tuple(range(1, x.ndim))
            number = jax.lax.psum(self.row.astype(x.dtype), self.norm.axis_name)

            def mean_over_rows(values):
                kept = jnp.where(self.row, jnp.mean(values, axis=axes), 0)
                return jax.lax.psum(kept, self.norm.axis_name) / number

            mean = mean_over_rows(x)
            return mean, mean_over_rows(jnp.square(x - mean.reshape(-1, *[1] * len(axes))))

    return MaskedBatchNorm


def _updated_statistics(norm: Any, mean: jax.Array, variance: jax.Array, state: Any) -> tuple[Any, Any, Any]:
    """The statistics that equinox normalizes with in training, and the state with updated running statistics."""

    def mixed(running, new):
        return norm.momentum * running + (1 - norm.momentum) * new

    if norm.mode == "batch":
        running = state.get(norm.batch_state_index)
        state = state.set(norm.batch_counter, state.get(norm.batch_counter) + 1)
        return mean, variance, state.set(norm.batch_state_index, tuple(map(mixed, running, (mean, variance))))
    is_first = state.get(norm.ema_first_time_index)
    running = state.get(norm.ema_state_index)
    mean, variance = (jnp.where(is_first, new, mixed(old, new)) for old, new in zip(running, (mean, variance)))
    state = state.set(norm.ema_first_time_index, jnp.array(False))
    return mean, variance, state.set(norm.ema_state_index, (mean, variance))
