import json
import random
import resource

import numpy as np
import pytest

from xformer.config import DataConfig, UserError
from xformer.data import store as store_module
from xformer.data.store import build_store, open_store
from xformer.data.tokenizers import EOS, SymbolTokenizer, Tokenizers, train_tokenizers

DATA = DataConfig(train='x', target_tokenizer='word')


def random_pairs(count=1000, seed=0):
    rng = random.Random(seed)
    return [(''.join(rng.choices('abcdeé', k=rng.randint(1, 12))),
             ' '.join(rng.choices(['K', 'AE1', 'T'], k=rng.randint(1, 9)))) for _ in range(count)]


PAIRS = random_pairs()
TOKENIZERS = train_tokenizers(DATA, PAIRS)


def build(folder, pairs=PAIRS, tokenizers=TOKENIZERS, **options):
    return build_store(folder, iter(pairs), tokenizers,
                       **{'split': 'train', 'max_length': 100, **options})


@pytest.mark.parametrize('chunk', [1, 7, 1000, 4096])
def test_streamed_store_holds_what_encoding_in_memory_gives(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(store_module, 'CHUNK', chunk)
    store = build(tmp_path / 'train')
    assert len(store) == len(PAIRS)
    for i, (source, target) in enumerate(PAIRS):
        assert store.source(i).tolist() == TOKENIZERS.source.encode(source) + [EOS]
        assert store.target(i).tolist() == TOKENIZERS.target.encode(target) + [EOS]
        assert store.lengths_N2[i].tolist() == [len(source) + 1, len(target.split()) + 1]
    assert store.lengths_N2.dtype == np.int32
    assert store.manifest['source_tokens'] == sum(len(source) + 1 for source, _ in PAIRS)
    monkeypatch.setattr(store_module, 'CHUNK', 4096)
    assert store.fingerprint == build(tmp_path / 'again').fingerprint
    assert store.fingerprint != build(tmp_path / 'other', PAIRS[::-1]).fingerprint


@pytest.mark.parametrize('other', [('ba', 'K T'), ('ab', 'T K'), ('a', 'K T'), ('ab', 'K')])
def test_fingerprint_tells_other_ids_and_other_lengths_apart(tmp_path, other):
    a, b = (build(tmp_path / name, [pair]) for name, pair in (('a', ('ab', 'K T')), ('b', other)))
    assert a.fingerprint != b.fingerprint


def test_large_vocabularies_use_wide_ids(tmp_path):
    for symbols, dtype in ((2**16 - 4, np.uint16), (2**16 - 3, np.uint32)):
        words = SymbolTokenizer([f'w{i}' for i in range(symbols)], ' ')
        store = build(tmp_path / str(symbols), [('w0', f'w{symbols - 1}')],
                      Tokenizers(words, words))
        assert store.target_ids.dtype == dtype
        assert store.target(0).tolist() == [symbols + 3, EOS]


def test_too_long_is_refused_by_ordinal_or_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, 'CHUNK', 4)
    pairs = PAIRS[:10] + [('e' * 60, 'K')] + PAIRS[10:20] + [('a', 'K ' * 50)]
    with pytest.raises(UserError, match=r"pair 11 of dev \('eeee.* 61 source and 2 target.*"
                                        r'too_long=drop or --config.model.max_length=61'):
        build(tmp_path / 'dev', pairs, split='dev', max_length=50)
    store = build(tmp_path / 'dev', pairs, split='dev', max_length=50, too_long='drop')
    assert (len(store), store.manifest['dropped']) == (20, 2)
    assert store.fingerprint == build(tmp_path / 'kept', PAIRS[:20]).fingerprint
    assert len(build(tmp_path / 'fits', pairs, max_length=61)) == 22  # EOS counts


@pytest.mark.parametrize('pairs, message', [
    ([], 'the dev split has no pairs; give --config.data.dev=FILE'),
    ([('abcabc', 'K')], 'all 1 were too long; set a larger --config.model.max_length')])
def test_a_split_without_pairs_is_refused(tmp_path, pairs, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path / 'dev', pairs, split='dev', max_length=3, too_long='drop')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('interruption', [KeyboardInterrupt, UserError])
def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, interruption):
    def interrupted():
        yield from PAIRS[:50]
        assert len(list(tmp_path.rglob('*.bin'))) == 2  # it was writing
        raise interruption('stop')
    monkeypatch.setattr(store_module, 'CHUNK', 8)
    with pytest.raises(interruption):
        build(tmp_path / 'train', interrupted())
    assert list(tmp_path.iterdir()) == []


def test_refusals_of_the_system_are_one_sentence(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'cannot write .*file.train \(.*XFORMER_CACHE'):
        build(tmp_path / 'file' / 'train')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # acts like a full disk
    try:
        with pytest.raises(UserError, match=r'cannot write .*train \(File too large\)'):
            build(tmp_path / 'train')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / 'train').exists()


def test_an_existing_folder_is_not_overwritten_but_a_faster_twin_is_used(tmp_path):
    build(tmp_path / 'train')
    with pytest.raises(UserError, match='exists already'):
        build(tmp_path / 'train')

    def overtaken():
        yield from PAIRS
        build(tmp_path / 'dev')
    assert len(build(tmp_path / 'dev', overtaken())) == len(PAIRS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['dev', 'train']


@pytest.mark.parametrize('name', ['source.bin', 'target.bin', 'source_offsets.npy',
                                  'target_offsets.npy', 'manifest.json'])
@pytest.mark.parametrize('damage', ['missing', 'empty', 'cut', 'longer'])
def test_a_damaged_store_is_not_opened(tmp_path, name, damage):
    build(tmp_path / 'train')
    path = tmp_path / 'train' / name
    raw = path.read_bytes()
    path.unlink()
    if damage != 'missing':
        path.write_bytes({'empty': b'', 'cut': raw[:-2], 'longer': raw + b'xx'}[damage])
    if name.endswith('npy') and damage == 'longer':
        assert len(open_store(tmp_path / 'train')) == len(PAIRS)  # bytes past the array: harmless
    else:
        with pytest.raises(UserError, match='damaged'):
            open_store(tmp_path / 'train')


def test_manifest_is_plain_json(tmp_path):
    store = build(tmp_path / 'train')
    manifest = json.loads((tmp_path / 'train' / 'manifest.json').read_text())
    assert manifest == store.manifest
    assert manifest['tokenizer'] == TOKENIZERS.fingerprint
    assert (manifest['split'], manifest['dtype'], manifest['dropped']) == ('train', '<u2', 0)
