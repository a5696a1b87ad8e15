"""Needs of a run, told without data: the same arrays as with them, the memory of its state."""

import numpy as np
import pytest

from experiments.configs import load, names
from xformer.checks import validate
from xformer.config import LABELLED, Config, UserError, override
from xformer.data.objectives import make_objective
from xformer.data.pipeline import prepare
from xformer.train.estimate import abstract_batch, estimate

TINY = {'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1, 'model.d_model': 8,
        'model.num_heads': 2, 'model.d_ff': 12, 'model.vocab_size': 40, 'model.max_length': 24,
        'optim.schedule': 'constant', 'optim.peak_learning_rate': 0.1,
        'data.batch_tokens': 800, 'data.max_buckets': 1}
ENCODER = {'model.family': 'encoder', 'model.num_decoder_layers': 0}
DECODER = {'model.family': 'decoder', 'model.num_encoder_layers': 0}
OBJECTIVES = {
    'lm': DECODER, 'mlm': ENCODER, 'spans': {}, 'denoise': {},
    'mlm_nsp': ENCODER | {'model.pooler': True, 'model.num_segments': 2},
    **{objective: ENCODER | {'data.too_long': 'cut'} for objective in LABELLED}}
PAPERS = {'aiayn_base_wmt14': 63_082_496, 'aiayn_big_wmt14': 214_245_376,
          'gpt2_124m': 124_439_808, 't5_small_c4': 60_506_624,
          # BERT with pooler; transform, norm and bias of its masked-token head, and next sentence
          'bert_base_pretrain': 109_482_240 + 768 * 768 + 3 * 768 + 30_522 + 2 * 768 + 2}


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_the_batch_is_laid_out_as_the_objective_does(objective):
    config = override(Config(), TINY | OBJECTIVES[objective] | {
        'data.objective': objective, 'data.dataset': 'sentences', 'data.tokenizer': 'word'})
    corpus = prepare(config)
    real = make_objective(config, corpus.stores['dev'], corpus.tokenizers)
    abstract = abstract_batch(config)
    rows, width = abstract[next(iter(abstract))].shape
    shape = (rows, width, abstract['inputs_BT'].shape[1] if 'source_BS' in abstract else 0)
    batch = real.batch(np.arange(rows), shape, np.random.Generator(np.random.Philox(0)))
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        name: (value.shape, value.dtype) for name, value in abstract.items()}


def test_t5_has_128_rows_and_what_is_hidden_of_them():
    batch = abstract_batch(load('t5_small_c4').config)  # 77 of 512 tokens, in 26 spans
    assert batch['source_BS'].shape == (128, 512 - 77 + 26 + 1)  # EOS
    assert batch['labels_BT'].shape == (128, 77 + 26 + 2)  # the last sentinel, EOS


def test_the_state_is_parameters_and_two_moments():
    config = override(Config(), TINY)
    needs = estimate(config)
    counters = needs['state_bytes'] - 12 * needs['parameters']
    assert 0 < counters <= 16 and needs['step_bytes'] > needs['batch']['source_BS'][0]


def test_what_a_teacher_says_travels_in_the_batch():
    config = override(Config(), TINY | ENCODER | {
        'data.objective': 'tag', 'model.num_labels': 5, 'train.teacher': 'a run',
        'train.cosine_weight': 1.0})
    batch = estimate(config)['batch']
    rows, length = batch['inputs_BS']
    assert batch['teacher_logits'] == (rows, length, 5)
    assert batch['teacher_x_BTD'] == (rows, length, 8)


@pytest.mark.parametrize('changes, name', [
    ({'model.vocab_size': 0}, 'vocab_size'),
    (ENCODER | {'data.objective': 'classify'}, 'num_labels')])
def test_numbers_that_are_not_known_are_refused(changes, name):
    with pytest.raises(UserError, match=f'set --config.model.{name}'):
        estimate(override(Config(), TINY | changes))


@pytest.mark.parametrize('name', PAPERS)
def test_the_papers_recipes_have_the_papers_sizes(name):
    import jax

    from xformer.models import build
    from xformer.train.step import make_steps
    config = load(name).config
    validate(config)
    state = jax.eval_shape(make_steps(config, build(config)).init)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == PAPERS[name]
    assert name in names() and abstract_batch(config)
