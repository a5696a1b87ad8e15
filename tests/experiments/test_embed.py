"""Embedding: files, neighbours and measures, in the order of the lines; mistakes."""

import json
import shutil

import numpy as np
import pytest

from experiments import embed
from xformer.config import UserError

TEXTS = ['abc abc', 'hgfe', 'abc abd', 'hgfe hgf', 'dead', 'abc abc']


@pytest.fixture
def embedded(untrained, capsys):
    """embedded('encoder', ...): the command in this process; (what it printed, as rows; stderr)."""
    def embedded(family: str, *arguments):
        embed.main(['embed', f'--model={untrained(family)}', *map(str, arguments)])
        out, err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()], err
    return embedded


@pytest.fixture
def texts(tmp_path) -> str:
    path = tmp_path / 'texts.txt'
    path.write_text('\n'.join(TEXTS) + '\n')
    return str(path)


@pytest.mark.parametrize('family, pool, width', [
    ('encoder', 'cls', 16), ('classifier', 'mean', 16), ('decoder', 'last4', 64),
    ('seq2seq', 'mean', 16)])
def test_a_file_of_embeddings_keeps_the_order_of_the_lines(family, pool, width, embedded, texts,
                                                           tmp_path):
    rows, err = embedded(family, f'--input={texts}', f'--pool={pool}',
                         f'--output={tmp_path}/e.npz')
    assert rows == [] and err == f'6 embeddings of {width}: {tmp_path}/e.npz\n'
    with np.load(tmp_path / 'e.npz') as arrays:
        assert set(arrays) == {'embeddings', 'texts'} and [*arrays['texts']] == TEXTS
        embeddings_ND = arrays['embeddings']
    assert embeddings_ND.shape == (6, width) and embeddings_ND.dtype == np.float32
    np.testing.assert_array_equal(embeddings_ND[0], embeddings_ND[5])
    assert len(np.unique(embeddings_ND, axis=0)) == 5


def test_embeddings_are_written_as_lines_where_nothing_else_is_asked(embedded, texts, tmp_path):
    rows, _ = embedded('encoder', f'--input={texts}')
    embedded('encoder', f'--input={texts}', f'--output={tmp_path}/e.npz')
    assert [row['text'] for row in rows] == TEXTS
    with np.load(tmp_path / 'e.npz') as arrays:
        np.testing.assert_allclose([row['embedding'] for row in rows], arrays['embeddings'],
                                   atol=1e-6)


def test_neighbours_begin_with_the_text_itself(embedded, texts):
    rows, _ = embedded('encoder', f'--input={texts}', '--query=hgfe', '--query=dead',
                       '--nearest=2')
    assert [row['query'] for row in rows] == ['hgfe', 'hgfe', 'dead', 'dead']
    assert [(row['text'], row['line']) for row in rows[::2]] == [('hgfe', 2), ('dead', 5)]
    for best, second in (rows[:2], rows[2:]):
        assert best['cosine'] == pytest.approx(1, abs=1e-5) and second['cosine'] < 1 - 1e-5


def test_labels_are_measured_against_neighbours_and_clusters(embedded, tmp_path):
    path = tmp_path / 'labelled.tsv'
    path.write_text('x\tabc\nx\tabc\ny\thgfe\ny\thgfe\ny\tdead\n')
    [row], _ = embedded('encoder', f'--input={path}', '--labels', '--clusters=3',
                        f'--output={tmp_path}/e.npz')
    # 'dead' has no twin: its neighbour is of either label
    assert row.pop('neighbour_accuracy') in (0.8, 1.0)
    assert row == {'texts': 5, 'labels': 2, 'floor': 0.6, 'clusters': 3, 'purity': 1.0}
    with np.load(tmp_path / 'e.npz') as arrays:
        assert [*arrays['labels']] == list('xxyyy') and [*arrays['texts']][4] == 'dead'
        a, b, c, d, e = arrays['clusters']
    assert a == b and c == d and len({a, c, e}) == 3


def test_a_split_is_embedded_with_its_labels(untrained, embedded, tmp_path, capsys):
    run = shutil.copytree(untrained('classifier'), tmp_path / 'run')
    rows = [['abc', '', 'yes'], ['abc', 'd', 'no'], ['hgfe', '', 'no'], ['hgfe', '', 'no']]
    (run / 'data').mkdir()
    (run / 'data' / 'test.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (tmp_path / 'labelled.tsv').write_text('yes\tabc\nno\tabc\td\nno\thgfe\nno\thgfe\n')
    wanted, _ = embedded('classifier', f'--input={tmp_path}/labelled.tsv', '--labels')
    for flags, found in (['--labels'], wanted), ([], [{'text': 'abc'}, {'text': 'abc\td'},
                                                     {'text': 'hgfe'}]):
        embed.main(['embed', f'--model={run}', '--split=test', *flags])
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row | found[i] for i, row in enumerate(printed)] == printed and len(
            printed) == len(found)


def test_long_texts_are_cut_only_when_asked(embedded, tmp_path):
    (tmp_path / 'long.txt').write_text('a' * 22 + 'b' * 9 + '\n' + 'a' * 22 + '\n')
    arguments = ['encoder', f'--input={tmp_path}/long.txt', f'--output={tmp_path}/e.npz']
    with pytest.raises(UserError, match='input 1 .* 33 tokens.* takes 24'):
        embedded(*arguments)
    embedded(*arguments, '--cut')
    embeddings_ND = np.load(tmp_path / 'e.npz')['embeddings']
    np.testing.assert_allclose(embeddings_ND[0], embeddings_ND[1], atol=1e-6)


FILE, TEXT = '--output={here}/e.npz', '--input={here}/texts.txt'
MISTAKES = {
    'first token of a decoder': ('decoder', [TEXT, FILE, '--pool=cls'], 'model.family=decoder'),
    'first token of a seq2seq': ('seq2seq', [TEXT, FILE, '--pool=cls'], 'model.family=seq2seq'),
    'neighbours of nothing': ('encoder', [TEXT, FILE, '--nearest=3'], '--nearest .* --query'),
    'seed of nothing': ('encoder', [TEXT, FILE, '--seed=3'], '--seed .* --clusters'),
    'clusters for nothing': ('encoder', [TEXT, '--clusters=2', '--query=a'], '--labels'),
    'more clusters than texts': ('encoder', [TEXT, FILE, '--clusters=6'], '6 clusters .* has 5'),
    'no labels there': ('encoder', [TEXT, '--labels'], 'input 1 .*label<TAB>text'),
    'a split of texts without labels': ('encoder', ['--split=dev', '--labels'],
                                        'model of data.objective=classify, not mlm'),
    'two ways in': ('encoder', [TEXT, '--split=dev'], 'either --input=FILE .* or --split'),
    'another ending': ('encoder', [TEXT, '--output={here}/x.txt'], r'\.npz'),
    'output exists': ('encoder', [TEXT, '--output={here}/there.npz'], 'exists'),
    'binary': ('encoder', ['--input={here}/binary.bin', FILE], 'binary.bin:2 is not valid UTF-8'),
    'empty query': ('encoder', [TEXT, '--query='], 'empty'),
    'missing checkpoint': ('encoder', [TEXT, FILE, '--checkpoint=8'], "'8'"),
}


@pytest.mark.parametrize('case', MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_leave_nothing(case, embedded, texts, tmp_path, contents):
    family, arguments, words = case
    (tmp_path / 'binary.bin').write_bytes(bytes(range(256)))
    (tmp_path / 'there.npz').touch()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        embedded(family, *(each.format(here=tmp_path) for each in arguments))
    assert '\n' not in str(caught.value) and contents(tmp_path) == before


@pytest.mark.parametrize('arguments', [
    '--model=nowhere --input=x --output=x.npz', '--model={run} --input=absent --output=x.npz',
    '--model={run} --input=x', '--model={run} --output=x.npz'])
def test_flags_are_answered_before_jax_with_one_sentence(arguments, answered_early):
    answered_early('embed', arguments)
