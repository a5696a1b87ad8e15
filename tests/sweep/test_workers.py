"""Workers that are processes of their own, one of which is killed in the middle of a trial."""

import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from xformer.sweep.storage import storage_of
from xformer.sweep.study import join

TRIALS = 12
PLAN = f'''
from xformer.config import Config, override
from xformer.sweep.space import parse_space
from xformer.sweep.study import Plan
text = 'optim.warmup_steps = 0 .. 11'
config = override(Config(), {{'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3}})
plan = Plan(config, text, parse_space(text, config), 'dev/loss:min', {TRIALS}, 1, 'grid', 'none', 0)
'''
WORKER = PLAN + '''
import sys
from pathlib import Path
from xformer.sweep import trial
from xformer.sweep.storage import storage_of
from xformer.sweep.study import join
url, folder = sys.argv[1] or None, Path(sys.argv[2])
trial.entry_point = lambda name: [sys.executable, 'command.py', name]
trial.POLL_SECONDS = 0.05
sweep = join(plan, storage_of(url, folder), 'sweep')
with sweep.beating():
    trial.work_together(trial.Runner(sweep, folder, print), 1)
'''
COMMAND = '''
import fcntl, json, pathlib, sys, time
flags = dict(each[2:].split('=', 1) for each in sys.argv[2:])
folder = pathlib.Path(flags['workdir'])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not (folder / 'metrics.jsonl').exists():  # as a run that goes on
        time.sleep(0.3)
        with open(folder / 'metrics.jsonl', 'a') as file:
            loss = float(flags['config.optim.warmup_steps'])
            file.write(json.dumps({'step': 1, 'dev/loss': loss}) + '\\n')
'''


@pytest.fixture(params=['journal', 'postgres'])
def url(request):
    """Of the storage: '' for the journal, or a database server of this test alone."""
    if request.param == 'journal':
        yield ''
        return
    programs = sorted(glob.glob('/usr/lib/postgresql/*/bin')) or [None]
    initdb, pg_ctl = (shutil.which(name, path=programs[-1]) for name in ('initdb', 'pg_ctl'))
    pytest.importorskip('psycopg')
    if not (initdb and pg_ctl and hasattr(os, 'geteuid')):
        pytest.skip('there is no PostgreSQL')
    folder, user = Path(tempfile.mkdtemp(prefix='postgres-')), []
    if os.geteuid() == 0:  # which the server refuses to run as
        shutil.chown(folder, 'postgres')
        user = ['runuser', '-u', 'postgres', '--']

    def server(*arguments):
        subprocess.run([*user, *arguments], check=True, cwd=folder, capture_output=True, timeout=60)

    server(initdb, '-D', str(folder / 'data'), '-U', 'sweeper', '-A', 'trust')
    server(pg_ctl, '-D', str(folder / 'data'), '-w', '-l', str(folder / 'log'), '-o',
           f'-k {folder} -c listen_addresses=', 'start')
    try:
        yield f'postgresql://sweeper@/postgres?host={folder}'
    finally:
        server(pg_ctl, '-D', str(folder / 'data'), '-m', 'immediate', 'stop')
        shutil.rmtree(folder)


def test_a_killed_worker_loses_no_trial_and_none_counts_twice(url, tmp_path):
    folder = tmp_path / 'sweep'
    folder.mkdir()
    (tmp_path / 'command.py').write_text(COMMAND)
    environment = os.environ | {'PYTHONPATH': str(Path(__file__).parents[2])}
    workers = {process.pid: process for process in (subprocess.Popen(
        [sys.executable, '-c', WORKER, url, str(folder)], cwd=tmp_path, env=environment,
        stdout=subprocess.DEVNULL) for _ in range(3))}
    plan = {}
    exec(PLAN, plan)
    sweep = join(plan['plan'], storage_of(url or None, folder), 'sweep')  # all come at once

    def running():
        return [trial for trial in sweep.trials() if trial.state is TrialState.RUNNING
                and 'settings' in trial.user_attrs]

    deadline = time.monotonic() + 60
    while not running():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim = running()[0]
    process = int(victim.user_attrs['worker'].rpartition(' ')[2])
    os.kill(process, signal.SIGKILL)
    assert {pid: worker.wait(60) for pid, worker in workers.items()} == {
        pid: -signal.SIGKILL if pid == process else 0 for pid in workers}

    trials = sweep.trials()
    done = Counter(trial.user_attrs['place'] for trial in trials
                   if trial.state is TrialState.COMPLETE)
    assert done == dict.fromkeys(range(TRIALS), 1)
    assert all(trial.value == trial.user_attrs['place'] for trial in trials
               if trial.state is TrialState.COMPLETE)
    assert [trial.number for trial in trials if trial.state is TrialState.FAIL
            and 'needless' not in trial.user_attrs] == [victim.number]
    for place in range(TRIALS):  # none was trained twice
        assert (folder / f'trials/{place:04}/seed-0/metrics.jsonl').read_text().count('\n') == 1
