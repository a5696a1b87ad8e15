import itertools
import json
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from xformer.config import UserError
from xformer.data import store as store_module
from xformer.data.store import build_store, open_store

EOS = 2


class Letters:
    """A tokenizer as small as can be: 'a' is 3, 'b' is 4, ..."""

    def __init__(self):
        self.calls = []

    def encode(self, text):
        return [3 + ord(letter) - ord('a') for letter in text]

    def encode_batch(self, texts):
        self.calls.append(texts)
        return [self.encode(text) for text in texts]


def letters(vocab_size=30):
    return SimpleNamespace(source=Letters(), target=Letters(), vocab_size=vocab_size,
                           fingerprint='of the letters', special=SimpleNamespace(eos=EOS),
                           template=None)


def words(rng, most):
    return ''.join(rng.choices('abcde', k=rng.randint(1, most)))


def random_pairs(count=1000, seed=0):
    rng = random.Random(seed)
    return [(words(rng, 12), words(rng, 9)) for _ in range(count)]


def random_documents(count=200, seed=0):
    rng = random.Random(seed)
    return [[words(rng, 12) for _ in range(rng.randint(1, 9))] for _ in range(count)]


PAIRS, DOCUMENTS = random_pairs(), random_documents()
EXAMPLES = {'pairs': PAIRS, 'texts': DOCUMENTS}


def build(folder, examples=PAIRS, tokenizers=None, **options):
    return build_store(folder, iter(examples), tokenizers or letters(),
                       **{'split': 'train', 'kind': 'pairs', 'max_length': 100, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('rows, characters', [(1, 2**20), (7, 2**20), (4096, 2**20), (4096, 30)])
def test_a_store_holds_what_encoding_in_memory_gives_whatever_the_batches(
        tmp_path, monkeypatch, rows, characters):
    tokenizers = letters()
    pairs, texts = build(tmp_path / 'p'), build(tmp_path / 't', DOCUMENTS, kind='texts')
    monkeypatch.setattr(store_module, 'BATCH_ROWS', rows)
    monkeypatch.setattr(store_module, 'BATCH_CHARACTERS', characters)
    build(tmp_path / 'p2', tokenizers=tokenizers), build(tmp_path / 't2', DOCUMENTS, kind='texts')
    assert contents(tmp_path / 'p') == contents(tmp_path / 'p2')
    assert contents(tmp_path / 't') == contents(tmp_path / 't2')
    assert all(len(call) <= rows and sum(map(len, call[:-1])) < characters
               for call in tokenizers.source.calls)

    encode = tokenizers.source.encode
    assert len(pairs) == len(pairs.columns['source']) == len(PAIRS) and pairs.documents is None
    for i, (source, target) in enumerate(PAIRS):
        assert pairs.columns['source'][i].tolist() == encode(source) + [EOS]
        assert pairs.columns['target'][i].tolist() == encode(target) + [EOS]
    assert pairs.manifest['source_tokens'] == sum(len(source) + 1 for source, _ in PAIRS)

    column = texts.columns['text']
    assert len(texts) == len(DOCUMENTS) and len(texts.documents) == len(DOCUMENTS) + 1
    for d, document in enumerate(DOCUMENTS):
        *others, last = range(texts.documents[d], texts.documents[d + 1])
        assert [column[i].tolist() for i in others] == list(map(encode, document[:-1]))
        assert column[last].tolist() == encode(document[-1]) + [EOS]
    stream = [i for document in DOCUMENTS for i in [*encode(''.join(document)), EOS]]
    assert column.ids.tolist() == stream  # documents end to end


def test_nothing_is_in_private_memory(tmp_path):
    store = build(tmp_path / 't', DOCUMENTS, kind='texts')
    arrays = [store.documents, store.columns['text'].ids, store.columns['text'].offsets]
    assert all(isinstance(array, np.memmap) and array.mode == 'r' for array in arrays)


def test_documents_may_be_iterators_and_empty_ones_leave_no_trace(tmp_path):
    lazy = (iter(document) for document in [[], *DOCUMENTS, []])
    store = build(tmp_path / 'lazy', lazy, kind='texts')
    assert store.fingerprint == build(tmp_path / 'lists', DOCUMENTS, kind='texts').fingerprint


@pytest.mark.parametrize('other', [('ba', 'cd'), ('ab', 'dc'), ('a', 'cd'), ('ab', 'c')])
def test_fingerprint_tells_other_ids_and_other_lengths_apart(tmp_path, other):
    a, b = (build(tmp_path / name, [pair]) for name, pair in (('a', ('ab', 'cd')), ('b', other)))
    assert a.fingerprint != b.fingerprint


def test_fingerprint_tells_where_sentences_and_documents_end(tmp_path):
    corpora = [[['ab', 'c']], [['a', 'bc']], [['abc']], [['ab'], ['c']]]
    stores = [build(tmp_path / str(i), corpus, kind='texts') for i, corpus in enumerate(corpora)]
    assert len({store.fingerprint for store in stores}) == len(corpora)


def test_large_vocabularies_use_wide_ids(tmp_path):
    for size, dtype in ((2**16, np.uint16), (2**16 + 1, np.uint32)):
        tokenizers = letters(size)
        tokenizers.target.encode = lambda text: [65535]
        store = build(tmp_path / str(size), [('a', 'b')], tokenizers)
        assert store.columns['target'].ids.dtype == dtype
        assert store.columns['target'][0].tolist() == [65535, EOS]


def test_too_long_is_refused_by_ordinal_or_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, 'BATCH_ROWS', 4)
    pairs = PAIRS[:10] + [('e' * 60, 'a')] + PAIRS[10:20] + [('a', 'b' * 52)]
    with pytest.raises(UserError, match=r"example 11 of dev \('eeee.* 61 source and 2 target.*"
                                        r'too_long=drop .* --config.model.max_length=61'):
        build(tmp_path / 'dev', pairs, split='dev', max_length=50)
    assert list(tmp_path.iterdir()) == []
    store = build(tmp_path / 'dev', pairs, split='dev', max_length=50, too_long='drop')
    assert (len(store), store.manifest['dropped']) == (20, 2)
    assert store.fingerprint == build(tmp_path / 'kept', PAIRS[:20]).fingerprint
    assert len(build(tmp_path / 'fits', pairs, max_length=61)) == 22  # EOS counts


def test_both_sides_of_a_pair_in_one_text_are_limited_together(tmp_path):
    pairs = [('a' * 30, 'b' * 18), ('a' * 30, 'b' * 19), ('a', 'b' * 70)]  # and two EOS
    options = {'kind': 'joined pairs', 'max_length': 50}
    with pytest.raises(UserError, match='example 2 of train .* 31 source and 20 target'):
        build(tmp_path / 'all', pairs, **options)
    assert len(build(tmp_path / 'kept', pairs, too_long='drop', **options)) == 1
    cut = build(tmp_path / 'cut', pairs, too_long='cut', **options)
    source, target = (cut.columns[name] for name in ('source', 'target'))
    assert [(len(source[i]), len(target[i])) for i in range(3)] == [(31, 19), (30, 20), (1, 49)]
    assert all(column[i][-1] == EOS for column in (source, target) for i in range(3))


@pytest.mark.parametrize('examples, kind, message', [
    ([], 'pairs', 'the dev split has no pairs; give --config.data.dev=FILE'),
    ([[]], 'texts', 'the dev split has no texts; give --config.data.dev=FILE'),
    ([('abcabc', 'a')], 'pairs', 'all 1 were too long; set a larger --config.model.max_length')])
def test_a_split_without_examples_is_refused(tmp_path, examples, kind, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path / 'dev', examples, split='dev', kind=kind, max_length=3, too_long='drop')
    assert list(tmp_path.iterdir()) == []


def build_until_killed(folder, kind, at):
    """A build whose process ends for good when it has read `at` examples."""
    def deadly():
        yield from EXAMPLES[kind][:at]
        signal.raise_signal(signal.SIGKILL)
    store_module.BATCH_ROWS, store_module.COMMIT_CHARACTERS = 16, 300
    build(Path(folder), deadly(), kind=kind)


@pytest.mark.parametrize('kind, at', [('pairs', 10), ('pairs', 500), ('pairs', 999),
                                      ('texts', 111)])
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tmp_path, kind, at):
    code = (f'import runpy; runpy.run_path({__file__!r})["build_until_killed"]'
            f'({str(tmp_path / "train")!r}, {kind!r}, {at})')
    for _ in range(2):  # killed twice
        done = subprocess.run([sys.executable, '-c', code], env={'PYTHONPATH': ':'.join(sys.path)})
        assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ['.train.unfinished']

    said, heard, tokenizers = [], [], letters()
    build(tmp_path / 'train', EXAMPLES[kind], tokenizers, kind=kind, say=said.append,
          progress=lambda *done: heard.append(done))
    unbroken = build(tmp_path / 'unbroken', EXAMPLES[kind], kind=kind)
    assert contents(tmp_path / 'train') == contents(tmp_path / 'unbroken')
    assert len(list(tmp_path.iterdir())) == 2
    again = sum(map(len, tokenizers.source.calls))
    every = unbroken.manifest['rows']
    if at == 10:  # less than what is committed at once: nothing was saved
        assert again == every and said == []
    else:
        assert 0 < again < every * (1 - at / len(EXAMPLES[kind])) + 60
        assert 'going on with train after' in said[0]
        assert 0 < heard[-1][0] < len(EXAMPLES[kind])


@pytest.mark.parametrize('what', ['tokenizer', 'limit'])
def test_what_was_made_otherwise_is_not_gone_on_from(tmp_path, monkeypatch, what):
    def interrupted():
        yield from PAIRS[:500]
        raise KeyboardInterrupt
    monkeypatch.setattr(store_module, 'COMMIT_CHARACTERS', 0)
    monkeypatch.setattr(store_module, 'BATCH_ROWS', 16)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / 'train', interrupted())
    other, limit, said = letters(), 100 if what == 'tokenizer' else 99, []
    other.fingerprint = 'another' if what == 'tokenizer' else other.fingerprint
    build(tmp_path / 'train', tokenizers=other, max_length=limit, say=said.append)
    assert said == ['beginning train again: what an earlier attempt left is of no use']
    build(tmp_path / 'unbroken', tokenizers=other, max_length=limit)
    assert contents(tmp_path / 'train') == contents(tmp_path / 'unbroken')


def test_a_mistake_in_the_examples_leaves_nothing(tmp_path):
    def mistaken():
        yield from PAIRS[:50]
        raise UserError('line 51')
    with pytest.raises(UserError, match='line 51'):
        build(tmp_path / 'train', mistaken())
    assert list(tmp_path.iterdir()) == []


def test_refusals_of_the_system_are_one_sentence_and_the_next_attempt_succeeds(
        tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'cannot write .*file.train \(.*XFORMER_CACHE'):
        build(tmp_path / 'file' / 'train')
    monkeypatch.setattr(store_module, 'BATCH_ROWS', 16)
    monkeypatch.setattr(store_module, 'COMMIT_CHARACTERS', 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # acts like a full disk
    try:
        with pytest.raises(UserError, match=r'cannot write .*train \(File too large\)'):
            build(tmp_path / 'train')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / 'train').exists()
    said = []
    store = build(tmp_path / 'train', say=said.append)
    assert 'going on with train' in said[0]
    assert store.fingerprint == build(tmp_path / 'unbroken').fingerprint


def test_an_existing_folder_is_not_overwritten(tmp_path):
    build(tmp_path / 'train')
    with pytest.raises(UserError, match='exists already'):
        build(tmp_path / 'train', PAIRS[:9])
    assert len(open_store(tmp_path / 'train')) == len(PAIRS)


FILES = {'pairs': ['source.ids.bin', 'target.ids.bin', 'source.offsets.bin', 'target.offsets.bin',
                   'manifest.json'],
         'texts': ['text.ids.bin', 'text.offsets.bin', 'documents.bin', 'manifest.json']}


@pytest.mark.parametrize('kind, name', [(kind, name) for kind in FILES for name in FILES[kind]])
def test_a_damaged_store_is_not_opened(tmp_path, kind, name):
    build(tmp_path / 'train', EXAMPLES[kind], kind=kind)
    assert sorted(contents(tmp_path / 'train')) == sorted(FILES[kind])
    path = tmp_path / 'train' / name
    raw = path.read_bytes()
    for damaged in (b'', raw[:-2], raw[:-8], raw + bytes(1), raw + raw[-8:], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(UserError, match='damaged'):
            open_store(tmp_path / 'train')


def test_manifest_is_plain_json(tmp_path):
    store = build(tmp_path / 'train')
    manifest = json.loads((tmp_path / 'train' / 'manifest.json').read_text())
    assert manifest == store.manifest
    assert manifest['tokenizer'] == 'of the letters'
    assert [manifest[name] for name in ('kind', 'split', 'dtype', 'dropped', 'examples')] == [
        'pairs', 'train', '<u2', 0, len(PAIRS)]


def test_progress_counts_examples_and_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, 'BATCH_ROWS', 100)
    heard = []
    store = build(tmp_path / 'train', progress=lambda *done: heard.append(done))
    assert len(heard) == 10 and all(a < b for a, b in itertools.pairwise(heard))
    assert heard[-1] == (1000, sum(len(column.ids) for column in store.columns.values()))
