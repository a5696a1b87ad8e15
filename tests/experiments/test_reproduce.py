"""The ledger: what may be said of figures, by hand; its table; and a result reproduced in small."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments import configs, ledger, reproduce
from experiments.ledger import RESULTS, Line, Result, status, verdicts
from xformer.checks import validate
from xformer.config import UserError, override, writes_outputs
from xformer.evaluate.scores import score

HIGHER = Line('x', 'scan', 90.0, 'exact_match', '%')
NEAR = Line('x', 'scan', 0.5, 'exact_match', '%', 'near', within=1.0)
TALLER = Line('x', 'scan', 25.5, 'bleu', 'BLEU')
LOWER = Line('x', 'scan', 1.88, 'nll', 'nats', 'lower')


@pytest.mark.parametrize('line, values, protocol, expected', [
    (HIGHER, [90.0, 92.0], '', 'reproduced'), (LOWER, [1.87], '', 'reproduced'),
    (HIGHER, [89.81], '', 'close'),  # of the 10 points of errors, 1.9 % more
    (HIGHER, [89.7], '', 'missed'),
    (TALLER, [25.0], '', 'close'), (TALLER, [24.9], '', 'missed'),  # 1.9 % less, and 2.4
    (LOWER, [1.91], '', 'close'), (LOWER, [1.93], '', 'missed'),
    (HIGHER, [80.0, 86.0, 92.0], '', 'close'),  # mean 86, sd 6
    (HIGHER, [85.0, 86.0, 87.0], '', 'missed'),  # sd 1
    (NEAR, [0.4, 0.6], '', 'reproduced'), (NEAR, [80.0], '', 'missed'),
    (NEAR, [2.0, 4.0], '', 'close'),  # 1.5 beyond, sd 1.4
    (HIGHER, [95.0], 'another split', 'not comparable'),
    (Line('x', 'scan', None, 'exact_match', '%'), [1.0], '', 'for comparison')])
def test_what_may_be_said(line, values, protocol, expected):
    assert status(line, values, protocol) == expected


BASE = (25.8, [24.0, 24.5, 25.0])


@pytest.mark.parametrize('published, values, base, expected', [
    (25.0, [20.0], (25.8, [25.0]), 'one seed decides nothing'),
    # sd 0.5 of three seeds, t 4.303: a single run may differ by 2.48
    (25.0, [22.1], BASE, 'within the noise of seeds'), (25.0, [22.0], BASE, 'moves as published'),
    (25.0, [27.0], BASE, 'moves otherwise'), (26.0, [27.0], BASE, 'moves as published'),
    (25.0, [22.7, 22.8, 22.9], BASE, 'moves as published'),
    (25.0, [22.0, 22.8, 24.6], BASE, 'within the noise of seeds'),
    (25.8, [27.0], BASE, 'moves otherwise')])
def test_whether_a_line_moves_as_the_published_one(published, values, base, expected):
    line = Line('x', 'scan', published, 'bleu', 'BLEU', against='base')
    assert status(line, values, 'another corpus', base) == expected


@pytest.mark.parametrize('values, expected', [
    ([600, 900], 'reproduced'), ([600, 500], 'missed in 1 of 2'),
    ([None, 900], 'missed in 1 of 2')])
def test_whether_a_line_is_reached_so_much_later_than_another(values, expected):
    result = Result('', '', 1.0, (
        Line('early', 'scan', None, 'x', 'updates', reaches=0.99),
        Line('late', 'scan', None, 'y', 'updates', reaches=0.99, against='early',
             ratio=(2.0, math.inf))))
    ours = {'early': [300, 400], 'late': values}
    assert verdicts(result, ours) == {'early': 'for comparison', 'late': expected}
    sooner = replace(result, lines=(result.lines[0], replace(result.lines[1], ratio=(0.0, 1.0))))
    for late, said in (([250, 100], 'reproduced'), ([300, 100], 'missed in 1 of 2')):
        assert verdicts(sooner, {'early': [300, None], 'late': late})['late'] == said


def test_means_of_several_seeds_are_compared_by_welchs_test():
    random, line = np.random.default_rng(0), Line('x', 'scan', 90.0, 'bleu', 'BLEU', against='y')
    noise = 0
    for _ in range(40):
        values, base = random.normal(81, 2, 4), random.normal(80, 0.5, 3)
        said = status(line, values.tolist(), '', (80.0, base.tolist()))
        assert (said == 'within the noise of seeds') == (
            stats.ttest_ind(values, base, equal_var=False).pvalue >= 0.05)
        noise += said == 'within the noise of seeds'
    assert 0 < noise < 40


@pytest.mark.parametrize('name', RESULTS)
def test_every_result_names_what_there_is(name):
    result = RESULTS[name]
    assert result.lines and result.source and result.hours > 0
    assert len({line.label for line in result.lines}) == len(result.lines)
    for line in result.lines:
        assert line.better in ('higher', 'lower', 'near') and line.split in ('dev', 'test')
    for line in result.runs:
        config = validate(override(configs.load(line.config).config, line.settings))
        written = score(config.data.score, ['a b'], [['a b']], config.data)
        assert line.measure.removeprefix('dev/') in (
            {'sequence_accuracy'} if line.reaches else written if writes_outputs(config) else
            {'nll', 'accuracy', 'matthews', 'f1'})


def test_the_table_in_the_repository_is_the_generated_one():
    assert reproduce.TABLE.read_text() == ledger.table(reproduce.recorded())


def test_the_table_says_what_was_found_and_what_was_not_run():
    record = {'lines': {'validation, 20 random batches': {
        'values': [1.9, 1.91, 1.92], 'status': 'close'}}, 'seeds': 3, 'minutes': 1.25,
        'hardware': 'two cores', 'date': '2026-11-23', 'data': ['f' * 64],
        'commits': ['a' * 40, f'{"b" * 40}+changes']}
    lines = ledger.table({'shakespeare_char_cpu': record}).splitlines()
    assert ('| [Characters of Shakespeare, the setting for a laptop](#shakespeare_char_cpu) | '
            'validation, 20 random batches, nats a character | 1.88 | 1.910 ± 0.010 | 3 | close |'
            ) in lines
    assert any('not run: needs 9 hours a seed on 2 CPU cores' in line for line in lines)
    assert any('1.2 minutes of training a run on two cores' in line for line in lines)
    assert any(f'code {"a" * 12}, {"b" * 12}+changes.' in line for line in lines)


def test_training_begins_with_another_line_or_a_package(tmp_path, monkeypatch):
    first, second, third = (Line('first', 'scan', None, 'x', '%', settings={'train.steps': 5}),
                            Line('second', 'scan', None, 'x', '%', after='first'),
                            Line('third', 'scan', None, 'x', '%', weights='some_weights'))
    folders = {line.label: tmp_path / reproduce._slug(line) for line in (first, second, third)}
    assert reproduce._with_start(first, folders, 2) == first
    assert reproduce._with_start(second, folders, 2).settings == {
        'train.init_from': tmp_path / 'scan-steps-5/seed-2'}
    assert folders['second'] != folders['third']
    with pytest.raises(UserError, match='pip install --no-deps some-weights'):
        reproduce._with_start(third, folders, 0)
    (tmp_path / 'some_weights/model').mkdir(parents=True)
    for name in '__init__.py', 'model/model.safetensors':
        (tmp_path / 'some_weights' / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert reproduce._with_start(third, folders, 0).settings == {
        'train.init_from': tmp_path / 'some_weights/model'}


def test_the_list_names_every_result_and_what_it_needs(capsys):
    reproduce.main(['reproduce', '--list'])
    said = capsys.readouterr().out
    assert all(name in said and result.needs in said for name, result in RESULTS.items())


def test_a_bleu_is_recorded_with_its_signature(tmp_path):
    (tmp_path / 'eval').mkdir()
    (tmp_path / 'eval/test.json').write_text(json.dumps({'metrics': {
        'bleu': 41.0, 'signature': 'tok:none', 'sacrebleu': 40.0, 'sacrebleu_signature': '13a'}}))
    for measure, expected in (('bleu', {'signature': 'tok:none'}), ('wer', {}),
                              ('sacrebleu', {'signature': '13a'})):
        line = Line('x', 'translate_multi30k', None, measure, 'BLEU')
        assert reproduce._signature(line, tmp_path) == expected


def test_mistakes():
    for flags, sentence in (([], 'give --result=NAME'),
                            (['--result=multi3k'], "did you mean 'multi30k'")):
        with pytest.raises(UserError, match=sentence):
            reproduce.main(['reproduce', *flags])


def test_a_result_is_trained_measured_and_recorded(
        shared, trained, tmp_path, monkeypatch, environment, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('XLA_FLAGS', raising=False)  # of the tests' own devices
    monkeypatch.chdir(shared)  # where tiny.py is
    results = {'tiny': Result('Words in capitals', 'nobody', 0.01, (
        Line('PER', 'tiny.py', 10.0, 'per', '%', 'lower', 'dev', factor=100.0),
        Line('WER', 'tiny.py', None, 'wer', '%', 'lower', 'dev', factor=100.0),
        Line('mean', '', None, '', '%', 'lower'),
        Line('updates until half', 'tiny.py', None, 'dev/accuracy', 'updates', reaches=0.3)))}
    for module in ledger, reproduce:
        monkeypatch.setattr(module, 'RESULTS', results)
    monkeypatch.setattr(reproduce, 'FOLDER', tmp_path / 'results')
    monkeypatch.setattr(reproduce, 'TABLE', tmp_path / 'RESULTS.md')
    ran, run_command = [], reproduce._run
    monkeypatch.setattr(reproduce, '_run', lambda command: ran.append(command) or run_command(
        command))
    reproduce.main(['reproduce', '--result=tiny', '--seeds=1', f'--workdir={tmp_path / "runs"}'])
    assert [command[0] for command in ran] == ['experiments.train', 'experiments.evaluate']
    reproduce.main(['reproduce', '--result=tiny', '--seeds=1', f'--workdir={tmp_path / "runs"}'])
    assert len(ran) == 2
    run = tmp_path / 'runs/tiny/tiny.py/seed-0'
    shutil.rmtree(run)  # nothing that was measured of it is true of another
    reproduce.main(['reproduce', '--result=tiny', '--seeds=1', f'--workdir={tmp_path / "runs"}'])
    assert ran[2:] == ran[:2]
    assert (run / 'metrics.jsonl').read_bytes() == (trained / 'metrics.jsonl').read_bytes()
    measured = json.loads((run / 'eval/dev.json').read_text())
    record = json.loads((tmp_path / 'results/tiny.json').read_text())
    per = 100 * measured['metrics']['per']
    assert record['lines']['PER'] == {'published': 10.0, 'unit': '%', 'status': 'missed',
                                      'values': [per], 'mean': per}
    assert record['lines']['mean']['values'] == [
        50 * measured['metrics']['per'] + 50 * measured['metrics']['wer']]
    steps = {row['step']: row.get('dev/accuracy', 0) for row in map(
        json.loads, (run / 'metrics.jsonl').read_text().splitlines())}
    [first] = record['lines']['updates until half']['values']
    assert steps[first] >= 0.3 and max(steps[step] for step in steps if step < first) < 0.3
    assert record['data'] == [measured['fingerprint']] and record['minutes'] > 0
    assert len(record['commands']) == 2 and record['configs']['tiny.py']['model']['d_model'] == 16
    assert f'| PER, % | 10 | {100 * measured["metrics"]["per"]:.1f} | 1 | missed |' in (
        tmp_path / 'RESULTS.md').read_text()
    assert 'PER' in capsys.readouterr().out


def test_a_record_of_more_seeds_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, 'FOLDER', tmp_path)
    monkeypatch.setattr(reproduce, 'TABLE', tmp_path / 'RESULTS.md')
    monkeypatch.setattr(reproduce, 'table', str)
    for seeds, kept in ((3, 3), (1, 3), (3, 3), (5, 5)):
        reproduce._record('scan', {'seeds': seeds})
        assert json.loads((tmp_path / 'scan.json').read_text())['seeds'] == kept
        assert ('not recorded: ' in capsys.readouterr().err) == (seeds < kept)
