"""Tokenizers read from files: real vocabularies against known facts and their libraries."""

import functools
import os
import random
from pathlib import Path

import pytest
import sentencepiece
import tokenizers as library
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.implementations import BertWordPieceTokenizer

from xformer.config import DataConfig, UserError
from xformer.data.tokenizers import (
    UNKNOWN,
    load_tokenizers,
    tokenizer_files,
    train_tokenizers,
)

ODD = [' a\u00a0b  c\n\n\td', 'naïve café', 'e\u0301', '👩\u200d👩\u200d👧 ♥\ufe0f', '東京 т',
       '\u202eright', '\0\x7f', "I'll we're  ", '', ' ', '\ufffd']
NAMES = ('[PAD] [UNK] [CLS] [SEP] [MASK] <pad> <unk> <s> </s> <mask> <|endoftext|> <extra_id_0> '
         '<extra_id_99>')


def random_texts(count):
    rng = random.Random(0)
    planes = [range(128), range(0xd800), range(0xe000, 0x110000)]  # without surrogates
    return [''.join(chr(rng.choice(rng.choice(planes))) for _ in range(20)) for _ in range(count)]


def english():
    """Sentences of words made of a few syllables."""
    rng = random.Random(1)
    words = [''.join(rng.choices(['ta', 'ro', 'mi', 'sel', 'un', 'd'], k=3)) for _ in range(99)]
    return [(' '.join(rng.choices(words, k=8)) + '.',) for _ in range(300)]


def shared(path) -> Path:
    """A file of the shared data; skips where it is absent."""
    file = Path(os.environ.get('XFORMER_DATA', 'XFORMER_DATA is unset'), path)
    if not file.is_file():
        pytest.skip(f'no {file}; set XFORMER_DATA')
    return file


def read(kind, path, objective='pairs', **options):
    data = DataConfig(tokenizer=kind, tokenizer_file=str(path), objective=objective, **options)
    return train_tokenizers(data, ())


@functools.cache
def bert(**options):
    return read('wordpiece', shared('bert_vocab/vocab.txt'), **options)


@functools.cache
def gpt2(**options):
    return read('byte_bpe', shared('gpt2_tokenizer/encoder.json'), **options)


def test_bert_has_the_ids_everybody_knows():
    tokenizers = bert(objective='mlm')
    assert tokenizers.vocab_size == 30522
    assert tokenizers.special == (0, 101, 102, 100, 103, ())
    tokenizer = tokenizers.source
    assert tokenizer.encode('hello world') == [7592, 2088]
    assert tokenizer.encode('Héllo, WORLD!') == [7592, 1010, 2088, 999]
    assert tokenizer.tokens(tokenizer.encode('unaffable')) == ['una', '##ffa', '##ble']
    assert tokenizer.decode([101, 7592, 2088, 100, 102, 0]) == f'hello world {UNKNOWN}'
    assert tokenizer.word_starts()[tokenizer.encode('unaffable hello')].tolist() == [
        True, False, False, True]


def test_bert_agrees_with_the_library_on_any_text():
    oracle = BertWordPieceTokenizer(str(shared('bert_vocab/vocab.txt')), lowercase=True)
    texts = [*ODD, *random_texts(300), *(text for text, in english()[:50]), 'a' * 101]
    expected = [oracle.encode(text, add_special_tokens=False).ids for text in texts]
    assert bert().source.encode_batch(texts) == expected


def test_gpt2_has_the_ids_everybody_knows():
    tokenizers = gpt2()
    assert tokenizers.vocab_size == 50257
    assert tokenizers.special == (50256, 50256, 50256, 50256, None, ())
    tokenizer = tokenizers.source
    assert tokenizer.encode('Hello world') == [15496, 995]
    assert tokenizer.tokens([15496, 995]) == ['Hello', 'Ġworld']
    assert tokenizer.word_starts()[[15496, 995, 50256]].tolist() == [False, True, True]
    texts = [*ODD, NAMES, *random_texts(300)]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts
    assert tokenizer.decode([50256, 15496, 50256, 99999]) == 'Hello'


def test_the_sentencepiece_model_gives_its_own_example():
    path = shared('sentencepiece_test_models/test_model.model')
    tokenizers = read('unigram', path)
    tokenizer, text = tokenizers.source, 'I saw a girl with a telescope.'
    assert ' '.join(tokenizer.tokens(tokenizer.encode(text))) == (
        '▁I ▁saw ▁a ▁girl ▁with ▁a ▁ te le s c o pe .')
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizers.special == (1000, 1, 2, 0, None, ()) and tokenizers.vocab_size == 1001
    assert tokenizer.decode([1, 1000, *tokenizer.encode('a girl'), 0, 2]) == 'a girl' + UNKNOWN
    texts = [*ODD, *random_texts(100)]
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tokenizer.encode_batch(texts) == [oracle.encode(text) for text in texts]


@pytest.mark.parametrize('make, objective, size, mask, sentinels', [
    (bert, 'mlm', 30522, 103, 0), (bert, 'spans', 30622, 103, 100),
    (gpt2, 'mlm', 50258, 50257, 0), (gpt2, 'spans', 50357, None, 100)])
def test_what_an_objective_needs_is_appended_and_saved(
        make, objective, size, mask, sentinels, tmp_path):
    plain, tokenizers = make(), make(objective=objective)
    special = tokenizers.special
    assert (tokenizers.vocab_size, special.mask, len(special.sentinels)) == (size, mask, sentinels)
    assert special[:4] == plain.special[:4]
    if sentinels:
        assert special.sentinels == tuple(range(size - 1, size - 101, -1))
        assert tokenizers.source.tokens([size - 1, size - 100]) == [
            '<extra_id_0>', '<extra_id_99>']
    assert tokenizers.source.encode(NAMES) == plain.source.encode(NAMES)
    tokenizers.save(tmp_path)
    loaded = load_tokenizers(tmp_path)
    assert (loaded.fingerprint, loaded.special) == (tokenizers.fingerprint, special)
    texts = [*ODD, NAMES, *random_texts(20)]
    assert loaded.source.encode_batch(texts) == tokenizers.source.encode_batch(texts)
    theirs = library.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))  # whoever reads it
    assert theirs.get_vocab_size() == size
    assert theirs.encode(tokenizers.source.tokens([special.eos])[0]).ids == [special.eos]


@pytest.mark.parametrize('make', [bert, gpt2])
def test_special_tokens_in_a_text_are_text(make):
    tokenizers = make(objective='mlm')
    names = tokenizers.source.tokens(tokenizers.special.ids())
    for text in [NAMES, NAMES.replace(' ', ''), *names, ''.join(names)]:
        assert not set(tokenizers.source.encode(text)) & set(tokenizers.special.ids())


def unigram(path):
    """A tokenizer.json as T5 has it: special tokens are pieces, no beginning of text."""
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('▁', -2.0), ('▁to', -2.5)]
    pieces += [(letter, -4.0) for letter in 'abcdeikmnorstux<>/_0123456789']
    tokenizer = library.Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([f'<extra_id_{k}>' for k in range(99, -1, -1)] + ['</s>'])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))
    return tokenizer


def test_t5_has_no_beginning_and_its_own_sentinels(tmp_path):
    theirs = unigram(tmp_path / 'tokenizer.json')
    tokenizers = read('unigram', tmp_path / 'tokenizer.json', 'spans')
    size = theirs.get_vocab_size()
    special, tokenizer = tokenizers.special, tokenizers.source
    assert special[:5] == (0, 0, 1, 2, None) and tokenizers.vocab_size == size
    assert special.sentinels == tuple(range(size - 1, size - 101, -1))
    text = 'to </s> <extra_id_0> <unk> to disk'
    assert not set(tokenizer.encode(text)) & set(special.ids())
    assert tokenizer.decode(tokenizer.encode(text)) == text  # neither cut nor padded
    assert tokenizer.encode('to Q') == [4, 3, 2]
    assert tokenizer.decode([0, 4, 3, 2, special.sentinels[0], 1]) == f'to {UNKNOWN}'
    assert tokenizer.word_starts()[[3, 4, 5]].tolist() == [True, True, False]


def test_dropout_of_merges_is_switched_off(tmp_path):
    vocabulary = {'<pad>': 0, '</s>': 1, '<unk>': 2, 'a': 3, 'aa': 4}
    library.Tokenizer(models.BPE(vocabulary, [('a', 'a')], dropout=0.5)).save(
        str(tmp_path / 'tokenizer.json'))
    tokenizer = read('bpe', tmp_path / 'tokenizer.json').source
    assert tokenizer.encode_batch(['aaaa'] * 50) == [[4, 4]] * 50
    assert tokenizer.encode('aab') == [4, 2]  # the file's own unk is null, which drops text
    with pytest.raises(UserError, match='do not show where a word begins'):
        tokenizer.word_starts()


def test_case_is_kept_where_the_vocabulary_has_it(tmp_path):
    path = tmp_path / 'vocab.txt'
    pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'caf', '##e', '##x']
    path.write_text('\n'.join(pieces) + '\n', encoding='utf-8')
    assert read('wordpiece', path).source.encode('CAFÉ') == [4, 5]
    path.write_text('\n'.join([*pieces, 'CAF', '##É']) + '\n', encoding='utf-8')
    assert read('wordpiece', path).source.encode('CAFÉ') == [7, 8]
    assert read('wordpiece', path).source.encode('cafÉ CAFx') == [4, 8, 7, 6]
    path.write_text('\n'.join([*pieces, '<S>']) + '\n', encoding='utf-8-sig')
    assert read('wordpiece', path).source.encode('CAFÉ') == [4, 5]
    assert read('wordpiece', path).vocab_size == len(pieces) + 1
    path.write_text('\r\n'.join([*pieces[:-1], '##\u2028', '##é']) + '\r\n\r\n', newline='')
    tokenizer = read('wordpiece', path).source
    assert tokenizer.encode('CAFÉ CAFE') == [4, 7, 4, 5] and tokenizer.vocab_size == len(pieces) + 1


@pytest.mark.parametrize('kind', ['wordpiece', 'byte_bpe', 'bpe', 'unigram'])
def test_what_was_trained_can_be_read(kind, tmp_path):
    trained = train_tokenizers(DataConfig(train='x', tokenizer=kind, vocab_size=400), english())
    trained.save(tmp_path)
    path = tmp_path / trained.source.file_name
    again = read(kind, path)
    assert again.special == trained.special and again.fingerprint == trained.fingerprint
    assert tokenizer_files(DataConfig(tokenizer_file=str(path))) == [path]


def test_vocab_json_goes_with_its_merges(tmp_path):
    trained = train_tokenizers(
        DataConfig(train='x', tokenizer='byte_bpe', vocab_size=400), english()).source
    library.Tokenizer.from_buffer(trained.file).model.save(str(tmp_path))
    path = tmp_path / 'vocab.json'
    assert tokenizer_files(DataConfig(tokenizer_file=str(path))) == [path, tmp_path / 'merges.txt']
    texts = [*ODD, *(text for text, in english())]
    assert read('byte_bpe', path).source.encode_batch(texts) == trained.encode_batch(texts)
    (tmp_path / 'merges.txt').unlink()
    with pytest.raises(UserError, match='vocab.json needs its merges .* merges.txt or vocab.bpe'):
        read('byte_bpe', path)


def test_user_defined_symbols_of_sentencepiece_are_not_special(tmp_path):
    """Text yields them, so a mask of the same name would be parsed from text."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text for text, in english()), model_prefix=str(tmp_path / 'm'),
        vocab_size=300, hard_vocab_limit=False, user_defined_symbols=['<mask>'], minloglevel=2)
    tokenizers = read('unigram', tmp_path / 'm.model', 'mlm')
    assert tokenizers.special.mask == tokenizers.vocab_size - 1
    assert tokenizers.special.mask not in tokenizers.source.encode('a <mask> b')


@pytest.mark.parametrize('name, kind, other', [
    ('bert_vocab/vocab.txt', 'wordpiece', 'byte_bpe'),
    ('gpt2_tokenizer/encoder.json', 'byte_bpe', 'char'),
    ('sentencepiece_test_models/test_model.model', 'unigram', 'wordpiece'),
    ('sentencepiece_test_models/test_model.model', 'unigram', 'bpe')])
def test_a_file_of_another_kind_is_refused(name, kind, other):
    with pytest.raises(UserError, match=f'holds a {kind} tokenizer, .*set .*tokenizer={kind}'):
        read(other, shared(name))


@pytest.mark.parametrize('name, content, sentence', [
    ('vocab.txt', None, 'cannot read .*vocab.txt .No such file'),
    ('tokenizer.json', None, 'cannot read .*tokenizer.json .No such file'),
    ('x.model', '', 'x.model is not a tokenizer .*empty'),
    ('x.spm', 'nonsense', 'x.spm is not a tokenizer'),
    ('x.bin', 'nonsense', r'x.bin is not a tokenizer .*must end in \.txt'),
    ('tokenizer.json', '{"model": {', 'tokenizer.json is not a tokenizer'),
    ('tokenizer.json', '3', 'tokenizer.json is not a tokenizer'),
    ('tokenizer.json', '{"model": {"type": "BPE"}}', 'not a tokenizer .*Missing vocab/merges'),
    ('vocab.txt', '[PAD]\n[SEP]\na\n', r'no token for what it does not know.*\[UNK\] or <unk>'),
    ('vocab.txt', '[PAD]\n[UNK]\na\n', r'no token for end of text.*\[SEP\] or </s>'),
    ('vocab.txt', '[PAD]\n[UNK]\n[SEP]\na\na\nb', 'without gaps or repeats')])
def test_files_that_cannot_be_read_say_so_in_one_sentence(name, content, sentence, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match=sentence) as caught:
        read('wordpiece', tmp_path / name)
    assert name in str(caught.value) and '\n' not in str(caught.value)


def test_a_file_serves_both_sides(tmp_path):
    unigram(tmp_path / 'tokenizer.json')
    tokenizers = read('unigram', tmp_path / 'tokenizer.json', target_tokenizer='unigram')
    assert tokenizers.source is tokenizers.target
    with pytest.raises(UserError, match='cannot share one vocabulary'):
        read('char', tmp_path / 'tokenizer.json', target_tokenizer='word')
