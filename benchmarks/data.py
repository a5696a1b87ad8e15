"""Suite data: how fast batches are made from a token store, and how long training waits for them.

No peers: the bar is that training waits for at most 1 % of its time, even where its steps are
shortest.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.processes import short_run, trained
from benchmarks.results import measured
from experiments import configs
from xformer.config import UserError
from xformer.console import counting, say
from xformer.data.objectives import make_objective
from xformer.data.pipeline import prepare
from xformer.data.plan import make_plan
from xformer.data.sources.datasets import cache_folder
from xformer.train.loop import resolve

EXPERIMENTS = ('g2p_quickstart', 'lm_shakespeare_char', 'translate_multi30k')
BATCHES = 200
STEPS = 300  # of the short run
LIMIT = 0.01


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite by experiment; those whose data are absent are left out."""
    cases = {}
    for experiment in EXPERIMENTS:
        try:
            made = [batches_per_second(experiment) for _ in range(repeats)]
        except UserError as error:
            say(f'{experiment} is left out: {error}')
            continue
        with counting(f'training {experiment}', repeats) as show:
            waits = []
            for turn in range(repeats):
                waits.append(waiting_share(experiment))
                show(turn + 1)
        cases |= {f'{experiment}, made': measured(made, 'batches/s', None),
                  f'{experiment}, waited for': measured(waits, 'share of training', LIMIT)}
    return cases


def batches_per_second(experiment: str) -> float:
    """Of the training split, one after the other in one thread."""
    config = configs.load(experiment).config
    corpus = prepare(config, say)
    learn = make_objective(resolve(config, corpus), corpus.stores['train'], corpus.tokenizers)
    plan = make_plan(learn, corpus.fingerprint, config.data, config.train.seed)
    start = time.perf_counter()
    for i in range(BATCHES):
        k, examples = plan.batch(i)
        learn.batch(examples, plan.shapes[k], plan.random(i))
    return round(BATCHES / (time.perf_counter() - start), 1)


def waiting_share(experiment: str) -> float:
    """Seconds waited for batches ÷ seconds of training, but for compiling, in a short run."""
    with tempfile.TemporaryDirectory(prefix='data-') as folder:
        rows = trained(experiment, Path(folder) / 'run', short_run(STEPS, log_every=100),
                       cache_folder())
    waited, seconds, compiling = (sum(row[name] for row in rows) for name in (
        'data_wait_seconds', 'seconds', 'compile_seconds'))
    return round(waited / (seconds - compiling), 5)
