"""Looks: every text alone and unpadded, entropies and the lens by hand in NumPy."""

import functools

import jax
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import UserError, override
from xformer.evaluate.inputs import encode_texts
from xformer.evaluate.looks import Map, look_at
from xformer.models import build, init_params

TEXTS = ['abc', 'hgfedcba hgfedcba']
TARGETS = ['A B', 'D C B A']


@pytest.fixture(scope='module')
def looked(small):
    """looked(family) -> (the small model, its inputs and looks for each of TEXTS)."""
    @functools.cache
    def looked(family: str):
        one = small(family)
        compilations, done = Compilations(), []
        special = one.tokenizers.special
        targets = None
        if family == 'seq2seq':
            targets = [one.tokenizers.target.encode(text) + [special.eos] for text in TARGETS]
        rows = encode_texts(TEXTS, one.config, one.tokenizers)
        looks = look_at(rows, targets, one.model, one.config, one.params, one.tokenizers,
                        compilations, done.append)
        assert done == [1, 2] and len(compilations.rows) == 2  # widths of 16 and 24
        inputs = []
        for number, ids in enumerate(rows):
            row = np.array([ids]), np.array([len(ids)])
            if family == 'seq2seq':
                row += (np.array([[special.bos, *targets[number][:-1]]]),)
            inputs.append(row[:1] if family == 'decoder' else row)
        return one, inputs, looks
    return looked


def test_an_encoder_without_a_head_has_maps_and_no_lens(small):
    one = small('encoder')
    config = override(one.config, {'data.objective': 'none'})
    model = build(config)
    params = init_params(model, jax.random.key(0))
    rows = encode_texts(TEXTS, config, one.tokenizers)
    for [look] in look_at(rows, None, model, config, params, one.tokenizers, Compilations()):
        assert look.stack == 'encoder' and look.lens is None and len(look.maps) == 1


@pytest.mark.parametrize('family', ['encoder', 'classifier', 'decoder', 'seq2seq'])
def test_looks_are_those_of_the_text_alone(family, looked):
    one, inputs, looks = looked(family)
    apply = jax.jit(functools.partial(one.model.apply, method='look'))
    for arguments, stacks in zip(inputs, looks, strict=True):
        alone = apply({'params': one.params}, *arguments)
        assert [look.stack for look in stacks] == [
            name for name in ('encoder', 'decoder') if name in alone]
        for look in stacks:
            wanted = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], alone[look.stack])
            np.testing.assert_allclose(look.hidden_LTD, wanted['hidden'], atol=1e-5)
            for each in look.maps:
                np.testing.assert_allclose(each.weights_LNTS, wanted[each.kind], atol=1e-6)
                assert each.weights_LNTS.shape[2:] == (len(each.queries), len(each.keys))


@pytest.mark.parametrize('family', ['encoder', 'decoder', 'seq2seq'])
def test_the_last_layer_says_what_the_model_says(family, looked):
    one, [arguments, _], [stacks, _] = looked(family)
    if family == 'encoder':
        ids_1T, lengths_1 = arguments
        everywhere_1T = np.arange(ids_1T.shape[1])[None]
        arguments = ids_1T, lengths_1, np.zeros_like(ids_1T), everywhere_1T
    logits = jax.jit(one.model.apply)({'params': one.params}, *arguments)
    logits_TV = np.asarray(logits[0][0] if family == 'encoder' else logits[0], float)
    chances_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(-1, keepdims=True)
    best_TK = np.argsort(-chances_TV, axis=-1)[:, :5]
    lens = stacks[-1].lens
    assert lens.tokens[-1] == [one.tokenizers.target.tokens(row) for row in best_TK]
    np.testing.assert_allclose(lens.probabilities_LTK[-1],
                               np.take_along_axis(chances_TV, best_TK, -1), atol=1e-5)
    assert [look.lens is None for look in stacks] == [True, False][-len(stacks):]


def test_an_earlier_layer_is_read_by_the_same_norm_and_matrix(looked):
    one, _, looks = looked('decoder')
    [look] = looks[1]
    norm = one.params['decoder']['final_norm']
    for layer, x_TD in enumerate(look.hidden_LTD.astype(float)):
        x_TD = (x_TD - x_TD.mean(-1, keepdims=True)) / np.sqrt(x_TD.var(-1, keepdims=True) + 1e-6)
        logits_TV = (x_TD * norm['scale'] + norm['bias']) @ one.params['embedding'].T
        best_T = np.argmax(logits_TV, axis=-1)
        assert [row[0] for row in look.lens.tokens[layer]] == one.tokenizers.target.tokens(best_T)


def test_names_tell_what_is_read_and_what_is_to_be_said(looked):
    [encoder] = looked('encoder')[2][0]
    assert encoder.reads == encoder.says == ('<bos>', 'a', 'b', 'c', '<eos>')
    [decoder] = looked('decoder')[2][0]
    assert (decoder.reads, decoder.says) == (('<bos>', 'a', 'b', 'c'), ('a', 'b', 'c', ''))
    encoder, decoder = looked('seq2seq')[2][0]
    assert (encoder.reads, encoder.says) == (('a', 'b', 'c', '<eos>'), ('',) * 4)
    assert (decoder.reads, decoder.says) == (('<bos>', 'A', 'B'), ('A', 'B', '<eos>'))
    cross = decoder.maps[1]
    assert (cross.kind, cross.queries, cross.keys) == ('cross', decoder.says, encoder.reads)


def test_entropy_is_that_of_each_row_averaged():
    uniform = np.full((3, 4), 0.25)
    sharp = np.eye(3, 4)
    half = np.array([[0.5, 0.5, 0, 0]] * 2 + [[1, 0, 0, 0]])
    each = Map('self', 'abc', 'abcd', np.array([[uniform, sharp, half]], np.float32))
    np.testing.assert_allclose(each.entropy_LN, [[np.log(4), 0, np.log(2) * 2 / 3]], atol=1e-6)


def test_arrays_hold_everything_by_shape(looked):
    arrays = {name: array for look in looked('seq2seq')[2][1] for name, array
              in look.arrays().items()}
    T, S = 5, 18
    sizes = {'L': {'encoder': 4, 'decoder': 2}, 'N': 2, 'D': 16, 'K': 5, 'S': S,
             'T': {'encoder': S, 'decoder': T}}
    for name, array in arrays.items():
        stack, shape = name.split('_')[0], name.split('_')[-1]
        wanted = [size[stack] if isinstance(size := sizes[axis], dict) else size for axis in shape]
        assert array.shape == tuple(wanted), name
    assert len(arrays) == 5 + 5 + 2 + 2 and arrays['decoder_hidden_LTD'].dtype == np.float32
    np.testing.assert_allclose(arrays['decoder_cross_LNTS'].sum(-1), 1, atol=1e-5)


def test_a_target_too_long_is_named(small):
    one = small('seq2seq')
    with pytest.raises(UserError, match='target of input 2 has 25 tokens'):
        look_at([[4], [5]], [[4], [4] * 25], one.model, one.config, one.params, one.tokenizers,
                Compilations())
