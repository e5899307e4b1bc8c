"""The progress bar of a participant's round."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


@contextlib.contextmanager
def step_bar(description: str, unit: str, total: int | None, shown: bool) -> Iterator[Callable[[], None]]:
    """Shows one line on standard error while the context is open, if that is a terminal or a notebook.

    Args:
      description: the text before the bar.
      unit: what the bar counts, for example "steps".
      total: the number of them; None if it is unknown.
      shown: whether to show the bar at all.

    Yields:
      A function to call after each of them.

    Example:
      >>> with step_bar("training", "steps", total=2, shown=False) as advance:
      ...     advance()
    """
    console = rich.console.Console(stderr=True)
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn(f"{{task.completed}}{'' if total is None else f'/{total}'} {unit}"),
        rich.progress.TimeElapsedColumn(),
        console=console,
        disable=not shown or not (console.is_terminal or console.is_jupyter),
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)
