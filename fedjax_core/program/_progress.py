"""The progress bar of a run."""

import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress
import rich.text

from fedjax_core.program._history import Record


class ProgressBar:
    """Two lines: the round, rounds and clients per second and the time left; the latest loss and accuracy.

    The bar is shown on standard error while the context is open, and only if that is a terminal or a notebook, so that
    log files are not filled with bars.

    Args:
      rounds: the number of the last round; None if it is unknown.
      completed: the number of rounds done so far, in a run that is resumed.
      disable: whether to show nothing.
      console: the console to show the bar on; None for standard error.
      clock: returns the time in seconds.
    """

    def __init__(
        self,
        rounds: int | None,
        completed: int = 0,
        disable: bool = False,
        console: rich.console.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        console = rich.console.Console(stderr=True) if console is None else console
        self._bar = _TwoLines(
            rich.progress.TextColumn("round {task.completed}" + ("" if rounds is None else "/{task.total}")),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.fields[speed]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            console=console,
            disable=disable or not (console.is_terminal or console.is_jupyter),
            expand=True,
            get_time=clock,
        )
        self._task = self._bar.add_task("compiling", total=rounds, completed=completed, speed="")
        self._rounds = -1  # leaves the first round out of the speed, since it compiles
        self._num_clients = 0
        self._seconds = 0.0
        self._held_out = {}

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def update(self, record: Record) -> None:
        """Shows the numbers of the round that has just ended, and those of the latest evaluation."""
        self._held_out = record.held_out or self._held_out
        description = record._replace(held_out=self._held_out).summary()
        self._bar.update(self._task, completed=record.round, description=description, speed=self._speed(record))

    def _speed(self, record: Record) -> str:
        """Rounds and clients per second, without evaluation; empty after the first round."""
        self._rounds += 1
        if not self._rounds:
            return ""
        self._num_clients += record.num_clients
        self._seconds += record.round_seconds
        seconds = max(self._seconds, 1e-9)
        return f"{self._rounds / seconds:.3g} rounds/s, {self._num_clients / seconds:.0f} clients/s"


class _TwoLines(rich.progress.Progress):
    """Shows the description of a task on its own line, so that a narrow terminal shows all of it."""

    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (rich.text.Text(task.description) for task in self.tasks)
