"""What differs between runs: in their configurations, and in what was measured of them.

    python -m experiments.compare runs/one runs/two
    python -m experiments.compare runs/sweep/trials/*/seed-0 --csv > table.csv

A column a run. Of training, what was measured of the dev split at the step that train.best_by
calls the best; of experiments.evaluate, all that it wrote. Runs that differ in nothing but
train.seed also get their mean and standard deviation.
"""

import csv
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import cli
from xformer.config import Config, UserError, read_config, to_flat


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean('csv', False, 'comma-separated values instead of a table',
                         flag_values=values)


def main(argv: list[str]) -> None:
    folders: list[str] = []
    values = cli.parse(argv, __doc__, define, sections=(), arguments=folders)
    if len(folders) < 2:
        raise UserError('give two run folders or more: python -m experiments.compare RUN RUN')
    rows = compared([Path(folder) for folder in folders])
    if values.csv:
        csv.writer(sys.stdout).writerows(rows)
    else:
        _print(rows)


def compared(folders: Sequence[Path]) -> list[list[str]]:
    """A heading, and a row for each setting or measure: its name, then the value of each run.
    Raises UserError for a folder that is no run."""
    given = [read_config(folder) for folder in folders]
    configs = [to_flat(config) for config in given]
    differing = [name for name in configs[0] if len({config[name] for config in configs}) > 1]
    found = [_measures(folder, config) for folder, config in zip(folders, given)]
    names = list(dict.fromkeys(name for measures in found for name in measures))
    spread = differing == ['train.seed'] and len({each['train.seed'] for each in configs}) == len(
        configs)
    return [['', *map(str, folders), *(['mean', 'sd'] if spread else [])],
            *([name, *(str(config[name]) for config in configs), *([''] * 2 * spread)]
              for name in differing),
            *([name, *(_shown(measures.get(name)) for measures in found),
               *(_spread([measures.get(name) for measures in found]) if spread else [])]
              for name in names)]


def _measures(folder: Path, config: Config) -> dict[str, float]:
    """{'step': best, 'dev/loss': there, 'test per': ...} of a run."""
    from xformer.train.telemetry import best_row, read_rows
    best = best_row(read_rows(folder / 'metrics.jsonl'), config.train.best_by) or {}
    found = {name: best[name] for name in best if name == 'step' or name.startswith('dev/')}
    for path in sorted((folder / 'eval').glob('*.json')):
        try:
            metrics = json.loads(path.read_text(encoding='utf-8'))['metrics']
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path} is damaged ({error!r}); evaluate again') from None
        found |= {f'{path.stem} {name}': value for name, value in metrics.items()
                 if isinstance(value, (int, float))}
    return found


def _shown(value: float | None) -> str:
    return '' if value is None else f'{value:.5g}' if isinstance(value, float) else str(value)


def _spread(values: Sequence[float | None]) -> list[str]:
    """Mean and standard deviation, where every run has a value."""
    if None in values:
        return ['', '']
    return [_shown(statistics.mean(map(float, values))), _shown(statistics.stdev(values))]


def _print(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for name, *cells in rows:
        line = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(
            cells, widths[1:]))]
        print('  '.join(line).rstrip())


if __name__ == '__main__':
    cli.call(main)
