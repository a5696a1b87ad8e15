"""A file has its old content or its new one, and the name it is written under is known."""

import os

import pytest

from xformer.files import write_atomically


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path):
    for content in ('é\n', b'\xff'):
        write_atomically(tmp_path / 'a.json', content)
        found = (tmp_path / 'a.json').read_bytes()
        assert found == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_a_write_cut_short_leaves_the_old_file_and_a_known_name(tmp_path, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    write_atomically(tmp_path / 'a.json', 'old')
    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / 'a.json', 'new')
    assert (tmp_path / 'a.json').read_text() == 'old'
    assert {path.name for path in tmp_path.iterdir()} == {'a.json', 'a.json.tmp'}
