"""report.html: what a run folder says about itself, on one page that needs nothing else."""

import html
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xformer.config import (
    Config,
    DataConfig,
    UserError,
    diff,
    is_labelled,
    leaves,
    read_config,
    to_flat,
    writes_outputs,
)
from xformer.evaluate.labels import normal
from xformer.evaluate.scores import is_right, plain
from xformer.figures import draw_curves
from xformer.files import write_atomically
from xformer.page import page, paragraph, picture, table
from xformer.train.flops import FORMULA
from xformer.train.telemetry import read_rows

NUM_SAMPLES = 20


def write_report(run_folder: Path) -> Path:
    """Write `run_folder`/report.html, replacing an older one at once, and return its path.

    What the folder does not have (yet) is said to be absent. Raises UserError if it is no run
    folder or a file in it is damaged.
    """
    config = read_config(run_folder)
    metrics = read_rows(run_folder / 'metrics.jsonl')
    results = [_read_json(path) for path in sorted((run_folder / 'eval').glob('*.json'))]
    path = run_folder / 'report.html'
    write_atomically(path, page(run_folder.resolve().name, _headline(config, metrics, results),
                                _sections(run_folder, config, metrics, results)))
    return path


def _sections(run_folder: Path, config: Config, metrics: list[dict], results: list[dict]
              ) -> Iterator[tuple[str, str]]:
    """(title, HTML) of each part of the page, from top to bottom."""
    yield 'Learning curves', _curves(metrics)
    yield 'Results', _results(results)
    if writes_outputs(config):
        yield 'Sample predictions', _samples(
            run_folder, results, 'predictions', ('source', 'prediction', 'references', 'score'),
            partial(_prediction, data=config.data))
        if config.model.family == 'seq2seq':
            yield 'Cross-attention', _alignments(run_folder, results)
    if is_labelled(config):
        yield 'Sample guesses', _samples(
            run_folder, results, 'guesses', ('text', 'target', 'guess'),
            partial(_guess, kind=config.data.objective))
    yield 'Speed', _speed(read_rows(run_folder / 'timing.jsonl'))
    yield 'Configuration', _configuration(config)
    manifest = run_folder / 'manifest.json'
    yield 'Origin', (_origin(_read_json(manifest)) if manifest.exists() else
                     paragraph('There is no manifest.json.'))


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(f'{path} is not valid JSON ({error}); remove it, or restore it from a copy'
                        ) from None


def _headline(config: Config, metrics: list[dict], results: list[dict]) -> str:
    parts = [f'{metrics[-1]["step"] if metrics else 0:,} of {config.train.steps:,} steps trained']
    for result in results:
        main = {name: value for name, value in result['metrics'].items()
                if not isinstance(value, str) and ('_' not in name or name == 'exact_match')}
        listed = ', '.join(f'{name} {plain(name, value).strip()}' for name, value in main.items())
        parts.append(f'{result["split"]}: {listed}')
    return ' · '.join(parts)


# Sections

def _curves(metrics: list[dict]) -> str:
    if not metrics:
        return paragraph('No step has been logged yet.')
    name, title, unit = ('nll', 'Negative log-likelihood', 'nats') if 'nll' in metrics[0] else \
        ('loss', 'Squared error', 'mean over examples')
    dev = [row for row in metrics if f'dev/{name}' in row]
    best = min(dev, key=lambda row: row[f'dev/{name}'], default=None)
    lowest = (f'Lowest on dev: {best[f"dev/{name}"]:.4f} at step {best["step"]:,}'
              + (f', {best["dev/accuracy"]:.1%} right. ' if 'dev/accuracy' in best else '. ')
              if best else 'Dev has not been evaluated yet. ')
    curves = {'train, one batch': _curve(metrics, name)}
    if dev:
        curves['dev'] = _curve(dev, f'dev/{name}')
    likelihood = draw_curves(title, unit, curves, size=(6.6, 3.2), log=True)
    rate = draw_curves('Learning rate', 'learning rate',
                       {'learning rate': _curve(metrics, 'learning_rate')},
                       size=(4.2, 2.5), log=False)
    norm = draw_curves('Gradient norm', 'L2 norm', {'norm': _curve(metrics, 'grad_norm')},
                       size=(4.2, 2.5), log=True)
    return (paragraph(f'{lowest}Label smoothing is left out of these curves.')
            + picture(likelihood, f'{title} over steps', 'chart')
            + '<div class="pair">' + picture(rate, 'Learning rate over steps', 'chart')
            + picture(norm, 'Gradient norm over steps', 'chart') + '</div>\n')


def _results(results: list[dict]) -> str:
    if not results:
        return paragraph('Not evaluated yet.')
    rates = ('per: edits (insertions, deletions, substitutions) ÷ tokens of the references. wer: '
             'share of outputs that are wrong. Of several references the nearest counts; in _first '
             'the first. Characters in strip are disregarded; in _marked they count.')
    parts = [paragraph(
        'Beside a value stands its floor, where there is one: what a trivial guess reaches. '
        + (rates if any('per' in result['metrics'] for result in results) else ''))]
    for result in results:
        settings = {'checkpoint': result['checkpoint'], **{
            f'{part}.{name}': value for part in ('decode', 'scoring')
            for name, value in result.get(part, {}).items()},
            'data fingerprint': result['fingerprint'][:12] + '…'}
        parts += [f'<h3>{html.escape(result["split"])}: {result["examples"]:,} examples</h3>\n',
                  '<div class="pair">',
                  table(('metric', 'value', 'floor'), [
                      (name, plain(name, value), plain(name, result['floors'].get(name, '')))
                      for name, value in result['metrics'].items()], ('value', 'floor')),
                  table(('setting', 'value'), [(name, _plain(value)) for name, value
                                              in settings.items()]),
                  '</div>\n']
    return ''.join(parts)


def _samples(run_folder: Path, results: list[dict], kind: str, header: tuple[str, ...],
             show: Callable[[dict, dict], tuple]) -> str:
    """A table of rows from each split's file of this kind, the wrong ones tinted.

    show(row, scoring) -> (a cell for each name in the header, and whether it is right; None of a
    number), scoring being what the split's result says of it
    """
    noun, parts = ('outputs' if kind == 'predictions' else 'examples'), []
    for result in results:
        rows = read_rows(run_folder / 'eval' / f'{result["split"]}.{kind}.jsonl')
        if not rows:
            continue
        evenly = np.linspace(0, len(rows) - 1, min(NUM_SAMPLES, len(rows))).round().astype(int)
        sample = [show(rows[i], result.get('scoring', {})) for i in evenly]
        rights = [right for *_, right in sample]
        counted = '' if None in rights else f'; {rights.count(False)} of them wrong'
        parts += [f'<h3>{html.escape(result["split"])}</h3>\n', paragraph(
            f'{len(sample)} of {len(rows):,} {noun}, evenly spaced{counted}.'), table(
            ('', *header),
            [({True: '✓ right', False: '✗ wrong', None: ''}[right], *cells)
             for *cells, right in sample],
            ('score',), marked={i for i, right in enumerate(rights) if right is False})]
    return ''.join(parts) or paragraph(f'There are no {kind} yet.')


def _prediction(row: dict, scoring: dict, data: DataConfig
                ) -> tuple[str, str, str, str, bool | None]:
    """(source, prediction, references, score, whether it is right if it can be)"""
    data = replace(data, score=scoring.get('score', data.score),
                   score_strip=scoring.get('strip', data.score_strip))
    return (row['source'], row['prediction'], ' | '.join(row['references']),
            f'{row["score"]:.3f}', is_right(row['prediction'], row['references'], data))


def _guess(row: dict, _: dict, kind: str) -> tuple[str, str, str, bool | None]:
    """(text or texts, what is right, what was guessed, whether it is; None of a number)"""
    text = ' ⇥ '.join(filter(None, (row['first'], row['second'])))
    if kind == 'regress':
        return text, row['target'], f'{row["number"]:.4f}', None
    if kind == 'answer':
        answers = [answer for answer, _ in row['target']] or ['']
        return (text, ' | '.join(answers) or '(no answer)', row['answer'] or '(no answer)',
                normal(row['answer']) in map(normal, answers))
    guess = row['label'] if kind == 'classify' else ' '.join(row['tags'])
    return text, row['target'], guess, guess == row['target']


def _alignments(run_folder: Path, results: list[dict]) -> str:
    pictures = [run_folder / 'eval' / f'{result["split"]}.alignments.png' for result in results]
    pictures = [path for path in pictures if path.exists()]
    if not pictures:
        return paragraph('There are no alignments yet.')
    return paragraph(
        'Each row is one output token, from top to bottom as they were written; the darker a cell, '
        'the more the decoder attended to that input token when it wrote it. A dark diagonal means '
        'that the input is read in order.'
    ) + ''.join(picture(path.read_bytes(), 'Cross-attention heat maps') for path in pictures)


def _speed(timing: list[dict]) -> str:
    stretches = [row for row in timing if 'event' not in row]
    if not stretches:
        return paragraph('No step has been timed yet.')
    compilations = [row for row in timing if row.get('event') == 'compile']
    restarts = sum(row.get('event') == 'start' for row in timing) - 1
    total = sum(row['seconds'] for row in stretches)
    spent = {what: sum(row[f'{key}_seconds'] for row in stretches) for what, key in (
        ('waiting for data', 'data_wait'), ('compiling', 'compile'), ('evaluating', 'evaluate'),
        ('checkpoints', 'checkpoint'))}
    spent = {'training steps': total - sum(spent.values()), **spent, 'total': total}
    speed = statistics.median(row['tokens_per_second'] for row in stretches)
    return paragraph(
        f'{total / 60:,.1f} minutes of training, {_count(restarts, "restart")}'
        f'{" (steps done twice count twice)" if restarts else ""}; median speed {speed:,.0f} '
        f'tokens/s; {_count(len(compilations), "compilation")}; peak memory {_memory(stretches)}.'
    ) + paragraph(_flops(stretches, timing[0].get('peak_flops_per_second'))
                  ) + '<div class="pair">' + table(
        ('where time went', 'seconds', 'share'),
        [(what, f'{seconds:,.1f}', f'{seconds / total:.1%}') for what, seconds in spent.items()],
        ('seconds', 'share')
    ) + table(
        ('compiled function', 'shapes', 'seconds'),
        [(row['function'], ', '.join(row['shapes']), f'{row["seconds"]:,.1f}')
         for row in compilations], ('seconds',)) + '</div>\n'


def _memory(stretches: list[dict]) -> str:
    """Of the host and, where it is known, of the first device."""
    peaks = {where: max(row.get(key, 0) for row in stretches) for where, key in (
        ('host', 'peak_memory_mib'), ('first device', 'device_peak_memory_mib'))}
    return ', '.join(f'of the {where} {peak:,} MiB' for where, peak in peaks.items() if peak)


def _flops(stretches: list[dict], peak: float | None) -> str:
    """How many operations per second, of how many there could be."""
    flops = statistics.median(row.get('model_flops_per_second', 0) for row in stretches)
    shares = [row['mfu'] for row in stretches if 'mfu' in row]
    share = (f"{statistics.median(shares):.1%} of the devices' peak of {peak / 1e12:,.0f} TFLOP/s "
             '(MFU)' if peak and shares else 'of an unknown peak')
    return f'The model took {flops / 1e9:,.1f} GFLOP/s, {share}. Counted are {FORMULA}.'


def _configuration(config: Config) -> str:
    changes = diff(Config(), config)
    flat = to_flat(config)
    return paragraph(f'{_count(len(changes), "field")} of {len(flat)} differ from the default, '
                      'marked ≠.') + table(
        ('field', 'value', 'default', 'meaning'),
        [(name, _plain(value), f'≠ {_plain(changes[name][0])}' if name in changes else '',
          leaves()[name].metadata['meaning']) for name, value in flat.items()],
        marked={i for i, name in enumerate(flat) if name in changes})


def _origin(manifest: dict) -> str:
    return table(('what', 'value'), [(name.replace('_', ' '), _plain(value))
                                      for name, value in manifest.items()])


def _curve(rows: list[dict], name: str) -> tuple[list[int], list[float]]:
    return [row['step'] for row in rows], [row[name] for row in rows]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {_plain(part)}' for name, part in value.items()) or '(none)'
    if isinstance(value, list):
        return ' '.join(map(str, value)) or '(none)'
    return str(value) or '(empty)'


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"" if number == 1 else "s"}'
