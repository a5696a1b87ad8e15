"""A held-out split measured whole, or by some of its batches, as they are in the whole."""

from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import objective_stores as stores
import pytest

from xformer.compiled import Compilations
from xformer.config import Config, override
from xformer.data.objectives import make_objective
from xformer.data.plan import random_numbers, sequential_batches
from xformer.data.tokenizers import Special
from xformer.models import build, init_params
from xformer.train.held_out import measure
from xformer.train.step import make_steps
from xformer.train.tasks import task_of, total_summary

SPECIAL = Special(pad=0, bos=1, eos=2, unk=3, mask=4)
V, FIRST = 60, 5
CONFIG = override(Config(), {
    'model.family': 'encoder', 'model.num_encoder_layers': 1, 'model.num_decoder_layers': 0,
    'model.d_model': 8, 'model.num_heads': 2, 'model.d_ff': 12, 'model.vocab_size': V,
    'model.max_length': 12, 'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2,
    'data.objective': 'mlm', 'data.batch_tokens': 24, 'data.batch_multiple': 1})
TOKENIZERS = SimpleNamespace(special=SPECIAL, vocab_size=V,
                             source=SimpleNamespace(word_starts=lambda: np.ones(V, bool)))


@pytest.fixture(scope='module')
def split():
    """(store, model, parameters, batches with the noise of the whole split for a seed)."""
    store = stores.text_store([[3, 4], [5], [2, 6], [4], [5, 3]], FIRST, SPECIAL)
    model = build(CONFIG)
    objective = make_objective(CONFIG, store, TOKENIZERS)

    def batches(seed):
        return [objective.batch(examples, shape, random_numbers(seed, 'print', i))
                for i, (shape, examples) in enumerate(sequential_batches(objective, CONFIG.data))]
    return store, model, init_params(model, jax.random.key(0)), batches


def measured(split, seed, batches):
    store, model, params, _ = split
    return measure(override(CONFIG, {'train.seed': seed}), model, params, store, TOKENIZERS,
                   'print', Compilations(), batches)


def test_floors_are_those_of_the_labels_that_are_masked(split):
    labels = [label for batch in split[3](0)
              for label in np.concatenate([row[:n] for row, n in zip(
                  batch['masked_labels_BP'], batch['masked_lengths_B'])]).tolist()]
    counts = Counter(labels)
    _, floors, count = measured(split, 0, 0)
    assert count == len(labels)
    assert floors['accuracy'] == pytest.approx(max(counts.values()) / count)
    assert floors['nll'] == pytest.approx(
        -sum(n / count * np.log(n / count) for n in counts.values()))


def test_some_batches_are_drawn_and_keep_the_noise_of_the_whole(split):
    _, model, params, batches = split
    evaluate = jax.jit(make_steps(CONFIG, model).evaluate)
    chosen = []
    for seed in range(6):
        each = [total_summary([evaluate(params, batch)], task_of(CONFIG).scores)['nll']
                for batch in batches(seed)]
        metrics, _, _ = measured(split, seed, 1)
        chosen.append(int(np.argmin(np.abs(np.array(each) - metrics['nll']))))
        assert metrics['nll'] == pytest.approx(each[chosen[-1]], rel=1e-6)
    assert len(each) > 2 and len(set(chosen)) > 1
    whole, _, _ = measured(split, 0, 0)
    assert measured(split, 0, len(each))[0] == pytest.approx(whole)
