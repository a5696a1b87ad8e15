"""What a person at the terminal sees, all on stderr: stdout is for results."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(sentence: str) -> None:
    """A sentence for the user."""
    print(sentence, file=sys.stderr, flush=True)


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar, if stderr is a terminal; call it with the number done so far.

    Without a total it shows how many are done, and how fast.
    """
    from rich import progress
    from rich.console import Console
    console = Console(stderr=True)
    end = (progress.MofNCompleteColumn(), progress.TimeRemainingColumn()) if total else (
        progress.TextColumn('{task.completed:,.0f}  ({task.speed:,.0f} a second)'),
        progress.TimeElapsedColumn())
    bar = progress.Progress(progress.TextColumn(what), progress.BarColumn(), *end,
                            console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
