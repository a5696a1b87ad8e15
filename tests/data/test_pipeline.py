import os
import threading
import time

import numpy as np
import pytest

from xformer.config import Config, UserError, override
from xformer.data.pipeline import prefetch, prepare
from xformer.data.sources import SPLITS, read_pairs
from xformer.data.tokenizers import train_tokenizers


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'cache'))
    path = tmp_path / 'pairs.tsv'
    path.write_text(''.join(f'w{i}\tT {i} {i % 7}\n' for i in range(1000)))
    return override(Config(), {'data.train': str(path), 'data.target_tokenizer': 'word'})


def test_prepare_then_reuse(config, capfd):
    said = []
    corpus = prepare(config, said.append)
    assert any('dev split: ' in sentence for sentence in said)
    for split in SPLITS:
        pairs = list(read_pairs(config.data, split))
        assert len(corpus.stores[split]) == len(pairs) > 0
        for i, (source, target) in enumerate(pairs):
            assert corpus.tokenizers.source.decode(corpus.stores[split].source(i)) == source
            if split == 'train':  # elsewhere a target may hold a word that train has not
                assert corpus.tokenizers.target.decode(corpus.stores[split].target(i)) == target
    silence = []
    again = prepare(config, silence.append)
    assert silence == [] and again.fingerprint == corpus.fingerprint
    assert capfd.readouterr() == ('', '')


def test_a_moved_file_is_reused_and_a_changed_one_is_not(config, tmp_path):
    first, said = prepare(config), []
    moved = tmp_path / 'moved.tsv'
    os.rename(config.data.train, moved)
    config = override(config, {'data.train': str(moved)})
    assert prepare(config, said.append).fingerprint == first.fingerprint and said == []
    moved.write_text(moved.read_text() + 'w0\tT 1\n')  # w0 is of train
    assert prepare(config).fingerprint != first.fingerprint


@pytest.mark.parametrize('name, value', [
    ('data.lowercase_source', True), ('model.max_length', 64), ('data.too_long', 'drop'),
    ('data.source_tokenizer', 'word'), ('data.format', 'lines')])
def test_every_setting_that_matters_makes_its_own_stores(config, tmp_path, name, value):
    prepare(config)
    prepare(override(config, {name: value}))
    assert len(list((tmp_path / 'cache' / 'stores').iterdir())) == 2


def test_settings_that_do_not_matter_share_the_stores(config):
    prepare(config)
    said = []
    prepare(override(config, {'data.batch_tokens': 99, 'data.vocab_size': 77}), said.append)
    assert said == []


@pytest.mark.parametrize('name', ['train/source.bin', 'dev/manifest.json',
                                  'tokenizers/tokenizer.json'])
def test_a_damaged_cache_is_made_again_and_said(config, tmp_path, name):
    first, said = prepare(config), []
    [path] = (tmp_path / 'cache' / 'stores').glob(f'*/{name}')
    path.write_bytes(path.read_bytes()[:-3])
    assert prepare(config, said.append).fingerprint == first.fingerprint
    assert f'making {path.parent.name} again' in said[0]
    assert (name.split('/')[0] == 'train') == ('tokenising train' in said)
    silence = []
    prepare(config, silence.append)
    assert silence == []


def test_stores_of_another_tokenizer_are_made_again(config, tmp_path):
    prepare(config)
    [folder] = (tmp_path / 'cache' / 'stores').iterdir()
    other = train_tokenizers(config.data, [('w0', 'other words')])
    other.save(folder / 'tokenizers')
    said = []
    stores = prepare(config, said.append).stores.values()
    assert sum('with another tokenizer' in sentence for sentence in said) == 3
    assert {store.manifest['tokenizer'] for store in stores} == {other.fingerprint}


def test_mistakes_leave_no_store(config, tmp_path):
    with pytest.raises(UserError, match='cannot read .*nowhere'):
        prepare(override(config, {'data.train': str(tmp_path / 'nowhere')}))
    with pytest.raises(UserError, match='max_length=3'):
        prepare(override(config, {'model.max_length': 3}))
    assert not list((tmp_path / 'cache').rglob('*.bin'))


def test_a_cache_that_cannot_be_written_is_one_sentence(config, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'file'))
    with pytest.raises(UserError, match='cannot write .*XFORMER_CACHE'):
        prepare(config)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == 'prefetch']


def test_prefetch_gives_every_batch_in_order_with_the_wait():
    def make(i):
        time.sleep(0.05 if i == 3 else 0)
        return np.full(2, i)
    results = list(prefetch(make, 3, 20))
    assert [int(batch[0]) for batch, _ in results] == list(range(3, 20))
    assert results[0][1] >= 0.04 and all(0 <= wait < 10 for _, wait in results)
    assert list(prefetch(make, 5, 5)) == [] and not prefetch_threads()


def test_prefetch_works_ahead_but_not_too_far():
    made, ready = [], threading.Event()

    def make(i):
        made.append(i)
        if i == 3:
            ready.set()
        return i
    batches = prefetch(make, 0, 100, depth=2)
    assert next(batches)[0] == 0
    assert ready.wait(10)  # 0 is taken, 1 and 2 are ready, 3 is in hand
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    batches.close()
    assert not prefetch_threads() and len(made) <= 5


def test_prefetch_raises_the_threads_exception_in_its_place():
    def make(i):
        if i == 2:
            raise UserError('batch two')
        return i
    batches, seen = prefetch(make, 0, 9), []
    with pytest.raises(UserError, match='batch two'):
        for batch, _ in batches:
            seen.append(batch)
    assert seen == [0, 1] and not prefetch_threads()


@pytest.mark.parametrize('depth', [1, 2, 5])
def test_closing_prefetch_ends_its_thread(depth):
    for taken in range(4):
        batches = prefetch(lambda i: i, 0, 10**9, depth)
        for _ in range(taken):
            next(batches)
        batches.close()
        assert not prefetch_threads()
