"""sweep.html and sweep.csv: what a sweep has found so far."""

import csv
import io
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from xformer.files import write_atomically
from xformer.page import page, paragraph, picture, table
from xformer.sweep.space import Settings
from xformer.sweep.study import STOPPED, Sweep

SHOWN = 20  # of the best trials
CURVES = 8


class Row(NamedTuple):
    """A trial. `values` are those of its seeds."""

    place: int
    state: str
    value: float | None
    values: list[float]
    settings: Settings
    minutes: float | None
    reason: str
    folder: str  # HOST:PATH of the sweep's folder there
    curve: dict[int, float]


def write_report(sweep: Sweep, folder: Path) -> Path:
    """Write both, replacing older ones at once, and return the path of the page."""
    rows = ranked(sweep)
    names = [name for dimension in sweep.plan.space for name in dimension.names]
    write_atomically(folder / 'sweep.csv', _csv(rows, names))
    path = folder / 'sweep.html'
    write_atomically(path, page(folder.resolve().name, headline(sweep, rows),
                                _sections(sweep, rows, names, folder)))
    return path


def ranked(sweep: Sweep) -> list[Row]:
    """The trial of each place, the best first, then those without a result."""
    rows = [_row(sweep, place, trials) for place, trials in enumerate(sweep.by_place())]
    return sorted(rows, key=lambda row: (row.state != 'complete', row.value is None,
                                         sweep.plan.sign * (row.value or 0.0), row.place))


def _row(sweep: Sweep, place: int, trials: list[FrozenTrial]) -> Row:
    if not trials:
        return Row(place, 'waiting', None, [], {}, None, '', '', {})
    served = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    trial = (served or trials)[-1]
    state, reason = trial.state.name.lower(), trial.user_attrs.get('reason', '')
    if trial.state is TrialState.FAIL:
        state = 'failed' if sweep.given_up(trials) else STOPPED
        reason = reason or f'its runs or workers died, {len(trials)} times'
    spent = [(each.datetime_complete - each.datetime_start).total_seconds() / 60
             for each in trials if each.datetime_complete and each.datetime_start
             and not (each.state is TrialState.FAIL and 'reason' not in each.user_attrs)]
    return Row(place, state, trial.value, trial.user_attrs.get('values', []),
               trial.user_attrs.get('settings', {}), sum(spent) if spent else None,
               reason if state in ('failed', STOPPED) else '', trial.user_attrs.get('folder', ''),
               trial.intermediate_values)


def interval(values: list[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean (Student's t)."""
    from scipy.stats import t
    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def _csv(rows: list[Row], names: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['trial', 'state', 'value', 'sd', 'confidence_95', 'values', *names, 'minutes',
                     'reason', 'folder'])
    for row in rows:
        sd = statistics.stdev(row.values) if len(row.values) > 1 else None
        writer.writerow([row.place, row.state, row.value, sd, interval(row.values),
                         ' '.join(map(str, row.values)),
                         *(row.settings.get(name) for name in names),
                         None if row.minutes is None else round(row.minutes, 2), row.reason,
                         row.folder])
    return text.getvalue()


def headline(sweep: Sweep, rows: list[Row]) -> str:
    """How many trials are in which state, and the best of them."""
    states = [row.state for row in rows]
    counted = ', '.join(f'{states.count(state)} {state}' for state in dict.fromkeys(states))
    best = rows[0]
    if best.state != 'complete':
        return f'{counted}; nothing has been found yet'
    return (f'{counted}; best {sweep.plan.measure} {number(best.value)}{spread(best.values)} '
            f'of trial {best.place}: {listed(best.settings)}')


def _sections(sweep: Sweep, rows: list[Row], names: list[str], folder: Path
              ) -> Iterator[tuple[str, str]]:
    done = [row for row in rows if row.state == 'complete']
    yield 'Best trials', _best(done, names)
    if done:
        yield 'What matters', _importances(sweep, done)
        yield 'Settings and results', _parallel(sweep, done, names)
    if curves := [row for row in rows if len(row.curve) > 1]:
        yield 'Curves', _curves(sweep, curves)
    if others := [row for row in rows if row.state != 'complete']:
        yield 'Without a result', table(
            ('trial', 'state', 'settings', 'reason'),
            [(str(row.place), row.state, listed(row.settings), row.reason) for row in others])
    yield 'The sweep', table(('what', 'value'), [
        (what.replace('_', ' '), str(value)) for what, value in sweep.plan.to_row().items()
        if what != 'config'])


def _best(done: list[Row], names: list[str]) -> str:
    if not done:
        return paragraph('No trial is complete yet.')
    several = any(len(row.values) > 1 for row in done)
    header = ['trial', 'value', *(['sd', '95 % ±'] if several else []), *names, 'minutes']
    lines = [[str(row.place), number(row.value),
              *([number(statistics.stdev(row.values)), number(interval(row.values))]
                if several else []),
              *(_text(row.settings.get(name)) for name in names), f'{row.minutes:.1f}']
             for row in done[:SHOWN]]
    return table(header, lines, numbers=set(header)) + paragraph(
        f'Their runs are in trials/NUMBER of {", ".join(sorted({row.folder for row in done}))}: '
        'one for each seed; python -m experiments.compare shows them side by side.')


def _importances(sweep: Sweep, done: list[Row]) -> str:
    """The share of the results' variance that each explains (fANOVA; Hutter et al. 2014)."""
    import optuna

    from xformer.figures import draw_bars
    if len(done) < 4 or len({row.value for row in done}) == 1:
        return paragraph('Too few results differ to say.')
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(sweep.study, evaluator=evaluator)
    if not found:
        return paragraph('No setting is varied in all trials.')
    left_out = [dimension.key for dimension in sweep.plan.space if dimension.key not in found]
    return picture(draw_bars('Importance', 'share of the variance of the results', found),
                   'Importance of each setting') + paragraph(
        f'Not in every trial, and left out: {", ".join(left_out)}.' if left_out else '')


def _parallel(sweep: Sweep, done: list[Row], names: list[str]) -> str:
    from xformer.figures import draw_parallel
    columns = {name: [_drawn(row.settings.get(name)) for row in done] for name in names
               if any(name in row.settings for row in done)}
    log = {dimension.key for dimension in sweep.plan.space if dimension.log}
    return picture(draw_parallel(columns, [row.value for row in done], sweep.plan.measure, log),
                   'A line for each trial through its settings to its result')


def _curves(sweep: Sweep, rows: list[Row]) -> str:
    from xformer.figures import draw_curves
    curves = {f'trial {row.place}': (list(row.curve), list(row.curve.values()))
              for row in rows[:CURVES]}
    about = (f'The best {CURVES} of {len(rows)} trials; the first seed of each.'
             if len(rows) > CURVES else 'The first seed of each trial.')
    return paragraph(about) + picture(
        draw_curves(sweep.plan.measure, sweep.plan.measure, curves, size=(6.6, 3.6), log=False),
        'The metric of each trial over steps')


def spread(values: list[float]) -> str:
    """' ± standard deviation', where there are several."""
    return f' ± {statistics.stdev(values):.2g}' if len(values) > 1 else ''


def listed(settings: dict[str, Any]) -> str:
    """'NAME = VALUE, ...'."""
    return ', '.join(f'{name} = {_text(value)}' for name, value in settings.items())


def _drawn(value: Any) -> float | str | None:
    return str(value) if isinstance(value, bool) else value


def _text(value: Any) -> str:
    return '' if value is None else number(value) if isinstance(value, float) else str(value)


def number(value: float | None) -> str:
    """Four significant digits, or nothing."""
    return '' if value is None else f'{value:.4g}'
