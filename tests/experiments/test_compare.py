"""What runs differ in, against folders whose contents are known."""

import json

import pytest

from experiments import compare
from xformer.config import Config, UserError, override, to_json


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run('name', settings, dev losses by step, metrics of eval/test.json)."""
    monkeypatch.chdir(tmp_path)

    def run(name, settings, losses, measured=None):
        folder = tmp_path / name
        (folder / 'eval').mkdir(parents=True)
        (folder / 'config.json').write_text(to_json(override(Config(), settings)))
        (folder / 'metrics.jsonl').write_text(''.join(
            json.dumps({'step': step, 'loss': 9.0} | ({'dev/loss': loss} if loss else {})) + '\n'
            for step, loss in losses.items()))
        if measured:
            (folder / 'eval' / 'test.json').write_text(json.dumps({'metrics': measured}))
        return name
    return run


def printed(capsys, *arguments):
    compare.main(['compare', *arguments])
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_settings_and_measures_that_differ_have_a_column_a_run(run, capsys):
    run('one', {'model.d_model': 64}, {5: None, 10: 2.5, 20: 3.0}, {'per': 0.25, 'signature': 'x'})
    run('two', {'model.d_model': 128}, {10: 2.0, 20: 1.25})
    assert printed(capsys, 'one', 'two') == [
        ['one', 'two'], ['model.d_model', '64', '128'], ['step', '10', '20'],
        ['dev/loss', '2.5', '1.25'], ['test', 'per', '0.25']]
    compare.main(['compare', 'one', 'two', '--csv'])
    assert capsys.readouterr().out.splitlines()[0] == ',one,two'


def test_seeds_have_a_mean_and_a_standard_deviation(run, capsys):
    names = [run(f'seed{seed}', {'train.seed': seed}, {10: loss}, {'bleu': bleu})
             for seed, (loss, bleu) in enumerate([(1.0, 20.0), (2.0, 22.0), (3.0, 24.0)])]
    rows = printed(capsys, *names)
    assert rows[0] == [*names, 'mean', 'sd']
    assert ['dev/loss', '1', '2', '3', '2', '1'] in rows
    assert ['test', 'bleu', '20', '22', '24', '22', '2'] in rows


def test_a_run_given_twice_is_not_two_seeds(run, capsys):
    run('one', {'train.seed': 1}, {5: 2.0})
    run('two', {'train.seed': 2}, {5: 3.0})
    assert printed(capsys, 'one', 'one')[0] == ['one', 'one']
    assert printed(capsys, 'one', 'two', 'one')[0] == ['one', 'two', 'one']


def test_the_best_step_is_what_the_run_itself_calls_the_best(run, capsys):
    best = {'train.best_by': 'dev/loss:max'}
    run('one', best, {10: 2.5, 20: 3.0})
    run('two', best | {'model.d_ff': 8}, {10: 2.0, 20: 1.25})
    assert ['dev/loss', '3', '2'] in printed(capsys, 'one', 'two')


def test_mistakes(run, tmp_path):
    run('one', {}, {10: 1.0})
    for arguments, sentence in ((['one'], 'two run folders or more'),
                                (['one', 'nowhere'], 'nowhere is not a run folder')):
        with pytest.raises(UserError, match=sentence):
            compare.main(['compare', *arguments])
    (tmp_path / 'one' / 'eval').mkdir(exist_ok=True)
    (tmp_path / 'one' / 'eval' / 'dev.json').write_text('{')
    with pytest.raises(UserError, match='dev.json is damaged'):
        compare.main(['compare', 'one', 'one'])
