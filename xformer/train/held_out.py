"""A held-out split measured by the objective itself: loss, accuracy, and what a guess would get."""

import math
from collections.abc import Callable

import jax
import numpy as np
from flax import linen as nn

from xformer.compiled import Compilations
from xformer.config import Config, UserError
from xformer.data.objectives import labels_of, make_objective
from xformer.data.plan import random_numbers, sequential_batches
from xformer.data.store import TokenStore
from xformer.data.tokenizers import Tokenizers
from xformer.train.step import make_steps
from xformer.train.tasks import task_of, total_summary


def measure(config: Config, model: nn.Module, params, store: TokenStore, tokenizers: Tokenizers,
            fingerprint: str, compilations: Compilations, batches: int = 0,
            progress: Callable[[int], None] = lambda done: None
            ) -> tuple[dict[str, float], dict[str, float], int]:
    """(metrics, floors, labels) over the split, or over that many of its batches at random.

    Noise (masks, spans, ...) is that of the run with this data fingerprint, so that the dev split
    gives what training last reported. metrics: as `train.loss.summary`, and the perplexity.
    floors: 'accuracy' of always guessing the split's most frequent label, 'nll' of guessing by
    the split's own label frequencies.
    """
    objective = make_objective(config, store, tokenizers)
    numbered = list(enumerate(sequential_batches(objective, config.data)))
    if batches > len(numbered):
        raise UserError(f'--batches={batches} is more than the {len(numbered)} there are; leave '
                        'it out to measure all')
    if batches:
        chosen = random_numbers(config.train.seed, fingerprint, 'held out').random(len(numbered))
        numbered = [numbered[i] for i in sorted(np.argsort(chosen)[:batches])]
    evaluate = compilations.wrap('evaluate', jax.jit(make_steps(config, model).evaluate))
    parts, counts_V = [], np.zeros(config.model.vocab_size, np.int64)
    for done, (i, (shape, examples)) in enumerate(numbered, start=1):
        batch = objective.batch(examples, shape,
                                random_numbers(config.train.seed, fingerprint, i))
        parts.append(evaluate(params, batch))
        counts_V += np.bincount(labels_of(batch), minlength=len(counts_V))
        progress(done)
    metrics = total_summary(parts, task_of(config).scores)
    share_V = counts_V[counts_V > 0] / counts_V.sum()
    floors = {'accuracy': float(share_V.max()), 'nll': float(-(share_V * np.log(share_V)).sum())}
    return metrics | {'perplexity': math.exp(min(metrics['nll'], 700.0))}, floors, \
        int(counts_V.sum())
