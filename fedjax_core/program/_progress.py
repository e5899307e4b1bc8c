"""The progress bar of a run."""

import rich.console
import rich.progress

from fedjax_core.program._history import Record


class ProgressBar:
    """A line with the rounds, the latest loss and accuracy, clients a second and the time left.

    Shown on standard error while the context is open, and only where that is a terminal or a
    notebook: a log file is not filled with bars.

    Args:
      rounds: how many there will be.
      disable: shows nothing.
      console: where to show it; None for standard error.
    """

    def __init__(self, rounds: int, disable: bool = False, console: rich.console.Console | None = None):
        console = rich.console.Console(stderr=True) if console is None else console
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("round {task.completed}/{task.total}"),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.TextColumn("[dim]{task.fields[speed]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            console=console,
            disable=disable or not (console.is_terminal or console.is_jupyter),
            expand=True,
        )
        self._task = self._bar.add_task("compiling", total=rounds, speed="")
        self._num_clients = 0
        self._first = 0.0
        self._held_out = {}

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def update(self, record: Record) -> None:
        """Shows the numbers of the round that has just ended."""
        if record.held_out:
            self._held_out = record.held_out
        description = record._replace(held_out=self._held_out).summary()
        self._bar.update(self._task, completed=record.round, description=description, speed=self._speed(record))

    def _speed(self, record: Record) -> str:
        """Clients a second since the first round, whose time is that of the compiler."""
        if record.round == 1:
            self._first = record.seconds
            return ""
        self._num_clients += record.num_clients
        return f"{self._num_clients / max(record.seconds - self._first, 1e-9):.0f} clients/s"
