"""A file has its old content or its new one, whoever else writes it."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from xformer.files import write_atomically


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path):
    for content in ('é\n', b'\xff'):
        write_atomically(tmp_path / 'a.json', content)
        found = (tmp_path / 'a.json').read_bytes()
        assert found == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_a_write_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    write_atomically(tmp_path / 'a.json', 'old')
    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / 'a.json', 'new')
    assert (tmp_path / 'a.json').read_text() == 'old'
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_of_many_that_write_at_once_one_wins_whole(tmp_path):
    contents = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(tmp_path / 'a.json', content),
                      contents * 5))
    assert (tmp_path / 'a.json').read_text() in contents
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
