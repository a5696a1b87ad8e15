"""What people give, as the ids a model reads."""

from dataclasses import replace

import pytest
from tokenizer_folders import KINDS

from xformer.config import UserError, override
from xformer.data.layouts import LAYOUTS, Row
from xformer.data.sources import Labelled
from xformer.data.tokenizers import train_tokenizers
from xformer.evaluate.inputs import (
    encode_outputs,
    encode_sources,
    encode_texts,
    fitting,
    segments,
)
from xformer.interop.tokenizers import read_tokenizers


def ids(one, text):
    return one.tokenizers.source.encode(text)


def test_a_mask_is_a_token_where_the_model_knows_it(small):
    for lower in (True, False):
        one = small('encoder')
        config = override(one.config, {'data.lowercase_source': lower})
        special = one.tokenizers.special
        [found] = encode_texts(['A[MASK]b[MASK]'], config, one.tokenizers)
        assert found == [special.bos, *ids(one, 'a' if lower else 'A'), special.mask,
                         *ids(one, 'b'), special.mask, special.eos]
    one = small('classifier')
    [found] = encode_texts(['a[MASK]'], one.config, one.tokenizers)
    assert special.mask not in found and len(found) == 2 + len('a[MASK]')


def test_two_texts_are_parted_and_the_second_is_the_second_segment(small):
    one = small('classifier')
    special = one.tokenizers.special
    alone, both = encode_texts(['abc', 'ab\tcde'], one.config, one.tokenizers)
    assert both == [special.bos, *ids(one, 'ab'), special.eos, *ids(one, 'cde'), special.eos]
    assert segments([alone, both], (3, 9), one.config.model).tolist() == [
        [0] * 9, [0, 0, 0, 0, 1, 1, 1, 1, 0], [0] * 9]
    assert not segments([both], (1, 9), replace(one.config.model, num_segments=1)).any()
    with pytest.raises(UserError, match='input 2 has 2 tabs'):
        encode_texts(['a', 'a\tb\tc'], one.config, one.tokenizers)
    with pytest.raises(UserError, match='input 1 is empty'):
        encode_texts(['a\t'], one.config, one.tokenizers)


def test_an_end_that_is_typed_begins_no_second_text(small, tmp_path):
    tokenizers = read_tokenizers(tmp_path, KINDS['bert'](tmp_path))
    config = small('encoder').config
    config = override(config, {'model.num_segments': 2, 'model.vocab_size': tokenizers.vocab_size})
    texts = encode_texts(['ta [SEP] ro', 'ta [SEP] ro\tro', 'ta\tro'], config, tokenizers)
    assert [tokenizers.source.tokens(text).count('[SEP]') for text in texts] == [2, 3, 2]
    assert segments(texts, (3, 7), config.model).tolist() == [
        [0] * 7, [0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize('kind', ['byte_bpe', 'bpe', 'unigram'])
def test_a_mask_hides_a_word_with_the_space_before_it(kind, small):
    config = override(small('encoder').config, {'data.tokenizer': kind, 'data.vocab_size': 300})
    tokenizers = train_tokenizers(config.data, [('open the door now',)] * 3)
    config = override(config, {'model.vocab_size': tokenizers.vocab_size})
    text, mask = 'open the door now', tokenizers.special.mask
    ids = tokenizers.source.encode(text)
    door = [number for number, (a, b) in enumerate(tokenizers.source.spans(text).places)
            if a >= text.index(' door') and b <= text.index(' now')]
    [found] = encode_texts([text.replace('door', '[MASK]')], config, tokenizers)
    assert found[1:-1] == [*ids[:door[0]], mask, *ids[door[-1] + 1:]]


def test_given_texts_of_a_language_model_are_lower_cased_as_it_learnt_them(small):
    one = small('decoder')
    config = override(one.config, {'data.lowercase_source': True})
    assert encode_outputs(['ABC'], [[]], config, one.tokenizers) == encode_outputs(
        ['abc'], [[]], config, one.tokenizers)


def test_what_is_cut_is_said(small, capsys):
    one = small('classifier')
    config = override(one.config, {'data.too_long': 'cut'})
    found = encode_texts(['a' * 30, 'a' * 30 + '\t' + 'b' * 4, 'a'], config, one.tokenizers)
    assert [len(each) for each in found] == [24, 24, 3]
    assert found[1][-6:-1] == [one.tokenizers.special.eos, *ids(one, 'bbbb')]
    assert capsys.readouterr().err == 'texts beyond model.max_length=24, cut there: 2\n'


def test_examples_that_training_drops_are_left_out_and_its_labels_alone_are_known(small, capsys):
    one = small('classifier')
    config = override(one.config, {'data.too_long': 'drop'})
    examples = [['a' * size, '', 'no'] for size in (22, 23, 1)]
    assert fitting(examples, config, one.tokenizers) == [examples[0], examples[2]]
    assert capsys.readouterr().err == 'examples beyond model.max_length=24, left out: 1\n'
    assert fitting(examples, one.config, one.tokenizers) == examples
    with pytest.raises(UserError, match='all examples are beyond model.max_length=24'):
        fitting(examples[1:2], config, one.tokenizers)
    with pytest.raises(UserError, match="label 'maybe' is not one of the training data"):
        fitting([Labelled('a', '', 'maybe')], one.config, one.tokenizers)
    pairs = small('seq2seq')
    config = override(pairs.config, {'data.too_long': 'drop'})
    assert fitting([('a', 'A ' * 24), ('a' * 24, 'A'), ('a', 'A ' * 23)], config,
                   pairs.tokenizers) == [('a', 'A ' * 23)]


@pytest.mark.parametrize('kind', ['gpt2', 'llama_json'])
def test_a_published_decoder_that_learns_pairs_is_asked_as_it_learns(kind, small, tmp_path):
    tokenizers = read_tokenizers(tmp_path, KINDS[kind](tmp_path))
    config = override(small('decoder').config, {
        'data.objective': 'pairs', 'model.vocab_size': tokenizers.vocab_size})
    begin, end = tokenizers.special.bos, tokenizers.special.eos
    text = tokenizers.source.encode('ta ro')
    assert encode_texts(['ta ro'], config, tokenizers) == [[begin, *text, end]]
    assert LAYOUTS['pairs'].encode([Row(('ta ro', 'ta'), True)], tokenizers)[0].ids[0] == [
        *text, end]


@pytest.mark.parametrize('kind, family, text, row, source', [
    ('roberta', 'encoder', 'ta\tro', '<s> ta </s> </s> ro </s>', None),
    ('roberta', 'encoder', 'ta [MASK] ro', '<s> ta <mask> Ġro </s>', None),
    ('gpt2', 'decoder', 'ta ro', 'ta Ġro', 'ta Ġro'),
    ('llama_json', 'decoder', 'ta ro', '<|begin|> ta Ġro', 'ta Ġro'),
    ('t5', 'seq2seq', 'ta', '▁ ta </s>', '▁ ta </s>'),
    ('bart_json', 'seq2seq', 'ta', '<s> ta </s>', '<s> ta </s>')])
def test_a_published_model_places_its_tokens_in_its_own_way(kind, family, text, row, source, small,
                                                            tmp_path):
    tokenizers = read_tokenizers(tmp_path, KINDS[kind](tmp_path))
    objective = {'encoder': 'mlm', 'decoder': 'lm', 'seq2seq': 'pairs'}[family]
    config = override(small(family).config, {
        'data.objective': objective, 'model.vocab_size': tokenizers.vocab_size})
    [found] = encode_texts([text], config, tokenizers)
    assert ' '.join(tokenizers.source.tokens(found)) == row
    if source:
        [found] = encode_sources([text], config, tokenizers)
        assert ' '.join(tokenizers.source.tokens(found)) == source
        [found] = encode_outputs([text], [[]], config, tokenizers)
        assert ' '.join(tokenizers.source.tokens(found)) == source
    if family == 'seq2seq':  # what is trained on is what is asked with
        trained = LAYOUTS['pairs'].encode([Row((text, text), True)], tokenizers)[0]
        assert [' '.join(tokenizers.source.tokens(side)) for side in trained.ids] == [row, row]
    config = override(config, {'data.too_long': 'cut', 'model.max_length': 6})
    before, between, after = tokenizers.template
    for text in ['ta ' * 9, *['ta ' * 9 + '\t' + 'ro'] * (family == 'encoder')]:
        [found] = encode_texts([text], config, tokenizers)
        assert len(found) == 6 and (*found[:len(before)],) == before
        assert (*found[6 - len(after):],) == after
