"""Alignments: one padded batch against the attention maps of each pair alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import Config, UserError, override
from xformer.data.tokenizers import Template, train_tokenizers
from xformer.evaluate.alignment import Alignment, align
from xformer.models import build, init_params

PAIRS = [('cab', 'K AE B'), ('a', 'AH'), ('bac', 'B AE K S')]
BASE = override(Config(), {
    'data.tokenizer': 'char', 'data.target_tokenizer': 'word',
    'model.num_encoder_layers': 1, 'model.num_decoder_layers': 2, 'model.d_model': 16,
    'model.num_heads': 2, 'model.d_ff': 24, 'model.max_length': 6})
TOKENIZERS = train_tokenizers(BASE.data, PAIRS)
CONFIG = override(BASE, {'model.vocab_size': TOKENIZERS.vocab_size})
SPECIAL = TOKENIZERS.special
MODEL = build(CONFIG)


@pytest.fixture(scope='module')
def params():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(MODEL, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32),
                        shapes)


def test_each_alignment_is_that_of_the_pair_alone(params):
    compilations = Compilations()
    alignments = align(PAIRS, MODEL, CONFIG, params, TOKENIZERS, compilations)
    assert len(compilations.rows) == 1
    look = jax.jit(functools.partial(MODEL.apply, method='look'))
    for (source, target), alignment in zip(PAIRS, alignments, strict=True):
        assert alignment.source == (*source, '<eos>')
        assert alignment.target == (*target.split(), '<eos>')
        source_BS = np.array([[*TOKENIZERS.source.encode(source), SPECIAL.eos]], np.int32)
        inputs_BT = np.array([[SPECIAL.bos, *TOKENIZERS.target.encode(target)]], np.int32)
        looks = look({'params': params}, source_BS, np.array([source_BS.shape[1]]), inputs_BT)
        last_layer_NTS = np.asarray(looks['decoder']['cross'])[-1, 0]
        assert alignment.weights_TS.shape == last_layer_NTS.shape[1:]
        np.testing.assert_allclose(alignment.weights_TS, last_layer_NTS.mean(0), atol=1e-6)
        np.testing.assert_allclose(alignment.weights_TS.sum(1), 1, atol=1e-6)


def test_a_published_model_reads_what_its_template_puts_around_a_target(params):
    ends = (SPECIAL.eos,)
    published = dataclasses.replace(TOKENIZERS, template=Template((SPECIAL.bos,), ends, ends))
    for target in 'K', 'K ' * 9:
        [found] = align([('ab', target)], MODEL, CONFIG, params, published, Compilations())
        assert found.source == ('<bos>', *'ab', '<eos>')
        assert found.target[:2] == ('<bos>', 'K') and found.target[-1] == '<eos>'
        assert len(found.target) == min(2 + len(target.split()), 6)


def test_a_source_that_is_too_long_is_named(params):
    with pytest.raises(UserError, match='input 1 .*takes 6'):
        align([('abcabc', 'K')], MODEL, CONFIG, params, TOKENIZERS, Compilations())


def test_a_source_that_is_cut_is_shown_as_the_model_saw_it(params):
    config = override(CONFIG, {'data.too_long': 'cut'})
    [alignment] = align([('abcabc', 'K')], MODEL, config, params, TOKENIZERS, Compilations())
    assert alignment.source == (*'abcab', '<eos>') and alignment.weights_TS.shape == (2, 6)
    [same] = align([('abcab', 'K')], MODEL, CONFIG, params, TOKENIZERS, Compilations())
    np.testing.assert_array_equal(alignment.weights_TS, same.weights_TS)


def test_labels_that_do_not_match_the_weights_are_refused():
    weights_TS = np.full((1, 2), 0.5)
    assert Alignment(('a', 'b'), ('x',), weights_TS).to_row() == {
        'source': ('a', 'b'), 'target': ('x',), 'weights': [[0.5, 0.5]]}
    with pytest.raises(ValueError, match=r'\(1, 2\)'):
        Alignment(('a',), ('x', 'y'), weights_TS)
