"""What a trial makes of its runs, with a command in the place of training that takes no time."""

import io
import json
import sys

import pytest
from optuna.trial import TrialState
from rich.console import Console

from xformer.config import Config, UserError, override
from xformer.sweep import trial as trials
from xformer.sweep.live import drawn
from xformer.sweep.report import interval, ranked, write_report
from xformer.sweep.space import parse_space
from xformer.sweep.storage import storage_of
from xformer.sweep.study import Plan, join
from xformer.sweep.trial import Runner, prepare_folder, work_together
from xformer.train.loop import NotFinite

CONFIG = override(Config(), {'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3})
COMMAND = '''
import json, pathlib, sys, time
kind, *arguments = sys.argv[1:]
flags = dict(each[2:].split('=', 1) for each in arguments)
folder = pathlib.Path(flags.get('workdir') or flags['model'])
if kind == 'evaluate':
    (folder / 'eval').mkdir()
    (folder / 'eval' / 'dev.json').write_text(json.dumps({'metrics': {
        'per': 0.5, 'wer': 0.75, 'signature': 'nrefs:1'}}))
    sys.exit()
rate, seed = float(flags['config.optim.peak_learning_rate']), int(flags['config.train.seed'])
folder.mkdir(parents=True)
rows = [{'step': step, 'dev/loss': rate + seed / 10 + 1 / step} for step in (1, 2, 3, 4)]
for row in rows:
    with open(folder / 'metrics.jsonl', 'a') as file:
        file.write(json.dumps(row) + '\\n')
    if flags['config.model.dropout'] == '0.5':
        time.sleep(1)
if flags['config.model.dropout'] == '0.25':
    print('first line\\nthe loss is not finite')
    sys.exit(3)
'''

LATE = '''
import fcntl, os, pathlib, sys, time
folder = pathlib.Path(next(each for each in sys.argv if 'workdir' in each).partition('=')[2])
if not (folder.parent / 'late').exists():
    (folder.parent / 'late').touch()
    folder.mkdir()
    lock = open(folder / '.lock', 'w')
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.fork():
        sys.exit('another process is training in ' + str(folder))
    time.sleep(0.5)
    os.remove(folder / '.lock')
    folder.rmdir()
    os._exit(0)
'''


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """swept(space, ...): (the sweep, its rows, what was said), once it is finished."""
    (tmp_path / 'command.py').write_text(COMMAND)
    monkeypatch.setattr(trials, 'entry_point',
                        lambda name: [sys.executable, str(tmp_path / 'command.py'), name])
    monkeypatch.setattr(trials, 'POLL_SECONDS', 0.05)

    def swept(text, count, metric='dev/loss:min', seeds=1, pruner='none', workers=1):
        plan = Plan(CONFIG, text, parse_space(text, CONFIG), metric, count, seeds, 'grid', pruner,
                    0)
        folder, said = tmp_path / 'sweep', []
        folder.mkdir(exist_ok=True)
        sweep = join(plan, storage_of(None, folder), 'sweep')
        prepare_folder(folder, sweep)
        work_together(Runner(sweep, folder, said.append), workers)
        return sweep, ranked(sweep), said
    return swept


RATES = 'optim.peak_learning_rate = 0.3 | 0.1 | 0.2; model.dropout = 0.0'


def test_the_best_of_each_run_is_its_value_and_the_mean_of_seeds_the_trials(swept, tmp_path):
    sweep, rows, said = swept(RATES, 3, seeds=3, workers=2)
    assert [row.settings['optim.peak_learning_rate'] for row in rows] == [0.1, 0.2, 0.3]
    assert rows[0].values == pytest.approx([0.35, 0.45, 0.55])  # at the last step, 1/4
    assert rows[0].value == pytest.approx(0.45) and rows[0].curve == pytest.approx(
        {1: 1.1, 2: 0.6, 3: 0.1 + 1 / 3, 4: 0.35})
    assert interval([0.35, 0.45, 0.55]) == pytest.approx(4.303 * 0.1 / 3 ** 0.5, rel=1e-3)
    assert sorted(said)[0] == 'trial 0: dev/loss 0.65 ± 0.1'
    assert {path.name for path in (tmp_path / 'sweep/trials/0001').iterdir()} == {
        f'seed-{seed}{end}' for seed in range(3) for end in ('', '.log')}

    page = write_report(sweep, tmp_path / 'sweep').read_text()
    assert '3 complete; best dev/loss 0.45 ± 0.1 of trial 1' in page
    table = (tmp_path / 'sweep' / 'sweep.csv').read_text().splitlines()
    assert table[1].startswith('1,complete,0.45') and len(table) == 4
    assert table[1].endswith(f':{tmp_path / "sweep"}')


def test_what_training_does_not_measure_evaluate_does(swept):
    _, [row], _ = swept('optim.peak_learning_rate = 0.3; model.dropout = 0.0', 1,
                        metric='dev/per:min')
    assert row.value == 0.5


def test_a_pruner_that_sees_nothing_is_told(swept):
    _, _, said = swept(RATES, 1, metric='dev/wer:min', pruner='median')
    assert 'wer is measured by evaluate alone' in said[0]


@pytest.mark.parametrize('name', ['bleu', 'signature'])
def test_what_nobody_measures_ends_the_sweep(name, swept, tmp_path):
    with pytest.raises(UserError, match='by evaluate, which has per, wer; choose another'):
        swept(RATES, 3, metric=f'dev/{name}:max')
    assert [path.name for path in (tmp_path / 'sweep/trials').iterdir()] == ['0000']


def test_only_a_loss_that_is_not_finite_is_never_tried_again(swept):
    assert trials.NOT_FINITE == NotFinite.exit_code
    text = 'optim.peak_learning_rate = 0.1; model.dropout = 0.25 | 1.5'
    for _ in range(2):
        sweep, rows, _ = swept(text, 2)
        assert [row.state for row in rows] == ['failed'] * 2
    assert [len(tried) for tried in sweep.by_place()] == [1, 2]


def test_training_that_a_dead_worker_began_is_waited_for_though_it_takes_the_lock_late(
        swept, tmp_path, monkeypatch):
    """The first command finds the folder taken, as `experiments.train` would."""
    (tmp_path / 'late.py').write_text(LATE + COMMAND)
    monkeypatch.setattr(trials, 'entry_point',
                        lambda name: [sys.executable, str(tmp_path / 'late.py'), name])
    _, [row], said = swept('optim.peak_learning_rate = 0.3; model.dropout = 0.0', 1)
    assert row.state == 'complete' and len(said) == 1
    assert (tmp_path / 'sweep/trials/0000/late').exists()


def test_runs_that_fail_and_settings_that_contradict_are_told_and_the_others_go_on(swept, tmp_path):
    sweep, rows, said = swept('optim.peak_learning_rate = 0.1; model.dropout = 0.25 | 0.0 | 1.5', 3)
    by_place = {row.place: row for row in rows}
    assert by_place[1].state == 'complete'
    assert 'exited with 3 and said: the loss is not finite' in by_place[0].reason
    assert 'model.dropout' in by_place[2].reason
    page = write_report(sweep, tmp_path / 'sweep').read_text()
    assert 'the loss is not finite' in page and '1 complete, 2 failed' in page
    shown = _as_text(drawn(sweep)).split('\n')
    cells = [[cell.strip() for cell in line.split('│')[1:5]] for line in shown if '│' in line]
    assert cells[0] == ['1', 'complete', '4', '0.35']
    assert [line[:2] for line in cells[1:]] == [['0', 'failed'], ['2', 'failed']]


def _as_text(renderable) -> str:
    console = Console(width=110, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_a_trial_worse_than_the_median_ends_early(swept):
    _, rows, said = swept(
        'optim.peak_learning_rate, model.dropout = 0.1, 0.0 | 0.11, 0.0 | 0.12, 0.0 | 0.13, 0.0 | '
        '0.14, 0.0 | 9, 0.5', 6, pruner='median')
    worst = next(row for row in rows if row.settings['optim.peak_learning_rate'] == 9)
    assert worst.state == 'pruned' and len(worst.curve) < 4
    assert [row.state for row in rows if row is not worst] == ['complete'] * 5


def test_a_stopped_sweep_goes_on(swept, monkeypatch):
    stopping = Runner._serve

    def serve_one(self, trial):
        stopping(self, trial)
        self.stop()
    monkeypatch.setattr(Runner, '_serve', serve_one)
    _, rows, _ = swept(RATES, 3)
    assert [row.state for row in rows].count('complete') == 1
    monkeypatch.setattr(Runner, '_serve', stopping)
    sweep, rows, said = swept(RATES, 3)
    assert [row.state for row in rows] == ['complete'] * 3 and len(said) == 2
    assert len(sweep.trials()) == 3


def test_what_was_found_is_in_the_journal(swept, tmp_path):
    sweep, _, _ = swept(RATES, 3)
    again = join(sweep.plan, storage_of(None, tmp_path / 'sweep'), 'sweep')
    assert ranked(again) == ranked(sweep)
    assert all(trial.state is TrialState.COMPLETE for trial in again.trials())
    assert json.loads((tmp_path / 'sweep' / 'base.json').read_text())['optim']
