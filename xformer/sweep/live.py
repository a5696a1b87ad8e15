"""What a person at the terminal sees of a sweep while it goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.table import Table

from xformer.sweep.report import Row, headline, listed, number, ranked, spread
from xformer.sweep.study import Sweep

BEST = 10  # trials that are complete
OTHERS = 10  # that run or have failed


@contextmanager
def shown(sweep: Sweep) -> Iterator[None]:
    """As long as this lasts a table of the trials stands below all else, if stderr is a terminal.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=partial(drawn, sweep), console=console, refresh_per_second=1,
              transient=True):
        yield


def drawn(sweep: Sweep) -> Table:
    """The best trials and those that have begun and are not complete."""
    rows = ranked(sweep)
    table = Table(caption=headline(sweep, rows), caption_justify='left')
    for name in ('trial', 'state', 'step', sweep.plan.measure, 'settings'):
        table.add_column(name, justify='left' if name in ('state', 'settings') else 'right')
    complete = [row for row in rows if row.state == 'complete']
    begun = sorted((row for row in rows if row.state not in ('complete', 'waiting')),
                   key=lambda row: row.state != 'running')
    for row in [*complete[:BEST], *begun[:OTHERS]]:
        table.add_row(str(row.place), row.state, *_reached(row), listed(row.settings))
    return table


def _reached(row: Row) -> tuple[str, str]:
    """The newest step that was measured, and the trial's value or what it is there."""
    step = max(row.curve, default=None)
    value = row.curve.get(step) if row.value is None else row.value
    return '' if step is None else f'{step:,}', number(value) + spread(row.values)
