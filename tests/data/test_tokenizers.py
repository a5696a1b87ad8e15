import json
import random

import numpy as np
import pytest

from xformer.config import DataConfig, UserError
from xformer.data.tokenizers import (
    BOS,
    EOS,
    PAD,
    UNK,
    UNKNOWN,
    SymbolTokenizer,
    load_tokenizers,
    train_tokenizers,
)

PAIRS = [('read', 'R EH1 D'), ('dear', 'D IH1 R'), ('Ärger 二', 'EH1 R G'), ('a  b\t', 'X')] * 20
KINDS = [('char', 'word'), ('word', 'char'), ('char', 'char'), ('word', 'word'),
         ('bpe', 'bpe'), ('unigram', 'unigram')]


def train(kinds, pairs=PAIRS, **options):
    source, target = kinds
    return train_tokenizers(DataConfig(train='x', source_tokenizer=source, vocab_size=300,
                                       target_tokenizer=target, **options), pairs)


@pytest.mark.parametrize('kinds', KINDS)
def test_known_text_survives_and_specials_are_never_made(kinds):
    tokenizers = train(kinds)
    for sides in PAIRS[:3]:  # the last source has spaces that words do not keep
        for text, tokenizer in zip(sides, (tokenizers.source, tokenizers.target)):
            ids = tokenizer.encode(text)
            assert min(ids) > UNK and max(ids) < tokenizers.vocab_size
            assert tokenizer.decode([BOS, *ids, EOS, PAD]) == text
            assert len(tokenizer.tokens(ids)) == len(ids)
            assert tokenizer.encode_batch([text, text]) == [ids, ids]
    assert tokenizers.source.vocab_size == tokenizers.target.vocab_size == tokenizers.vocab_size


@pytest.mark.parametrize('kinds', KINDS)
def test_any_unicode_is_encoded_and_any_ids_are_decoded(kinds):
    rng = random.Random(0)
    tokenizer = train(kinds).source
    for _ in range(200):
        text = ''.join(chr(rng.choice([rng.randrange(128), rng.randrange(0xd800),
                                       rng.randrange(0xe000, 0x110000)])) for _ in range(20))
        ids = tokenizer.encode(text)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        if kinds[0] in ('bpe', 'unigram'):  # bytes cover what pieces do not
            assert tokenizer.decode(ids) == text.replace('\u2581', ' ')
        elif kinds[0] == 'char':
            known = set(tokenizer.symbols)
            assert tokenizer.decode(ids) == ''.join(c if c in known else UNKNOWN for c in text)
        noise = [rng.randrange(2 * tokenizer.vocab_size) for _ in range(20)]
        assert isinstance(tokenizer.decode(noise), str) and len(tokenizer.tokens(noise)) == 20


def test_special_tokens_written_out_in_a_text_are_ordinary_text():
    for kinds in KINDS:
        ids = train(kinds, [('<pad> <bos>', '<eos> <unk>')] * 9).target.encode('<eos> <unk>')
        assert min(ids) > UNK


def test_letters_and_phones_share_one_vocabulary():
    tokenizers = train(('char', 'word'), [('DAB', 'D AE1 B')])
    assert tokenizers.vocab_size == 4 + len({'D', 'A', 'B', 'AE1'})
    assert tokenizers.source.encode('D') == tokenizers.target.encode('D')
    assert tokenizers.target.encode('AE1 AE1 ZZ') == [5, 5, UNK]


def test_symbols_do_not_depend_on_the_order_of_the_pairs():
    shuffled = random.Random(1).sample(PAIRS, len(PAIRS))
    assert train(('char', 'word')).fingerprint == train(('char', 'word'), shuffled).fingerprint


@pytest.mark.parametrize('kinds', KINDS)
def test_saved_is_loaded_and_training_is_deterministic(kinds, tmp_path):
    tokenizers = train(kinds)
    tokenizers.save(tmp_path)
    loaded = load_tokenizers(tmp_path)
    assert loaded.fingerprint == tokenizers.fingerprint == train(kinds).fingerprint
    assert loaded.fingerprint != train(kinds, [('other', 'text')] * 9).fingerprint
    for source, target in PAIRS:
        assert loaded.source.encode(source) == tokenizers.source.encode(source)
        assert loaded.target.encode(target) == tokenizers.target.encode(target)


@pytest.mark.parametrize('kinds', [('char', 'word'), ('bpe', 'bpe')])
@pytest.mark.parametrize('damage', ['missing', 'cut', 'edited', 'wrong type'])
def test_missing_and_damaged_files_are_refused(kinds, damage, tmp_path):
    train(kinds).save(tmp_path)
    path = tmp_path / ('sentencepiece.model' if kinds[0] == 'bpe' else 'tokenizer.json')
    raw = path.read_bytes()
    if damage == 'missing':
        path.unlink()
    elif damage == 'cut':
        path.write_bytes(raw[:len(raw) // 2])
    elif damage == 'edited':
        path.write_bytes(raw.replace(b'D', b'Q', 1))
    else:
        (tmp_path / 'tokenizer.json').write_text(json.dumps(['not', 'a', 'tokenizer']))
    with pytest.raises(UserError, match='cannot read' if damage == 'missing' else 'damaged'):
        load_tokenizers(tmp_path)


def test_too_few_pieces_say_so():
    with pytest.raises(UserError, match='data.vocab_size=20 .*--config.data.vocab_size'):
        train_tokenizers(DataConfig(train='x', source_tokenizer='bpe', target_tokenizer='bpe',
                                    vocab_size=20), PAIRS)


def test_long_lines_train_pieces_too():
    tokenizer = train(('unigram', 'unigram'), [('qx ' * 5000, 'b')] * 3).source
    assert not any(piece.startswith('<0x') for piece in tokenizer.tokens(tokenizer.encode('qx')))


def test_numpy_ids_decode():
    tokenizer = SymbolTokenizer(['a', 'b'], '')
    assert tokenizer.decode(np.array([1, 4, 5, 2, 0], np.int32)) == 'ab'
