"""Tokenizers trained on a text: what survives, what is special, what is saved."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xformer.config import DataConfig, UserError
from xformer.data.sources import SPLITS, read_examples
from xformer.data.store import build_store
from xformer.data.tokenizers import UNKNOWN, load_tokenizers, pieces, train_tokenizers
from xformer.data.tokenizers.symbols import SymbolTokenizer

PAIRS = [('read', 'R EH1 D'), ('dear', 'D IH1 R'), ('Ärger 二', 'EH1 R G'), ('a  b\t', 'X')] * 20
PIECES = ['bpe', 'unigram', 'wordpiece', 'byte_bpe']
KINDS = [('char', 'word'), ('word', 'char'), ('char', ''), ('word', ''), ('bytes', ''),
         *((kind, '') for kind in PIECES)]
LOSSLESS = ('bytes', 'byte_bpe', 'bpe', 'unigram')
OBJECTIVES = ['pairs', 'lm', 'mlm', 'mlm_nsp', 'denoise', 'spans']


def train(kinds, pairs=PAIRS, vocab_size=420, **options):
    source, target = kinds
    return train_tokenizers(DataConfig(train='x', tokenizer=source, target_tokenizer=target,
                                       vocab_size=vocab_size, **options), pairs)


def random_texts(count):
    rng = random.Random(0)
    return [''.join(chr(rng.choice([rng.randrange(128), rng.randrange(0xd800),
                                    rng.randrange(0xe000, 0x110000)])) for _ in range(20))
            for _ in range(count)]


def english(lines=600):
    """Sentences of made-up words, of Zipf's frequencies."""
    rng = random.Random(1)
    words = [''.join(rng.choices('etaoinshrdlu', k=rng.randint(1, 8))) for _ in range(200)]
    weights = [1 / rank for rank in range(1, 201)]
    return [(' '.join(rng.choices(words, weights, k=8)) + '.',) for _ in range(lines)]


@pytest.mark.parametrize('kinds', KINDS)
def test_known_text_survives_and_specials_are_never_made(kinds):
    tokenizers = train(kinds)
    special = tokenizers.special
    for sides in PAIRS[:3]:  # the last source has spaces that words do not keep
        for text, tokenizer in zip(sides, (tokenizers.source, tokenizers.target)):
            ids = tokenizer.encode(text)
            assert not set(ids) & set(special.ids()) and max(ids) < tokenizers.vocab_size
            assert tokenizer.decode([special.bos, *ids, special.eos, special.pad]) == text
            assert len(tokenizer.tokens(ids)) == len(ids)
    assert tokenizers.source.vocab_size == tokenizers.target.vocab_size == tokenizers.vocab_size


@pytest.mark.parametrize('kinds', KINDS)
def test_any_unicode_is_encoded_and_any_ids_are_decoded(kinds):
    rng = random.Random(0)
    tokenizer = train(kinds).source
    texts = random_texts(200)
    for text, ids in zip(texts, tokenizer.encode_batch(texts)):
        assert ids == tokenizer.encode(text)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        if kinds[0] in ('bytes', 'byte_bpe'):
            assert tokenizer.decode(ids) == text
        elif kinds[0] in LOSSLESS:  # sentencepiece has one character for itself
            assert tokenizer.decode(ids) == text.replace('\u2581', ' ')
        elif kinds[0] == 'char':
            known = set(tokenizer.symbols)
            assert tokenizer.decode(ids) == ''.join(c if c in known else UNKNOWN for c in text)
        noise = [rng.randrange(2 * tokenizer.vocab_size) for _ in range(20)]
        assert isinstance(tokenizer.decode(noise), str) and len(tokenizer.tokens(noise)) == 20


@pytest.mark.parametrize('kind', ['char', 'word', 'wordpiece'])
def test_what_is_unknown_says_so(kind):
    tokenizer = train((kind, '')).source
    ids = tokenizer.encode('ф')
    assert ids == [tokenizer.special.unk] and tokenizer.decode(ids) == UNKNOWN


@pytest.mark.parametrize('kinds', KINDS)
@pytest.mark.parametrize('objective', OBJECTIVES)
def test_special_tokens_of_a_trained_vocabulary(kinds, objective):
    tokenizers = train(kinds, objective=objective)
    special, names = tokenizers.special, tokenizers.source.tokens(range(tokenizers.vocab_size))
    bert = kinds[0] == 'wordpiece'
    assert special[:4] == (0, 1, 2, 3)
    assert names[:4] == (['[PAD]', '[CLS]', '[SEP]', '[UNK]'] if bert else
                         ['<pad>', '<bos>', '<eos>', '<unk>'])
    if objective in ('mlm', 'mlm_nsp', 'denoise'):
        assert names[special.mask] == ('[MASK]' if bert else '<mask>')
    else:
        assert special.mask is None
    if objective == 'spans':  # T5: <extra_id_0> comes last
        assert [names[i] for i in special.sentinels] == [f'<extra_id_{k}>' for k in range(100)]
        assert list(special.sentinels) == list(range(len(names) - 1, len(names) - 101, -1))
    else:
        assert special.sentinels == ()
    assert len(set(names)) == len(names) or kinds[0] == 'bytes'
    assert tokenizers.source.decode(special.ids()) == UNKNOWN
    if kinds[0] in PIECES:
        assert tokenizers.vocab_size <= 420


@pytest.mark.parametrize('objective', ['mlm', 'spans'])
@pytest.mark.parametrize('kinds', KINDS)
def test_special_tokens_written_out_in_a_text_are_ordinary_text(kinds, objective):
    names = ['<pad>', '<bos>', '<eos>', '<unk>', '<mask>', '[PAD]', '[CLS]', '[SEP]', '[UNK]',
             '[MASK]', '<s>', '</s>', '<|endoftext|>', '<extra_id_0>', '<extra_id_99>']
    text = ' '.join(names)
    tokenizers = train(kinds, [(text, text)] * 9, objective=objective)
    for tokenizer in (tokenizers.source, tokenizers.target):
        assert not set(tokenizer.encode(text)) & set(tokenizers.special.ids())
        assert not set(tokenizer.encode_batch([text])[0]) & set(tokenizers.special.ids())
        if tokenizer.kind in (*LOSSLESS, 'char', 'word'):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_letters_and_phones_share_one_vocabulary():
    tokenizers = train(('char', 'word'), [('DAB', 'D AE1 B')])
    assert tokenizers.vocab_size == 4 + len({'D', 'A', 'B', 'AE1'})
    assert tokenizers.source.encode('D') == tokenizers.target.encode('D')
    assert tokenizers.target.encode('AE1 AE1 ZZ') == [5, 5, tokenizers.special.unk]


def test_bytes_are_utf8():
    tokenizer = train(('bytes', '')).source
    assert tokenizer.vocab_size == 4 + 256
    assert tokenizer.encode('ä!') == [4 + 0xc3, 4 + 0xa4, 4 + 0x21]
    assert tokenizer.tokens(tokenizer.encode('ä!')) == ['<0xC3>', '<0xA4>', '!']
    assert tokenizer.decode([4 + 0xc3, 4 + 0x21]) == UNKNOWN + '!'


def test_wordpiece_joins_pieces_and_parts_at_punctuation():
    tokenizer = train(('wordpiece', ''), [('low lower lowest 二三', )] * 9).source
    ids = tokenizer.encode('lowest  二三\tslow')
    tokens = tokenizer.tokens(ids)
    assert ''.join(token.removeprefix('##') for token in tokens) == 'lowest二三slow'
    assert tokenizer.decode(ids) == 'lowest 二 三 slow'
    assert tokenizer.special.unk not in tokenizer.encode('tswo ewol')  # all letters continue


@pytest.mark.parametrize('kind, begins', [
    ('wordpiece', lambda token: not token.startswith('##')),
    ('byte_bpe', lambda token: token.startswith(('Ġ', 'Ċ', 'č', 'ĉ'))),
    ('bpe', lambda token: token.startswith('▁')), ('unigram', lambda token: token.startswith('▁')),
    ('char', lambda token: True), ('word', lambda token: True), ('bytes', lambda token: True)])
def test_word_starts_count_the_words(kind, begins):
    tokenizers = train((kind, ''), english(), vocab_size=420, objective='mlm')
    tokenizer, special = tokenizers.source, tokenizers.special
    starts = tokenizer.word_starts()
    assert starts.shape == (tokenizers.vocab_size,) and starts.dtype == bool
    ordinary = np.setdiff1d(np.arange(tokenizers.vocab_size), special.ids())
    assert starts[special.ids()].all()
    assert starts[ordinary].tolist() == [begins(token) for token in tokenizer.tokens(ordinary)]
    if kind in PIECES:
        sentence = ' ' * (kind == 'byte_bpe') + english()[0][0].removesuffix('.')
        assert starts[tokenizer.encode(sentence)].sum() == 8


@pytest.mark.parametrize('kind', ['char', 'word', 'bytes', 'wordpiece', 'byte_bpe'])
def test_vocabularies_that_do_not_depend_on_the_order_of_the_texts(kind):
    texts = english()
    shuffled = random.Random(2).sample(texts, len(texts))
    assert train((kind, ''), texts).fingerprint == train((kind, ''), shuffled).fingerprint


@pytest.mark.parametrize('kind', PIECES)
def test_training_does_not_depend_on_the_process_or_its_threads(kind):
    """Hash tables differ between processes, and the libraries take their threads from these."""
    code = ('from tests.data.test_tokenizers import english, train; '
            f'print(train(({kind!r}, ""), english(), vocab_size=350).fingerprint)')
    prints = {subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                             check=True, cwd=Path(__file__).parents[2],
                             env=os.environ | {'RAYON_NUM_THREADS': threads}).stdout
              for threads in ('1', '3')}
    prints.add(train((kind, ''), english(), vocab_size=350).fingerprint + '\n')
    assert len(prints) == 1


def test_texts_are_taken_one_by_one():
    """No kind asks for more than an iterator, of singles or pairs."""
    for kinds in KINDS:
        assert train(kinds, iter(PAIRS)).fingerprint == train(kinds).fingerprint
        if not kinds[1]:
            singles = ((text,) for pair in PAIRS for text in pair)
            assert train(kinds, singles).fingerprint == train(kinds).fingerprint


@pytest.mark.parametrize('objective', ['pairs', 'mlm', 'spans'])
@pytest.mark.parametrize('kinds', KINDS)
def test_saved_is_loaded(kinds, objective, tmp_path):
    tokenizers = train(kinds, objective=objective)
    tokenizers.save(tmp_path)
    loaded = load_tokenizers(tmp_path)
    assert loaded.fingerprint == tokenizers.fingerprint
    other = 'pairs' if objective == 'mlm' else 'mlm'
    other = train(kinds, [('other', 'text')] * 9, objective=other)
    assert loaded.fingerprint != other.fingerprint
    assert (loaded.special, loaded.vocab_size) == (tokenizers.special, tokenizers.vocab_size)
    everything = range(loaded.vocab_size)
    for side in ('source', 'target'):
        ours, theirs = getattr(tokenizers, side), getattr(loaded, side)
        assert theirs.tokens(everything) == ours.tokens(everything)
        assert (theirs.word_starts() == ours.word_starts()).all()
        texts = [text for pair in PAIRS[:4] for text in pair] + random_texts(20)
        assert theirs.encode_batch(texts) == ours.encode_batch(texts)


@pytest.mark.parametrize('kinds, name', [
    (('char', 'word'), 'tokenizers.json'), (('bytes', ''), 'tokenizers.json'),
    (('bpe', ''), 'sentencepiece.model'), (('wordpiece', ''), 'tokenizer.json'),
    (('byte_bpe', ''), 'tokenizer.json'), (('byte_bpe', ''), 'tokenizers.json')])
@pytest.mark.parametrize('damage', ['missing', 'cut', 'edited', 'wrong type'])
def test_missing_and_damaged_files_are_refused(kinds, name, damage, tmp_path):
    train(kinds).save(tmp_path)
    path = tmp_path / name
    raw = path.read_bytes()
    if damage == 'missing':
        path.unlink()
    elif damage == 'cut':
        path.write_bytes(raw[:len(raw) // 2])
    elif damage == 'edited':
        path.write_bytes(raw.replace(b'a', b'q', 1))
        assert path.read_bytes() != raw
    else:
        (tmp_path / 'tokenizers.json').write_text(json.dumps(['not', 'a', 'tokenizer']))
    with pytest.raises(UserError, match='cannot read' if damage == 'missing' else 'damaged'):
        load_tokenizers(tmp_path)


@pytest.mark.parametrize('kind', PIECES)
def test_too_few_pieces_say_so(kind):
    with pytest.raises(UserError, match='data.vocab_size=9 .*--config.data.vocab_size'):
        train((kind, ''), vocab_size=9)


@pytest.mark.parametrize('kinds', [('bpe', 'char'), ('char', 'wordpiece'), ('bytes', 'char')])
def test_kinds_that_cannot_share_a_vocabulary_are_refused(kinds):
    with pytest.raises(UserError, match='cannot share one vocabulary'):
        train(kinds)


def test_long_lines_train_pieces_too():
    tokenizer = train(('unigram', ''), [('qx ' * 5000, 'b')] * 3, vocab_size=300).source
    assert not any(piece.startswith('<0x') for piece in tokenizer.tokens(tokenizer.encode('qx')))


def test_pieces_of_a_long_corpus_are_learnt_from_the_same_sample_of_it(monkeypatch, capsys):
    texts = [f'{i} ' + 'x' * (i % 7) for i in range(4000)]
    assert list(pieces.sampled(texts)) == texts and capsys.readouterr().err == ''
    monkeypatch.setattr(pieces, 'MOST_CHARACTERS', 9000)
    sample = list(pieces.sampled(iter(texts)))
    size = sum(map(len, sample))
    assert 3000 < size <= 9000 and sample == [text for text in texts if text in set(sample)]
    assert capsys.readouterr().err == (
        f'the pieces are learnt from a sample: texts of {size:,} characters\n')
    assert sorted(pieces.sampled(texts[::-1])) == sorted(sample)
    assert list(pieces.sampled(['y' * 10_000])) == ['y' * 10_000]
    often = ['the same line'] * 2000 + texts
    for texts in often, ['z' * 8000, 'y' * 8000], ['z' * 8000, 'x' * 8000]:
        assert sum(map(len, pieces.sampled(texts))) > 7000  # whatever their hashes are


@pytest.mark.parametrize('kind', ['char', 'bytes', 'byte_bpe', 'bpe', 'unigram'])
def test_a_document_reads_as_its_text(kind, tmp_path):
    text = 'One fine day.\nTwo fine days.\n'
    (tmp_path / 'text').write_text(f'{text}\n{text}')
    data = DataConfig(objective='lm', format='documents', tokenizer=kind, vocab_size=290,
                      **dict.fromkeys(SPLITS, str(tmp_path / 'text')))
    tokenizers = train_tokenizers(data, english() + [(text,)])
    store = build_store(tmp_path / 'store', read_examples(data, 'train'), tokenizers,
                        kind='texts', split='train')
    ids = store.columns['text'].ids[:store.columns['text'].offsets[2]]
    assert tokenizers.source.decode(ids) == 'One fine day. Two fine days.'
    assert ids[:-1].tolist() == tokenizers.source.encode('One fine day. Two fine days.')


@pytest.mark.parametrize('kind', ['char', 'bytes', 'byte_bpe', 'bpe', 'unigram'])
def test_a_text_of_several_lines_reads_as_it_is_written(kind, tmp_path):
    text = 'One fine day.\n\n  Two fine days.\nThree'
    (tmp_path / 'text').write_text(json.dumps({'text': text}) + '\n')
    data = DataConfig(objective='lm', format='jsonl', tokenizer=kind, vocab_size=290,
                      **dict.fromkeys(SPLITS, str(tmp_path / 'text')))
    tokenizers = train_tokenizers(data, english() + [(text,)])
    store = build_store(tmp_path / 'store', read_examples(data, 'train'), tokenizers,
                        kind='texts', split='train')
    ids = store.columns['text'].ids
    assert tokenizers.source.decode(ids) == text
    if kind != 'byte_bpe':  # whose words may begin with the end of a line
        assert ids[:-1].tolist() == tokenizers.source.encode(text)


def test_numpy_ids_decode():
    tokenizer = SymbolTokenizer('char', ['a', 'b'])
    assert tokenizer.decode(np.array([1, 4, 5, 2, 0], np.int32)) == 'ab'
