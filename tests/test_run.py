"""What a run keeps of its held-out texts is what it was trained beside."""

from xformer.config import Config, override
from xformer.data.pipeline import prepare
from xformer.data.sources import read_examples
from xformer.train.folder import create_folder, held_out

LINES = ['a\u2028b', 'c\x85d', '"e" \\ f', 'é', 'g\u2029']


def test_every_kind_of_text_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path / 'cache'))
    for kind, objective, text in (('tsv', 'pairs', ''.join(f'{x}\t{x}\n' for x in LINES)),
                                  ('documents', 'lm', '\n'.join(LINES) + '\n\nh\ni\n'),
                                  ('text', 'lm', 'a b\n' * 200_000)):
        (tmp_path / kind).write_text(text, encoding='utf-8')
        config = override(Config(), {
            'data.objective': objective, 'data.format': kind,
            **dict.fromkeys(('data.train', 'data.dev', 'data.test'), str(tmp_path / kind))})
        (tmp_path / f'{kind}.run').mkdir()
        create_folder(tmp_path / f'{kind}.run', config, prepare(config), {}, {})
        expected = [list(example) for example in read_examples(config.data, 'dev')]
        assert held_out(tmp_path / f'{kind}.run', 'dev') == expected and expected
    assert len(expected[0]) > 1 and ''.join(expected[0]) == text  # one text, in pieces
