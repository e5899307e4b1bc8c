"""What one client holds: checked, canonical arrays with one row per example.

Examples are a dict of arrays (or any pytree of arrays) that share their first dimension. A list counts as an array,
not as a container.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks


def flatten(examples: Any) -> tuple[list, Any]:
    """The fields of `examples` and their structure.

    Raises:
      TypeError: a dict has both strings and other names, which JAX cannot sort.
      ValueError: there are thousands of levels.
    """
    try:
        return jax.tree.flatten(examples, is_leaf=None if examples is None else _is_field)
    except ValueError:
        raise TypeError(
            f"the names of fields must be either all strings or all integers, got {examples!r:.200}"
        ) from None
    except _checks.TOO_DEEP:
        raise _checks.too_deep("a client's examples") from None


def field_names(examples: Any) -> list[str]:
    """The path of every field, such as `x` or `image.pixels`."""
    paths = jax.tree_util.tree_flatten_with_path(examples, is_leaf=_is_field)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def _is_field(value) -> bool:
    # None is a pytree without leaves, so a field of it would be there and hold nothing.
    return isinstance(value, list) or value is None


def field_of(name: str) -> str:
    """How an error names a field."""
    return f"field {name!r}" if name else "the array"


def owner_of(client_id) -> str:
    """How an error names a client."""
    return f"client {client_id!r}"


def canonical(value: Any, where: str, owner: Callable[[int], str] | None = None) -> np.ndarray:
    """The array that JAX would make of a field, on the host: 64-bit types are narrowed unless x64 is on.

    Args:
      value: an array or a nested list of numbers with at least one dimension.
      where: how an error names the field.
      owner: row -> how an error names the client that holds the row, if `where` does not say it.

    Raises:
      TypeError: `value` does not hold numbers or booleans, or is a masked array, a table or None.
      ValueError: `value` is a scalar, its rows differ in shape, or a number does not fit the narrowed type.
    """
    array = _numeric(value, where)
    if not array.ndim:
        raise ValueError(f"{where} must have one row per example, got a scalar; wrap it: np.array([{value!r}])")
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array

    def refuse(row: int, value: Any, repair: str) -> ValueError:
        whose = f" of {owner(row)}" if owner else ""
        return ValueError(
            f"{where}{whose} holds {value} in row {row}, which does not fit {dtype} (JAX runs without 64-bit types); "
            f'{repair}, or use jax.config.update("jax_enable_x64", True)'
        )

    if array.dtype.kind in "iu" and array.size:
        row = _first_unfit(array, np.iinfo(dtype))
        if row is not None:
            raise refuse(row, _extreme(array[row]), "renumber the values, split them into two fields")
    with np.errstate(over="ignore"):
        narrowed = array.astype(dtype)
    if place := _checks.first_overflow(array, narrowed):
        raise refuse(place[0], array[place], "divide the values by their scale")
    return narrowed


def _numeric(value, where) -> np.ndarray:
    if value is None:
        raise TypeError(f"{where} must hold numbers, got None; leave the field out of all clients")
    if hasattr(value, "columns"):
        raise TypeError(
            f"{where} must hold numbers, got a {type(value).__name__} with the columns {list(value.columns)}; give a "
            "dict of arrays: {'x': frame[['a', 'b']].to_numpy(), 'y': frame['label'].to_numpy()}"
        )
    _checks.check_not_masked(where, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{where} must be an array, got rows of different shapes; pad them first") from error
    except Exception as error:  # a tensor of another library may refuse, for example one of torch that has gradients
        raise TypeError(
            f"{where} must be an array, got a {type(value).__name__} that NumPy cannot convert ({error}); for a tensor "
            "of torch write tensor.detach().cpu().numpy()"
        ) from None
    is_number = jnp.issubdtype(array.dtype, np.number) and array.dtype.char not in "gG"
    if not is_number and array.dtype != np.bool_:
        raise TypeError(
            f"{where} must hold numbers or booleans of a dtype that JAX has, got {array.dtype}; encode the values "
            "first, for example with np.unique(values, return_inverse=True)[1]"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _first_unfit(array: np.ndarray, limits: np.iinfo) -> int | None:
    if array.min() >= limits.min and array.max() <= limits.max:
        return None
    unfit = (array < limits.min) | (array > limits.max)
    return int(np.argwhere(unfit)[0][0])


def _extreme(row: np.ndarray) -> int:
    row = np.ravel(row)
    return int(max(row.min(), row.max(), key=lambda v: abs(int(v))))


def check_same_rows(leaves: Sequence[np.ndarray], names: Sequence[str], owner: str) -> None:
    """Raises ValueError unless all fields have the same number of rows."""
    for leaf, name in zip(leaves, names):
        if len(leaf) != len(leaves[0]):
            raise ValueError(
                f"{owner}: {field_of(name)} has {len(leaf)} rows and {field_of(names[0])} has {len(leaves[0])}; "
                "every field needs one row per example"
            )


def check_fields(examples: Any, expected: Any, owner: str, reference: str) -> list:
    """The fields of `examples` in the order of `expected`, matched by name.

    Args:
      examples: fields of one client.
      expected: a pytree of the fields that `reference` has.
      owner: how an error names the client.
      reference: how an error names the client it is compared with.

    Raises:
      ValueError: a field is missing, or there is one too many.
    """
    leaves, treedef = flatten(examples)
    if treedef == jax.tree.structure(expected):
        return leaves
    names, wanted = field_names(examples), field_names(expected)
    if missing := [n for n in wanted if n not in names]:
        raise ValueError(f"{owner} has no field {missing[0]!r}, which {reference} has; its fields are {names}")
    if excess := [n for n in names if n not in wanted]:
        raise ValueError(f"{owner} has a field {excess[0]!r}, which {reference} does not have; its fields are {wanted}")
    by_name = dict(zip(names, leaves))
    if len(by_name) < len(wanted):  # several fields have the same path, so names cannot match them
        raise ValueError(
            f"{owner} has other containers than {reference}: {treedef} instead of {jax.tree.structure(expected)}; give "
            "all clients the same containers"
        )
    return [by_name[name] for name in wanted]


def is_bare(value: Any) -> bool:
    """Whether a field is `[]`, as in files of LEAF: it has no rows, and does not show the dtype and shape of a row."""
    return (isinstance(value, list) and not value) or getattr(value, "shape", None) == (0,)


def check_like(leaf: np.ndarray, expected: Any, where: str, reference: str) -> None:
    """Raises unless a field's rows have the expected dtype and shape.

    Args:
      leaf: `[rows, ...]`.
      expected: anything with the `dtype` and the `shape` of one row.
      where: how an error names the field.
      reference: how an error names the client it is compared with.

    Raises:
      TypeError: the dtypes differ.
      ValueError: the shapes of a row differ.
    """
    if leaf.dtype != expected.dtype:
        # Never integers for floats: 1.5 would become 1.
        common = max(leaf.dtype, expected.dtype, key=lambda d: (jnp.issubdtype(d, jnp.inexact), d.itemsize))
        raise TypeError(
            f"{where} is {leaf.dtype}, but {expected.dtype} in {reference}; "
            f'give all clients one dtype: np.asarray(values, "{common}")'
        )
    if leaf.shape[1:] != tuple(expected.shape):
        raise ValueError(
            f"{where} has examples of shape {leaf.shape[1:]}, but {tuple(expected.shape)} in {reference}; "
            "give all examples one shape first, for example by padding"
        )
