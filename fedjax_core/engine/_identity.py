"""Identity: the 64-bit digest of a client's id, from which all its randomness comes."""

import hashlib
from collections.abc import Sequence as AbstractSequence

import numpy as np

from fedjax_core import _checks

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the increment of splitmix64

_INTEGERS = np.uint64(0xD1B54A32D192ED03)  # the offsets of the digests of integers and strings: any two numbers
_STRINGS = np.uint64(0x8CB92BA72F3D8DD7)
_CHUNK = 1 << 15  # ids hashed at a time, so that the arrays stay in the cache


def client_digests(ids: AbstractSequence | np.ndarray) -> np.ndarray:
    """A stable 64-bit digest of each client id, uint64 `[len(ids)]`.

    A digest depends on nothing but the id (a string, or an integer of any width), so the randomness
    of a client is the same in every cohort, process and session. Two integers of 64 bits never have the same digest.

    Args:
      ids: strings and integers; an array of integers or of fixed-width strings; a range; or a sequence that knows its
        `digests`, as `data.ClientIds` does.

    Raises:
      TypeError: an id is neither a string nor an integer.

    Example: an integer and its decimal string are different clients.

    >>> client_digests(["ada", 7, "7"]).tolist()
    [14142665566185451499, 8857195775763297403, 11103303755166420109]
    """
    known = getattr(ids, "digests", None)
    if known is not None:
        return known
    digests = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _CHUNK):
        here = slice(start, start + _CHUNK)
        digests[here] = _digests(ids[here])
    return digests


def _digests(ids) -> np.ndarray:
    # Beyond 2**62, `step * place` of a long range could wrap around in int64.
    if isinstance(ids, range) and (not ids or max(abs(ids[0]), abs(ids[-1])) < 2**62):
        ids = ids.start + ids.step * np.arange(len(ids))
    if isinstance(ids, np.ndarray):
        # From 2**63 on, an unsigned id would have the digest of a negative one.
        if ids.dtype.kind in "iu" and (ids.dtype != np.uint64 or ids.max(initial=0) < 2**63):
            return _of_integers(ids.astype(np.int64))
        if ids.dtype.kind == "U":
            return _of_strings(*_code_points_of_array(ids))
        ids = ids.tolist()
    return _of_objects(ids)


def _of_integers(values: np.ndarray) -> np.ndarray:
    """A bijection of int64 `[C]`, since an odd factor, an offset and `mix` are bijections."""
    return mix(values.view(np.uint64) * GOLDEN + _INTEGERS)


def _of_strings(points: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Folds the length, and then two code points at a time, into a state.

    Args:
      points: uint32, the code points of one string after another.
      lengths: int64 `[C]`.
    """
    # One more point, since `np.where` below also reads what follows the last string.
    points = np.append(points, np.uint32(0)).astype(np.uint64)
    starts, state = np.cumsum(lengths) - lengths, mix(lengths.astype(np.uint64) * GOLDEN + _STRINGS)
    here = np.arange(len(lengths))
    for place in range(0, int(lengths.max(initial=0)), 2):
        here = here[lengths[here] > place]
        first = starts[here] + place
        second = np.where(lengths[here] > place + 1, points[first + 1], np.uint64(0))
        state[here] = mix((state[here] ^ (points[first] | second << np.uint64(32))) + GOLDEN)
    return state


def _code_points_of_array(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.strings.str_len(ids).astype(np.int64)
    width = ids.dtype.itemsize // 4
    points = np.ascontiguousarray(ids.astype(f"=U{width}")).view(np.uint32).reshape(len(ids), width)
    return points[np.arange(width) < lengths[:, None]], lengths


def _of_objects(ids) -> np.ndarray:
    digests = np.empty(len(ids), np.uint64)
    strings, integers, wide = [], [], []
    for place, client_id in enumerate(ids):
        if isinstance(client_id, str):
            strings.append(place)
        elif isinstance(client_id, int | np.integer) and not isinstance(client_id, bool):
            (integers if -(2**63) <= client_id < 2**63 else wide).append(place)
        else:
            raise TypeError(
                f"a client id is a string or an integer, got {client_id!r} of type {type(client_id).__name__}; "
                f"use {_checks.as_text(client_id)}"
            )
    if strings:
        texts = [ids[place] for place in strings]
        # A lone surrogate may be part of a Python string, but strict encoding refuses it.
        points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
        digests[strings] = _of_strings(points, np.fromiter(map(len, texts), np.int64, len(texts)))
    if integers:
        digests[integers] = _of_integers(np.array([ids[place] for place in integers], np.int64))
    for place in wide:
        text = f"i{int(ids[place])}".encode()
        digests[place] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return digests


def identities(digests: np.ndarray) -> np.ndarray:
    """The numbers from which the clients of a cohort draw, distinct for each occurrence of a client.

    Args:
      digests: uint64 `[C]`, `client_digests` of the cohort's ids, in cohort order.

    Returns:
      uint64 `[C]`: the digest itself for the first occurrence of a client, and another value for
      every further one. All randomness of a client comes from this number.

    Example:

    >>> identities(np.array([5, 9, 5], np.uint64)).tolist()
    [5, 9, 16294208416658607530]
    """
    ordered = np.sort(digests)
    if not np.any(ordered[1:] == ordered[:-1]):
        return digests  # `mix` maps 0 to 0, and a million clients need not be held twice
    with np.errstate(over="ignore"):
        return digests ^ mix(_occurrences(digests) * GOLDEN)


def _occurrences(digests: np.ndarray) -> np.ndarray:
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    position = np.arange(len(ordered))
    first = np.maximum.accumulate(np.where(starts, position, 0))
    result = np.empty(len(ordered), np.uint64)
    result[order] = position - first
    return result


def mix(z: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014), a bijection of uint64 that maps 0 to 0.

    Example: neighbouring numbers become unrelated ones.

    >>> [hex(z) for z in mix(np.arange(3, dtype=np.uint64)).tolist()]
    ['0x0', '0x5692161d100b05e5', '0xdbd238973a2b148a']
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
