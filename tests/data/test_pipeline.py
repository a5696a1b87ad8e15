import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xformer.config import Config, UserError, override
from xformer.data import store as store_module
from xformer.data.pipeline import prefetch, prepare
from xformer.data.sources import SPLITS, read_examples
from xformer.data.tokenizers import train_tokenizers


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'cache'))
    path = tmp_path / 'pairs.tsv'
    path.write_text(''.join(f'w{i}\tT {i} {i % 7}\n' for i in range(1000)))
    return override(Config(), {'data.train': str(path), 'data.target_tokenizer': 'word'})


@pytest.fixture
def text_config(config, tmp_path):
    path = tmp_path / 'texts'
    path.write_text(''.join(f'Document {i}.\nEnd of {i}.\n\n' for i in range(500)))
    return override(Config(), {'data.train': str(path), 'data.objective': 'lm',
                               'data.format': 'documents', 'data.tokenizer': 'bytes'})


def test_prepare_then_reuse(config, capfd):
    said = []
    corpus = prepare(config, said.append)
    assert any('dev split: ' in sentence for sentence in said)
    for split in SPLITS:
        pairs, columns = list(read_examples(config.data, split)), corpus.stores[split].columns
        assert len(corpus.stores[split]) == len(pairs) > 0
        for i, (source, target) in enumerate(pairs):
            assert corpus.tokenizers.source.decode(columns['source'][i]) == source
            if split == 'train':  # elsewhere a target may hold a word that train has not
                assert corpus.tokenizers.target.decode(columns['target'][i]) == target
    silence = []
    again = prepare(config, silence.append)
    assert silence == [] and again.fingerprint == corpus.fingerprint
    assert capfd.readouterr() == ('', '')


def test_texts_become_sentences_of_documents(text_config):
    said = []
    corpus = prepare(text_config, said.append)
    for split in SPLITS:
        store = corpus.stores[split]
        counted = f'{split} split: {len(store)} documents, {2 * len(store)} sentences, '
        assert any(sentence.startswith(counted) for sentence in said)
        for document, start in zip(read_examples(text_config.data, split), store.documents):
            column = store.columns['text']
            assert [corpus.tokenizers.source.decode(column[start + i]) for i in (0, 1)] == document
    assert prepare(text_config).fingerprint == corpus.fingerprint


def test_one_verbatim_text_has_no_test_split(text_config):
    corpus = prepare(override(text_config, {'data.format': 'text'}))
    assert [*corpus.stores] == ['train', 'dev']
    halves = [corpus.tokenizers.source.decode(store.columns['text'].ids)
              for store in corpus.stores.values()]
    assert ''.join(halves) == Path(text_config.data.train).read_text()


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
    ('data.tokenizer', 'word'), ('data.format', 'lines')])
def test_every_setting_that_matters_makes_its_own_stores(config, tmp_path, name, value):
    prepare(config)
    prepare(override(config, {name: value}))
    assert len(list((tmp_path / 'cache' / 'stores').iterdir())) == 2


@pytest.mark.parametrize('name, value', [('data.objective', 'mlm'), ('data.format', 'text')])
def test_every_setting_of_texts_that_matters_makes_its_own_stores(
        text_config, tmp_path, name, value):
    prepare(text_config)
    prepare(override(text_config, {name: value}))
    assert len(list((tmp_path / 'cache' / 'stores').iterdir())) == 2


def test_settings_that_do_not_matter_share_the_stores(config, text_config):
    said = []
    prepare(config)
    prepare(override(config, {'data.batch_tokens': 99, 'data.vocab_size': 77}), said.append)
    assert said == []
    prepare(text_config)
    prepare(override(text_config, {'model.max_length': 5, 'data.too_long': 'drop'}), said.append)
    assert said == []


def test_stores_do_not_depend_on_the_labels_of_the_model_that_training_begins_with(config):
    tokenizers, said = prepare(config).tokenizers, []
    first = prepare(config, given=tokenizers)
    again = prepare(config, said.append, given=replace(tokenizers, labels=('no', 'yes')))
    assert said == [] and again.fingerprint == first.fingerprint


def test_another_tokenizer_file_of_the_same_name_makes_its_own_stores(config, tmp_path):
    vocabulary, fingerprints = tmp_path / 'vocab.txt', set()
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    config = override(config, {
        'data.tokenizer_file': str(vocabulary), 'data.tokenizer': 'wordpiece',
        'data.target_tokenizer': ''})
    for pieces in ('wT', 'Tw'):
        digits = [*'0123456789', *(f'##{digit}' for digit in range(10))]
        vocabulary.write_text('\n'.join([*special, *pieces, *digits]) + '\n')
        fingerprints.add(prepare(config).fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize('name', ['train/source.ids.bin', 'dev/manifest.json', 'tokenizers/*.json'])
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


def test_a_killed_preparation_goes_on_where_it_was(config, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, 'BATCH_ROWS', 50)
    monkeypatch.setattr(store_module, 'COMMIT_CHARACTERS', 0)
    layout, calls = store_module.LAYOUTS['pairs'], []

    def killed(batch, tokenizers):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return layout.encode(batch, tokenizers)
    with monkeypatch.context() as patch:
        patch.setitem(store_module.LAYOUTS, 'pairs', layout._replace(encode=killed))
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    said = []
    corpus = prepare(config, said.append)
    assert said[:2] == ['tokenising train', 'going on with train after 200 examples, which an '
                        'earlier attempt tokenised']
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'other'))
    assert prepare(config).fingerprint == corpus.fingerprint


def test_of_two_processes_one_prepares_and_the_other_waits(config):
    said, corpora = {}, {}

    def run(name):  # flock holds between open files, so two threads act as two processes do
        corpora[name] = prepare(config, said.setdefault(name, []).append)
    threads = [threading.Thread(target=run, args=[name]) for name in 'ab']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert corpora['a'].fingerprint == corpora['b'].fingerprint
    assert sum('tokenising train' in sentences for sentences in said.values()) == 1


def test_a_cache_that_cannot_be_written_is_one_sentence(config, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'file'))
    with pytest.raises(UserError, match='cannot write .*XFORMER_CACHE'):
        prepare(config)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == 'prefetch']


def test_prefetch_gives_every_batch_in_order_with_the_wait():
    def make(i):
        time.sleep(0.3 if i == 3 else 0)
        return np.full(2, i)
    results = list(prefetch(make, 3, 20))
    assert [int(batch[0]) for batch, _ in results] == list(range(3, 20))
    assert results[0][1] >= 0.1 and all(0 <= wait < 10 for _, wait in results)
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
