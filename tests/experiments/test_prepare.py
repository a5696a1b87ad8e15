"""What is prepared is what training finds: nothing is made again, under the same fingerprint."""

import json

import pytest

from experiments import prepare
from xformer.config import UserError


def test_training_finds_what_was_prepared(shared, run, tmp_path, monkeypatch, without_jax):
    (tmp_path / 'tiny.py').write_text((shared / 'tiny.py').read_text())
    cache = {'XFORMER_CACHE': str(tmp_path / 'cache')}
    prepared = run('prepare', '--config=tiny.py', env=cache | without_jax)
    assert prepared.returncode == 0, prepared.stderr
    assert 'tokenising train' in prepared.stderr
    printed = dict(line.split(maxsplit=1) for line in prepared.stdout.splitlines())
    trained = run('train', '--config=tiny.py', '--workdir=run', '--config.train.steps=2', env=cache)
    assert trained.returncode == 0 and 'tokenising' not in trained.stderr
    manifest = json.loads((tmp_path / 'run' / 'manifest.json').read_text())
    assert printed['fingerprint'] == manifest['data_fingerprint']
    assert printed['train'].split()[0] == str(manifest['examples']['train'])


def test_mistakes():
    with pytest.raises(UserError, match='--config is missing'):
        prepare.main(['prepare'])
    with pytest.raises(UserError, match='there is no experiment'):
        prepare.main(['prepare', '--config=nothing_of_the_kind'])
    with pytest.raises(UserError, match='data.dataset'):
        prepare.main(['prepare', '--config=g2p_quickstart', '--config.data.dataset='])
