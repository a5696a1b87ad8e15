"""A run folder goes on only with the data it was begun with, and says what else is other."""

import subprocess
from types import SimpleNamespace

import pytest

from xformer.config import Config, UserError
from xformer.train import folder
from xformer.train.folder import commit_of_code, create_folder


class Store:
    manifest: dict = {}

    def __init__(self, fingerprint):
        self.fingerprint = fingerprint

    def __len__(self):
        return 3


@pytest.fixture
def create(tmp_path):
    """create(train, dev, count): with data and devices of these fingerprints and this number."""
    (tmp_path / 'held_out').mkdir()
    (tmp_path / 'run').mkdir()

    def create(train='a', dev='b', count=1):
        create_folder(tmp_path / 'run', Config(), SimpleNamespace(
            fingerprint=train, stores={'train': Store(train), 'dev': Store(dev)},
            tokenizers=SimpleNamespace(save=lambda folder: None),
            held_out=tmp_path / 'held_out'), {'count': count, 'kind': 'cpu'}, {})
    create()
    return create


def test_the_same_run_goes_on_without_a_word(create, capsys):
    create()
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('changed, sentence', [
    ({'train': 'c'}, 'the training data are not those'), ({'dev': 'c'}, 'the dev split is not')])
def test_other_data_are_refused(changed, sentence, create):
    with pytest.raises(UserError, match=f'{sentence} .* --workdir'):
        create(**changed)


def test_other_devices_are_told(create, capsys):
    create(count=4)
    assert 'begun on count 1, kind cpu, going on with count 4, kind cpu' in capsys.readouterr().err


def test_results_are_no_changes_of_the_code(tmp_path, monkeypatch):
    def git(*command):
        return subprocess.run(['git', '-c', 'user.name=x', '-c', 'user.email=x@y.z', *command],
                              cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    files = tmp_path / 'code/module.py', tmp_path / 'RESULTS.md', tmp_path / 'results/one.json'
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_text('')
    monkeypatch.setattr(folder, '__file__', str(files[0]))
    assert commit_of_code() == ''
    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'x')
    [head] = git('rev-parse', 'HEAD').splitlines()
    for path, expected in zip(reversed(files), (head, head, f'{head}+changes')):
        path.write_text('more')
        assert commit_of_code() == expected
