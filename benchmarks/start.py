"""Suite start: how soon a command answers, and how soon the quickstart makes its first step.

The first step is from the start of the process on, on data that are prepared; cold, nothing is
compiled, and warm, a run before has left its compiled programs.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.processes import finished, short_run, trained, uncompiled_cache
from benchmarks.results import measured
from experiments import configs
from xformer.console import counting, say
from xformer.data.pipeline import prepare

EXPERIMENT = 'g2p_quickstart'
LIMITS = {'flag error': 0.3, '--help': 0.3, 'first step, cold': None, 'first step, warm': 5.0}


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite, seconds each; there are no peers."""
    seconds = {name: [] for name in LIMITS}
    prepare(configs.load(EXPERIMENT).config, say)
    with tempfile.TemporaryDirectory(prefix='start-') as folder, \
            counting('starts', repeats) as show:
        for turn in range(repeats):
            seconds['flag error'].append(finished(['experiments.train', '--confg=x'], code=2)[1])
            seconds['--help'].append(finished(['experiments.train', '--help'])[1])
            cache = uncompiled_cache(Path(folder) / f'cache-{turn}')
            for state in ('cold', 'warm'):
                seconds[f'first step, {state}'].append(
                    first_step(Path(folder) / f'{state}-{turn}', cache))
            show(turn + 1)
    return {name: measured(values, 's', LIMITS[name]) for name, values in seconds.items()}


def first_step(folder: Path, cache: Path) -> float:
    """Seconds until the loss of the first step is known."""
    return trained(EXPERIMENT, folder, short_run(2, log_every=1), cache)[0]['since_start']
