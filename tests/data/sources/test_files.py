import collections
import gzip

import pytest

from xformer.config import DataConfig, UserError
from xformer.data.sources import files, prepare_source, read_examples

TEXT_FORMATS = ('lines', 'jsonl', 'documents', 'text')


def pairs_of(split='train', **options):
    return list(read_examples(DataConfig(**options), split))


def texts_of(split='train', **options):
    return [list(document)
            for document in read_examples(DataConfig(objective='lm', **options), split)]


def every(path, **options):
    """The options by which nothing of a file is held out."""
    return dict(train=str(path), dev=str(path), test=str(path), **options)


def written(tmp_path, name, text):
    path = tmp_path / name
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if name.endswith('.gz') else raw)
    return path


@pytest.mark.parametrize('compress', [False, True])
def test_windows_files_gzip_and_other_scripts(tmp_path, compress):
    raw = b'\xef\xbb\xbf' + 'Öl\tΩ\u2028b\r\ną \t 二\r\n\r\n'.encode()
    path = tmp_path / ('a.tsv.gz' if compress else 'a.tsv')
    path.write_bytes(gzip.compress(raw) if compress else raw)
    options = every(path)
    assert pairs_of(**options) == [('Öl', 'Ω\u2028b'), ('ą ', ' 二')]
    assert pairs_of(**options, lowercase_source=True)[0] == ('öl', 'Ω\u2028b')
    assert prepare_source('Öl', DataConfig(lowercase_source=True)) == 'öl'


def test_parallel_and_lines(tmp_path):
    (tmp_path / 'a').write_text('one\ttab\ntwo\n')
    (tmp_path / 'b').write_text('eins\nzwei')
    assert pairs_of(**every(f'{tmp_path}/a,{tmp_path}/b', format='parallel')) == [
        ('one\ttab', 'eins'), ('two', 'zwei')]
    assert pairs_of(**every(tmp_path / 'b', format='lines')) == [
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
    monkeypatch.setattr(files, 'open', refuse, raising=False)
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


def test_reading_streams(tmp_path):
    """A fault far down does not hide the pairs above it."""
    path = tmp_path / 'a.tsv'
    path.write_text('a\tb\n' * 100_000 + 'broken\n')
    pairs = read_examples(DataConfig(train=str(path), dev='d', test='t'), 'train')
    assert next(pairs) == ('a', 'b')
    with pytest.raises(UserError, match=':100001 '):
        collections.deque(pairs, maxlen=0)


@pytest.mark.parametrize('end', ['', '.gz'])
def test_documents_of_every_format(tmp_path, end):
    path = written(tmp_path, f'lines{end}', '\ufeffOne. Two.\nDrei\r\n\n')
    assert texts_of(**every(path, format='lines')) == [['One. Two.'], ['Drei']]
    path = written(tmp_path, f'one{end}', 'a\rb\n')
    assert texts_of(**every(path, format='lines')) == [['a\rb']]
    path = written(tmp_path, f'wiki{end}', ' \n = A = \n\n b\n')
    assert texts_of(**every(path, format='lines')) == [[' = A = '], [' b']]
    path = written(tmp_path, f'wiki-json{end}', '{"text": ""}\n{"text": "a"}\n{"text": "\\n"}\n')
    assert texts_of(**every(path, format='jsonl')) == [['a']]
    path = written(tmp_path, f'json{end}',
                   '{"text": "a\\nb\\r\\n\\n\u2028c"}\n{"text": "d\\n", "id": 1}')
    assert texts_of(**every(path, format='jsonl')) == [['a\n', 'b\r\n', '\n', '\u2028c'], ['d\n']]
    path = written(tmp_path, f'documents{end}', '\n\nA b.\r\n C\n\n \nD\n')
    assert texts_of(**every(path, format='documents')) == [['A b.', ' C'], ['D']]
    path = written(tmp_path, f'more{end}', 'A\nb\n\tc\nd \ne\n')
    assert texts_of(**every(path, format='documents')) == [['A', ' b', '\tc', ' d ', 'e']]
    path = written(tmp_path, f'text{end}', '\ufeffA\r\n\n B')
    assert texts_of(**every(path, format='text')) == [['A\r\n\n', ' B']]
    assert texts_of(**every(path, format='text', lowercase_source=True)) == [['a\r\n\n', ' b']]


def test_json_pairs(tmp_path):
    path = written(tmp_path, 'a.jsonl', '{"source": "\\u00d6l", "target": "x\\ty", "more": [1]}\n')
    assert pairs_of(**every(path, format='jsonl')) == [('Öl', 'x\ty')]
    assert pairs_of(**every(path, format='jsonl', lowercase_source=True)) == [('öl', 'x\ty')]


@pytest.mark.parametrize('line', [
    '{"source": "a"}', '{"source": "a", "target": 3}', '{"source": "a", "target": " "}', '[1]',
    '"source target"', '{"source": "a", "target": "\\ud800"}', '{"source"', 'null', '[' * 100_000])
def test_json_that_is_no_pair_is_one_sentence_with_the_line(tmp_path, line):
    path = written(tmp_path, 'a.jsonl', '{"source": "a", "target": "b"}\n' + line + '\n')
    with pytest.raises(UserError, match=r'a.jsonl:2 must be JSON like .*"source".*"target"'):
        pairs_of(train=str(path), format='jsonl')


@pytest.mark.parametrize('name', TEXT_FORMATS)
@pytest.mark.parametrize('content, message', [
    (b'', 'is empty'), (b'"text" \n\xff', ':2 is not valid UTF-8 .byte 0xff in column 1'),
    (b'\n\r\n', 'is empty')])
def test_faults_of_text_files(tmp_path, name, content, message):
    (tmp_path / 'a').write_bytes(content.replace(b'"text"', b'{"text": "a"}'))
    if name == 'text' and content == b'\n\r\n':
        assert ''.join(*texts_of(**every(tmp_path / 'a', format=name))) == '\n\r\n'  # verbatim
        return
    with pytest.raises(UserError, match=f'a{message}' if message[0] == ':' else message):
        texts_of(train=str(tmp_path / 'a'), format=name)


@pytest.mark.parametrize('block', [1, 2, 7, 100, 2**16])
def test_a_verbatim_text_is_given_whole_in_chunks_cut_at_line_ends(tmp_path, monkeypatch, block):
    monkeypatch.setattr(files, 'BLOCK', block)
    text = ''.join(f'zeile {i} ößΩ二😀{"x" * (i % 23)}\r\n' for i in range(200)) + 'no line end'
    path = written(tmp_path, 'a', text)
    [chunks] = texts_of(**every(path, format='text'))
    assert ''.join(chunks) == text
    longest = max(map(len, text.splitlines(keepends=True)))
    assert all(0 < len(chunk) <= block + longest for chunk in chunks)
    if block == 100:
        assert len(chunks) > 20 and all(chunk.endswith('\r\n') for chunk in chunks[:-1])
    train, dev = (''.join(*texts_of(split, train=str(path), format='text'))
                  for split in ('train', 'dev'))
    assert (train, dev) == (text[:int(len(text) * 0.9)], text[int(len(text) * 0.9):])


def test_a_verbatim_text_streams(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(b'line\n' * 100_000)
    [document] = read_examples(DataConfig(objective='lm', **every(path, format='text')), 'train')
    assert len(next(document)) < 2**17
