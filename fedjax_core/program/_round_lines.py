"""Text files with a line a round."""

import operator
import os
import pathlib
from collections.abc import Callable

from fedjax_core.program._atomic import write_atomically


class RoundLines:
    """A text file with a line a round, in the order of the rounds, that grows at its end.

    A line is appended with one write. Where a crash tore the last one, or somebody else wrote meanwhile, the
    file is read again before the next line, and a torn part taken off. All else is written whole.

    Attributes:
      path: the file; it need not exist.
      header: its first line, None where there is none.
      last: the last round in it, -1 if there is none.
    """

    def __init__(self, path: str | os.PathLike, round_of: Callable[[str], int], has_header: bool = False):
        """Opens the file.

        Args:
          path: the file; its folder must exist.
          round_of: the round of a line. Raises for a line that is not of such a file.
          has_header: whether the first line is of no round.

        Raises:
          FileNotFoundError: there is no such folder.
          ValueError: the file holds something else.
        """
        self.path = pathlib.Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no folder {self.path.parent}; make it first")
        self._round_of = round_of
        self._has_header = has_header
        self.header, self.last = None, -1
        self._size = 0
        self.refresh()

    def refresh(self) -> None:
        """Reads the file again if it is not as this process left it.

        So it is where an exception or Ctrl-C came in the middle of a write, and where somebody else wrote.

        Raises:
          ValueError: the file holds something else.
        """
        if self._size_now() == self._size:
            return
        self.last = self._size = -1  # until all of it is read, which may be interrupted, too
        if self.path.exists():
            self._take_off_torn_line()
            self._read_header_and_last()
        self._size = self._size_now()

    def put(self, round_num: int, line: str, header: str | None = None, padding: str = "") -> None:
        """Writes the line of a round, in the place of what the file holds of this round and later ones.

        Args:
          round_num: the round.
          line: its line, without the end of line.
          header: a new first line, for which the whole file is written anew; None keeps what is there.
          padding: what the lines of the rounds before end in under the new first line.
        """
        round_num = checked_round(round_num)
        self.refresh()
        if header is None and round_num > self.last and self._size:
            with open(self.path, "ab") as file:
                file.write(f"{line}\n".encode())
        else:
            header = header or self.header
            earlier = [before + padding for before in self._lines() if self._round_of(before) < round_num]
            lines = [*([header] if self._has_header else []), *earlier, line]
            write_atomically(self.path, lambda file: file.writelines(f"{line}\n".encode() for line in lines))
            self.header = header
        self.last, self._size = round_num, self._size_now()

    def _size_now(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _lines(self) -> list[str]:
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        return text.split("\n")[int(self._has_header) : -1]

    def _take_off_torn_line(self) -> None:
        whole = self.path.read_bytes().rfind(b"\n") + 1
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)

    def _read_header_and_last(self) -> None:
        try:
            if self._has_header:
                self.header = self.path.read_text("utf-8").partition("\n")[0] or None
            lines = self._lines()
            self.last = self._round_of(lines[-1]) if lines else -1
        except (LookupError, TypeError, ValueError):
            raise ValueError(
                f"{self.path} is continued by a line a round, and holds something else; choose another name"
            ) from None


def checked_round(round_num: int) -> int:
    """The number of a round as a Python integer.

    Raises:
      TypeError: it is no integer.
      ValueError: it is negative.
    """
    try:
        number = operator.index(round_num)
    except TypeError:
        raise TypeError(f"release(value, round_num) takes an integer, got {round_num!r}; use int(round_num)") from None
    if number < 0:
        raise ValueError(f"release(value, round_num) takes a round from 0, got {number}")
    return number
