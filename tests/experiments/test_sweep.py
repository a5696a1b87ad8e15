"""Sweeps of real training: a trial is the run that its command makes, stopped or not."""

import csv
import os
import re
import signal

import pytest
from waiting import wait_for

from experiments import sweep
from xformer.config import UserError

COMMAND = ('sweep', '--config=tiny.py', '--workdir=sweep',
           '--space=optim.peak_learning_rate = 2e-2')


def measured(run):
    """Whether a run has measured something."""
    rows = run / 'metrics.jsonl'
    return lambda: rows.exists() and rows.read_text()


def test_a_sweep_that_is_stopped_goes_on_and_its_trials_are_ordinary_runs(
        start, shared, trained, tmp_path):
    (tmp_path / 'tiny.py').write_text((shared / 'tiny.py').read_text())
    first = tmp_path / 'sweep/trials/0000/seed-0'
    with start(*COMMAND, cwd=tmp_path) as process:
        wait_for(measured(first), process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=200)
    assert process.returncode == 75 and 'sweep: stopped by SIGTERM' in said
    assert '1 stopped' in (tmp_path / 'sweep/sweep.html').read_text()

    with start(*COMMAND, cwd=tmp_path) as process:
        _, said = process.communicate(timeout=200)
    assert process.returncode == 0 and 'trial 0: dev/loss ' in said
    assert (first / 'metrics.jsonl').read_bytes() == (trained / 'metrics.jsonl').read_bytes()
    with open(tmp_path / 'sweep/sweep.csv', newline='') as file:
        [row] = csv.DictReader(file)
    assert (row['optim.peak_learning_rate'], row['state']) == ('0.02', 'complete')


def test_a_key_that_interrupts_sweep_and_run_alike_saves_the_run(start, shared, tmp_path):
    (tmp_path / 'tiny.py').write_text((shared / 'tiny.py').read_text())
    run = tmp_path / 'sweep/trials/0000/seed-0'
    with start(*COMMAND, '--config.train.steps=100000', cwd=tmp_path,
               start_new_session=True) as process:
        wait_for(measured(run), process)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=200)
    assert process.returncode == 75
    assert 'train: stopped by SIG' in run.with_suffix('.log').read_text()


def test_jobs_serve_a_sweep(start, shared, trained, tmp_path):
    (tmp_path / 'tiny.py').write_text((shared / 'tiny.py').read_text())
    with start(*COMMAND, '--submit=local', '--workers=2', cwd=tmp_path) as process:
        _, said = process.communicate(timeout=200)
    assert process.returncode == 0 and re.search('jobs [0-9]+, [0-9]+ of local', said)
    page = tmp_path / 'sweep/sweep.html'
    wait_for(lambda: page.exists() and '1 complete' in page.read_text())
    assert (tmp_path / 'sweep/trials/0000/seed-0/metrics.jsonl').read_bytes() == (
        trained / 'metrics.jsonl').read_bytes()


@pytest.mark.parametrize('flags, sentence', [
    ([], '--space is missing, and tiny.py has no SPACE'),
    (['--space=model.dropout = 0 .. 0.3'], 'is a range without a step'),
    (['--space=model.dropout = 0 .. 0.3', '--sampler=tpe'], '--trials is missing'),
    (['--space=model.dropout = 0 | 0.1', '--trials=3'], 'more than the 2 of the grid'),
    (['--space=model.dropout = 0 | 0.1', '--metric=dev/per'], 'must be dev/NAME:min'),
    (['--space=model.dropout = 0 | 0.1', '--sampler_seed=3'], '--sampler_seed has no effect'),
    (['--space=model.dropout = 0 | 0.1', '--job=timeout_min=5'], 'no effect without --submit'),
    (['--space=model.dropout = 0 | 0.1', '--submit=local', '--job=gpus'], 'is not NAME=VALUE'),
    (['--space=model.dropout = 0 | 0.1', '--config.model.dropout=0.2'], 'varies model.dropout'),
    (['--space=model.dropout = 0 | 0.1', '--seeds=0'], 'seeds')])
def test_mistakes(flags, sentence, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tiny.py').write_text((shared / 'tiny.py').read_text())
    with pytest.raises(UserError) as found:
        sweep.main(['sweep', '--config=tiny.py', *flags])
    assert sentence in str(found.value)
    assert [path.name for path in tmp_path.iterdir()] == ['tiny.py']


def test_a_configuration_may_bring_its_space(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tiny.py').write_text(
        (shared / 'tiny.py').read_text() + "\nSPACE = 'model.dropot = 0 | 0.1'\n")
    with pytest.raises(UserError, match="no field 'model.dropot'"):
        sweep.main(['sweep', '--config=tiny.py'])
