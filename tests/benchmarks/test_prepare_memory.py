"""The measurement sees what is allocated, and its corpora are what they are said to be."""

import json
import os
import time

import numpy as np
import pytest

from benchmarks import prepare_memory

pytestmark = pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='reads Linux /proc')


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Chunks of 2,000 lines, few updates of one shape; the cache is given back after the test."""
    monkeypatch.setitem(prepare_memory.MODEL, 'train.steps', 3)
    monkeypatch.setitem(prepare_memory.MODEL, 'data.max_buckets', 1)
    monkeypatch.setattr(prepare_memory, 'CHUNK', 2000)
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path))


def test_the_peak_counts_memory_that_was_given_back():
    def work():
        ones = np.ones(8_000_000)  # 64 MB
        time.sleep(0.2)  # some ten samples
        return int(ones.sum())

    before = prepare_memory.private_mb()
    result, row = prepare_memory.watched(work)
    assert result == 8_000_000
    assert row['peak_mb'] > before + 50 and row['seconds'] >= 0.2


def test_what_fails_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        prepare_memory.watched(lambda: 1 / 0)


def test_corpora_have_the_size_and_form_they_are_said_to_have(tmp_path):
    prepare_memory.write_pairs(tmp_path / 'pairs', 0.004)
    pairs = [line.split('\t') for line in (tmp_path / 'pairs').read_text().splitlines()]
    assert len(pairs) == 4000 and all(source and target for source, target in pairs)
    prepare_memory.write_texts(tmp_path / 'texts', 0.2)
    text = (tmp_path / 'texts').read_text()
    assert 0.2e6 <= len(text) < 0.5e6
    sentences = [len(document.splitlines()) for document in text.strip().split('\n\n')]
    assert 15 < np.mean(sentences) < 25


@pytest.mark.parametrize(('kind', 'size'), [('pairs', 0.004), ('texts', 0.5)])
def test_each_kind_is_prepared_and_trained_on(tmp_path, capsys, kind, size):
    prepare_memory.measure(kind, size, tmp_path)
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row['kind'] == kind
    lines = (tmp_path / 'train').read_text().split('\n\n' if kind == 'texts' else '\n')
    assert row['examples'] == len([line for line in lines if line.strip()])
    tokens = len((tmp_path / 'train').read_bytes())  # one a byte; ends stand for tabs and line ends
    assert row['tokens'] == pytest.approx(tokens, rel=0.05)
    for part in ('prepare', 'train'):
        assert row[part]['peak_mb'] > 0
