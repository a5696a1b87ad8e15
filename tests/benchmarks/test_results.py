"""Ratios, verdicts, the table and the check of made-up seconds, against figures by hand."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import check, parity, results, run, timing
from xformer.config import UserError

ROOT = Path(__file__).parents[2]
SECONDS = [{'xformer': 2.0, 'eager': 3.0, 'compile': 2.5},  # ratios 1.5 and 1.25
           {'eager': 4.0, 'compile': 2.0, 'xformer': 2.0},  # 2.0 and 1.0
           {'compile': 4.4, 'xformer': 4.0, 'eager': 4.0}]  # 1.0 and 1.1


def made_up(bar: float = 1.2) -> dict:
    return results.case(SECONDS, dict.fromkeys(SECONDS[0], 600), 'tokens/s', bar)


def test_ratios_are_taken_round_by_round_and_the_fastest_peer_decides():
    case = made_up()
    assert case['speed']['xformer'] == {'min': 150, 'median': 300, 'max': 300}
    assert case['ratio'] == {'eager': {'min': 1.0, 'median': 1.5, 'max': 2.0},
                             'compile': {'min': 1.0, 'median': 1.1, 'max': 1.25}}
    assert results.fastest_peer(case) == 'compile'
    assert results.verdict(case) == 'at least 1.2: MISSED'
    assert results.verdict(made_up(bar=1.1)) == 'at least 1.1: met'
    assert results.verdict(made_up(bar=None)) == ''


def test_each_side_may_have_its_own_amount_of_work():
    case = results.case([{'xformer': 2.0, 'eager': 2.0}], {'xformer': 30, 'eager': 20}, 'x/s', 1)
    assert case['ratio']['eager']['median'] == 1.5


def test_values_without_a_peer_have_a_limit():
    assert results.verdict(results.measured([0.2, 0.4, 0.3], 's', 0.3)) == 'at most 0.3: met'
    assert results.verdict(results.measured([0.2, 0.4, 0.5], 's', 0.3)) == 'at most 0.3: MISSED'


def test_the_table_shows_what_was_found():
    result = {'suite': 'made-up', 'machine': timing.machine(), 'cases': {
        'small': made_up() | {'parity': {'eager': {'loss': 1e-7, 'tokens': 0.0}}},
        'answer': results.measured([0.1], 's', 0.3)}}
    lines = results.table(json.loads(json.dumps(result))).splitlines()
    assert lines[0].startswith('made-up: ')
    rows = {line.strip().split('  ')[0]: line.split('  ') for line in lines[1:]}
    assert [cell.strip() for cell in rows['xformer, tokens/s'] if cell.strip()][1:] == [
        '150', '300', '300']
    assert ' '.join(lines[-3].split()) == 'ratio to compile 1 1.1 1.25 at least 1.2: MISSED'
    assert lines[-2].strip() == 'same results: eager: loss within 1.0e-07, tokens equal'
    assert lines[-1].endswith('at most 0.3: met')


@pytest.mark.parametrize('before, now, worse', [
    ((0.9, 1.0, 1.1), (0.8, 0.84, 0.88), True),
    ((0.9, 1.0, 1.1), (0.8, 0.86, 0.88), False),  # 14 % below
    ((0.8, 1.0, 1.1), (0.7, 0.84, 0.88), False),  # within the committed spread
    ((0.9, 1.0, 1.1), (0.7, 0.84, 1.05), False),  # the committed one within the new spread
    ((0.9, 1.0, 1.1), (1.8, 2.0, 2.2), False)])
def test_only_a_clear_loss_is_worse(before, now, worse):
    assert check.worsened(*(dict(zip(('min', 'median', 'max'), values))
                            for values in (before, now))) == worse


def test_the_check_reads_folders_and_fails_on_worse_ratios(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, 'COMMITTED', tmp_path / 'old')
    for folder, factor in (('old', 1), ('same', 1), ('slow', 3)):
        seconds = [row | {'xformer': row['xformer'] * factor} for row in SECONDS]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'made-up.json').write_text(json.dumps(
            {'suite': 'made-up', 'cases': {'small': results.case(
                seconds, dict.fromkeys(SECONDS[0], 600), 'tokens/s', 1.0)}}))
    check.main(['check', str(tmp_path / 'same')])
    assert 'made-up, small, eager: 1.5 -> 1.5' in capsys.readouterr().out
    with pytest.raises(check.Worse, match='2 median'):
        check.main(['check', str(tmp_path / 'slow')])
    assert capsys.readouterr().out.count('WORSE') == 2
    with pytest.raises(UserError, match='no results'):
        check.main(['check', str(tmp_path)])
    with pytest.raises(UserError, match='give one FOLDER'):
        check.main(['check'])


def test_turns_rotate_and_each_is_timed(monkeypatch):
    clock, called = itertools.count(), []
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: next(clock))

    def work(name, ticks):
        def run():
            called.append(name)
            for _ in range(ticks):
                next(clock)
        return run

    rows = timing.alternate({'a': work('a', 1), 'b': work('b', 4), 'c': work('c', 0)}, 2, 'title')
    assert [list(row) for row in rows] == [['c', 'a', 'b'], ['a', 'b', 'c']]  # after 2 to warm up
    assert all(row == {'a': 2, 'b': 5, 'c': 1} for row in rows)
    assert ''.join(called) == 'abcbcacababc'


def test_close_means_relative_to_the_largest():
    ours, theirs = np.array([1.0, 100.0]), np.array([1.001, 100.0])
    assert parity.check_close('x', ours, theirs, 1e-4) == pytest.approx(1e-5)
    with pytest.raises(RuntimeError, match='x differs by 1.0e-05'):
        parity.check_close('x', ours, theirs, 1e-6)
    with pytest.raises(RuntimeError):
        parity.check_close('x', ours, np.array([1.0, np.nan]), 1)
    with pytest.raises(RuntimeError, match='shape'):
        parity.check_close('x', ours, theirs[:1], 1)
    with pytest.raises(RuntimeError, match=r'1 of 2 places, first at \(1,\)'):
        parity.check_same('x', [3, 4], [3, 5])


def test_every_suite_is_a_file_and_is_documented():
    text = (ROOT / 'docs/benchmarks.md').read_text()
    for name in run.SUITES:
        assert (ROOT / 'benchmarks' / f'{name.replace("-", "_")}.py').exists()
        assert f'`{name}`' in text


@pytest.mark.parametrize('arguments, code, said', [
    (['run', '--help'], 0, '--repeats'), (['run', '--suite=decode', '--repeats=0'], 2, 'repeats'),
    (['run', '--repeat=3'], 2, "'repeats'"), (['run', '--suite=train'], 2, 'train-seq2seq'),
    (['run'], 2, '--suite is missing'), (['run', '--suite=start', '--peer=eager'], 2, 'has none'),
    (['run', '--suite=embed', '--peer=eager'], 2, 'batch-32'),
    (['check', '--help'], 0, '15 %'), (['check', '/nowhere'], 2, 'no results')])
def test_mistakes_are_answered_at_once(arguments, code, said):
    _answers([sys.executable, '-m', f'benchmarks.{arguments[0]}', *arguments[1:]], code, said)


def test_an_absent_peer_names_the_extra_to_install():
    program = ('import sys; sys.modules["torch"] = None; from experiments import cli; '
               'from benchmarks import run; sys.argv = ["run", "--suite=train-gpt"]; '
               'cli.call(run.main)')
    _answers([sys.executable, '-c', program], 2, "pip install -e '.[parity]'")


def _answers(command, code, said):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert said in (done.stderr if code else done.stdout)
    assert len(done.stderr.splitlines()) == (1 if code else 0)
