"""The ledger: what may be said of figures, by hand; its table; and a result reproduced in small."""

import json

import pytest

from experiments import configs, ledger, reproduce
from experiments.ledger import RESULTS, Line, status
from xformer.checks import validate
from xformer.config import UserError, override

HIGHER = Line('x', 'scan', 90.0, 'exact_match', '%')
LOWER = Line('x', 'scan', 1.88, 'nll', 'nats', 'lower')


@pytest.mark.parametrize('line, values, protocol, expected', [
    (HIGHER, [90.0, 92.0], '', 'reproduced'), (LOWER, [1.87], '', 'reproduced'),
    (HIGHER, [88.3], '', 'close'),  # 1.9 % less
    (HIGHER, [88.1], '', 'missed'),
    (LOWER, [1.91], '', 'close'), (LOWER, [1.93], '', 'missed'),
    (HIGHER, [80.0, 86.0, 92.0], '', 'close'),  # mean 86, sd 6
    (HIGHER, [85.0, 86.0, 87.0], '', 'missed'),  # sd 1
    (HIGHER, [95.0], 'another split', 'not comparable'),
    (Line('x', 'scan', None, 'exact_match', '%'), [1.0], '', 'for comparison')])
def test_what_may_be_said(line, values, protocol, expected):
    assert status(line, values, protocol) == expected


@pytest.mark.parametrize('name', RESULTS)
def test_every_result_names_what_there_is(name):
    result = RESULTS[name]
    assert result.lines and result.source and result.hours > 0
    assert len({line.label for line in result.lines}) == len(result.lines)
    for line in result.lines:
        validate(override(configs.load(line.config)[1], line.settings))
        assert line.better in ('higher', 'lower') and line.split in ('dev', 'test')


def test_the_table_in_the_repository_is_the_generated_one():
    assert reproduce.TABLE.read_text() == ledger.table(reproduce.recorded())


def test_the_table_says_what_was_found_and_what_was_not_run():
    record = {'lines': {'validation, 20 random batches': {
        'values': [1.9, 1.91, 1.92], 'status': 'close'}}, 'seeds': 3, 'minutes': 1.25,
        'hardware': 'two cores', 'date': '2026-11-23', 'data': ['f' * 64], 'commit': 'a' * 40}
    lines = ledger.table({'shakespeare_char_cpu': record}).splitlines()
    assert ('| [Characters of Shakespeare, the setting for a laptop](#shakespeare_char_cpu) | '
            'validation, 20 random batches, nats a character | 1.88 | 1.910 ± 0.010 | 3 | close |'
            ) in lines
    assert any('not run: needs 9 hours a seed on 2 CPU cores' in line for line in lines)
    assert any('1.2 minutes of training a run on two cores' in line for line in lines)


def test_mistakes():
    for flags, sentence in (([], 'give --result=NAME'),
                            (['--result=multi3k'], "did you mean 'multi30k'")):
        with pytest.raises(UserError, match=sentence):
            reproduce.main(['reproduce', *flags])


def test_a_result_in_small_records_nothing(tmp_path, monkeypatch, environment, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reproduce, 'FOLDER', tmp_path / 'results')
    monkeypatch.setattr(reproduce, 'TABLE', tmp_path / 'RESULTS.md')
    command = ['reproduce', '--result=shakespeare_char_cpu', '--seeds=1',
               f'--workdir={tmp_path / "runs"}']
    if not (configs.load('lm_shakespeare_char')[1].data.dataset and 'XFORMER_DATA' in environment):
        pytest.skip('needs $XFORMER_DATA')
    reproduce.main([*command, '--smoke'])
    assert '(published 1.88): missed' in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ['runs']
    run = tmp_path / 'runs/shakespeare_char_cpu-smoke/lm_shakespeare_char/seed-0'
    nll = json.loads((run / 'eval/dev.json').read_text())['metrics']['nll']
    assert 2 < nll < 5
