"""Suite quality-time: from the start of a process to a full-validation loss of 1.95.

The setting of lm_shakespeare_char, with biases because GPT-2 has them: same batches in size,
schedule, optimizer and initialisation, and the whole validation part measured as often. Imports
and compilation count, tokenisation does not: both find the ids on disk. The peer is
`benchmarks.quality_time_peer`, which knows nothing of xformer. 'parts' of the case says where the
seconds of each side went.
"""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.processes import finished, trained, uncompiled_cache
from benchmarks.results import OURS, case
from experiments import configs
from xformer.config import Config, override, to_flat
from xformer.console import counting, say
from xformer.data.pipeline import prepare
from xformer.train.loop import resolve
from xformer.train.telemetry import read_rows

EXPERIMENT, LOSS, EVERY = 'lm_shakespeare_char', 1.95, 100
CHANGES = {'model.biases': True, 'train.eval_every': EVERY}
BAR = 1.0


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The one case of the suite. Raises UserError without tiny_shakespeare, RuntimeError where a
    side never reaches the loss."""
    config = override(configs.load(EXPERIMENT).config, CHANGES)
    sides, rounds = [OURS, *peers], []
    parts = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix='quality-time-') as folder, \
            counting(f'training to {LOSS}', repeats * len(sides)) as show:
        config = prepared(config, Path(folder))
        for turn in range(repeats):
            seconds, first = {}, turn % len(sides)
            for side in sides[first:] + sides[:first]:
                where = Path(folder) / f'{side}-{turn}'
                spent = ours(where) if side == OURS else theirs(config, where, side)
                seconds[side] = round(sum(spent.values()), 3)
                parts[side].append(spent)
                show(turn * len(sides) + len(seconds))
            rounds.append(seconds)
    return {f'loss {LOSS} of {EXPERIMENT}': {'config': to_flat(config), 'parts': parts} | case(
        rounds, dict.fromkeys(sides, 60), 'runs/min', BAR)}


def prepared(config: Config, folder: Path) -> Config:
    """The configuration with its vocabulary, once both splits are on disk as ids."""
    corpus = prepare(config, say)
    for split in ('train', 'dev'):
        np.save(folder / f'{split}.npy', corpus.stores[split].columns['text'].ids)
    return resolve(config, corpus)


def ours(workdir: Path) -> dict[str, float]:
    """Seconds of each part of `experiments.train`, with nothing compiled before."""
    rows = trained(EXPERIMENT, workdir, CHANGES | {'train.log_every': EVERY},
                   uncompiled_cache(workdir.with_suffix('.cache')))
    losses = {row['step']: row['dev/loss'] for row in read_rows(workdir / 'metrics.jsonl')
              if 'dev/loss' in row}
    reached = [losses.get(row['step'], np.inf) <= LOSS for row in rows]
    if not any(reached):
        raise RuntimeError(f'ours ends at a loss of {losses[max(losses)]:.3f}, above {LOSS}')
    rows = rows[:reached.index(True) + 1]
    parts = {part: sum(row[f'{part}_seconds'] for row in rows)
             for part in ('compile', 'evaluate', 'checkpoint', 'data_wait')}
    parts['steps'] = sum(row['seconds'] for row in rows) - sum(parts.values())
    parts['start'] = rows[0]['since_start'] - rows[0]['seconds']
    return {part: round(seconds, 3) for part, seconds in parts.items()}


def theirs(config: Config, workdir: Path, peer: str) -> dict[str, float]:
    """Seconds of each part of the PyTorch script, with nothing compiled before."""
    recipe = workdir.with_name('recipe.json')  # beside the ids
    recipe.write_text(json.dumps(to_flat(config) | {'loss': LOSS, 'compile': peer == 'compile'}))
    output, seconds = finished(['benchmarks.quality_time_peer', str(recipe)],
                               {'TORCHINDUCTOR_CACHE_DIR': str(workdir)})
    parts = json.loads(output.splitlines()[-1])
    return parts | {'start': round(seconds - sum(parts.values()), 3)}
