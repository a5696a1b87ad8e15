"""Workers share places: each is served to the end exactly once, whoever dies."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import storage as rdb
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError
from waiting import wait_for

from xformer.config import Config, UserError, override
from xformer.sweep import storage, study
from xformer.sweep.space import draw, parse_space
from xformer.sweep.storage import storage_of
from xformer.sweep.study import ATTEMPTS, STOPPED, Plan, join, machine

CONFIG = override(Config(), {'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3})
TEXT = 'optim.warmup_steps = 0 .. 30 step 10'


def plan(**changes):
    given = Plan(CONFIG, TEXT, parse_space(TEXT, CONFIG), 'dev/loss:min', 4, 1, 'grid', 'none', 0)
    return dataclasses.replace(given, **changes)


@pytest.fixture
def worker(tmp_path):
    """worker(): one more that joins the same sweep."""
    return lambda **changes: join(plan(**changes), storage_of(None, tmp_path), 'sweep')


def place(trial):
    return trial.user_attrs['place']


def as_if_dead(sweep, trial, monkeypatch):
    """The worker of the trial is of this machine, and its process is gone."""
    sweep._mine.discard(trial._trial_id)
    sweep.storage.set_trial_user_attr(trial._trial_id, 'worker', f'{machine()} 12345')
    monkeypatch.setattr(study, '_runs', lambda process: process != 12345)


def test_workers_take_all_places_and_none_twice(worker):
    one, other = worker(), worker()
    trials = [sweep.claim() for sweep in (one, other, one, other)]
    assert sorted(map(place, trials)) == [0, 1, 2, 3] and one.claim() is other.claim() is None
    assert [one.settings(trial)['optim.warmup_steps'] for trial in trials] == [0, 10, 20, 30]
    for sweep, trial in zip((one, other, one, other), trials):
        assert not one.finished()
        assert sweep.end(trial, TrialState.COMPLETE, 1.0)
    assert one.finished() and other.finished() and one.claim() is None


def test_the_place_of_a_dead_worker_is_served_again_with_the_same_settings(worker, monkeypatch):
    one, other = worker(trials=1), worker(trials=1)
    first = one.claim()
    settings = one.settings(first)
    as_if_dead(one, first, monkeypatch)
    again = other.claim()
    assert again.number != first.number and other.settings(again) == settings
    assert not one.end(first, TrialState.COMPLETE, 5.0)  # it was taken for dead
    assert other.end(again, TrialState.COMPLETE, 2.0) and other.finished()
    assert [trial.value for trial in other.trials()
            if trial.state is TrialState.COMPLETE] == [2.0]


@pytest.mark.parametrize('sampler', ['grid', 'random'])
def test_so_is_that_of_one_that_died_before_it_asked_for_its_settings(worker, monkeypatch, sampler):
    one, other = (worker(trials=1, sampler=sampler) for _ in range(2))
    as_if_dead(one, one.claim(), monkeypatch)
    [wanted] = one.plan.params(0).values()
    assert other.settings(other.claim()) == {'optim.warmup_steps': wanted}


def test_what_an_adaptive_sampler_chose_is_kept(worker, monkeypatch):
    one, other = (worker(trials=3, sampler='tpe') for _ in range(2))
    first = one.claim()
    settings = one.settings(first)
    as_if_dead(one, first, monkeypatch)
    again = other.claim()
    while place(again) != place(first):
        again = other.claim()
    assert other.settings(again) == settings


def test_a_worker_elsewhere_is_dead_when_it_beats_no_more(worker, monkeypatch):
    one, other = worker(trials=1), worker(trials=1)
    trial = one.claim()
    one.storage.set_trial_user_attr(trial._trial_id, 'worker', 'elsewhere 1')
    clock = [0.0]
    monkeypatch.setattr(study.time, 'monotonic', lambda: clock[0])
    for count in range(5):
        clock[0] += study.DEAD_SECONDS - 1
        one.storage.set_trial_user_attr(trial._trial_id, 'beat', count)
        assert other.claim() is None
    clock[0] += study.DEAD_SECONDS + 1
    assert place(other.claim()) == 0


def test_a_database_that_is_away_is_waited_for(tmp_path, monkeypatch, capsys):
    sweep = join(plan(), storage_of(f'sqlite:///{tmp_path}/trials.db', tmp_path), 'sweep')
    open_session, tries = rdb._create_scoped_session, []

    def away_for_a_moment(*arguments):
        tries.append(arguments)
        if len(tries) < 4:
            raise StorageInternalError('the database is away\nfor reasons of its own')
        return open_session(*arguments)
    monkeypatch.setattr(storage, 'RETRY_SECONDS', 0.0)
    monkeypatch.setattr(rdb, '_create_scoped_session', away_for_a_moment)
    trial = sweep.claim()
    assert place(trial) == 0 and sweep.end(trial, TrialState.COMPLETE, 1.0)
    assert capsys.readouterr().err.count('waiting for the database: the database is away\n') == 3
    tries.clear()
    monkeypatch.setattr(storage, 'AWAY_SECONDS', -1.0)
    with pytest.raises(UserError, match='the database of the sweep is away .* goes on once it is'):
        sweep.claim()


def test_a_lock_that_a_dead_worker_left_is_released_in_time(worker, tmp_path, monkeypatch):
    """Also under a relative folder, where its link leads nowhere if it is relative, too."""
    monkeypatch.chdir(tmp_path)
    lock = storage_of(None, Path('.'))._backend._lock
    assert lock.acquire()
    assert Path(os.readlink('journal.log.lock')).exists()
    lock.release()


def test_beats_are_shown_while_it_lasts(worker, monkeypatch):
    monkeypatch.setattr(study, 'BEAT_SECONDS', 0.01)
    one = worker()
    trial = one.claim()
    with one.beating():
        wait_for(lambda: 'beat' in one.storage.get_trial(trial._trial_id).user_attrs)
        one.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        wait_for(lambda: not one.is_ours(trial))


def test_a_place_is_given_up_after_some_deaths_or_for_a_reason_but_not_for_stops(
        worker, monkeypatch):
    one = worker(trials=1)
    for _ in range(5):
        assert one.end(one.claim(), TrialState.FAIL, reason=STOPPED) and not one.finished()
    for _ in range(ATTEMPTS):
        assert not one.finished()
        as_if_dead(one, one.claim(), monkeypatch)
    assert one.claim() is None and one.finished()


def test_a_reason_ends_a_place_at_once(worker):
    one = worker(trials=1)
    assert one.end(one.claim(), TrialState.FAIL, reason='the loss is not finite')
    assert one.claim() is None and one.finished()


def test_a_worker_started_anew_tries_again_what_failed_unless_that_was_final(worker):
    one = worker(trials=2)
    for final in (False, True):
        assert one.end(one.claim(), TrialState.FAIL, reason='of its own', final=final)
    assert one.claim() is None and one.finished()
    job = join(plan(trials=2), one.storage, 'sweep', anew=False)  # of the same beginning
    assert job.claim() is None and job.finished()
    another = worker(trials=2)
    assert place(another.claim()) == 0 and another.claim() is None and not another.finished()


def test_what_a_full_disk_left_of_a_line_is_cut_off(worker, tmp_path):
    one = worker()
    assert one.end(one.claim(), TrialState.COMPLETE, 1.0)
    with open(tmp_path / 'journal.log', 'ab') as journal:
        journal.write(b'{"op_code":4,"worker_id":"x"')
    other = worker()
    assert other.end(other.claim(), TrialState.COMPLETE, 2.0)
    values = [trial.value for trial in worker().trials() if trial.state is TrialState.COMPLETE]
    assert values == [1.0, 2.0]


def test_a_sweep_goes_on_where_fields_are_newer(worker):
    one = worker()
    older = one.study.user_attrs['plan']
    config = json.loads(older['config'])
    del config['decode']['more_ends']
    one.study.set_user_attr('plan', older | {'config': json.dumps(config)})
    assert worker().claim()
    config['decode']['beam_size'] = 7
    one.study.set_user_attr('plan', older | {'config': json.dumps(config)})
    with pytest.raises(UserError, match='has another decode.beam_size: 7 there, 4 here'):
        worker()


def test_what_was_waiting_when_a_worker_came_is_tried_once(worker):
    one = worker(trials=2)
    assert one.end(one.claim(), TrialState.COMPLETE, 1.0)
    another = worker(trials=2)
    assert another.end(another.claim(), TrialState.FAIL, reason='of its own')
    assert another.claim() is None and another.finished()


@pytest.mark.parametrize('reason, tries', [
    ('relation "studies" already exists', 3), ('UNIQUE constraint failed: version', 3),
    ("Duplicate entry '1' for key", 3), ('away', 1)])
def test_tables_that_another_worker_makes_at_the_same_time(reason, tries, tmp_path, monkeypatch):
    made, real = [], storage.RDBStorage

    def late(*arguments, **options):
        made.append(arguments)
        if len(made) < 3:
            raise OperationalError('CREATE TABLE studies', {}, Exception(reason))
        return real(*arguments, **options)
    monkeypatch.setattr(storage, 'RETRY_SECONDS', 0.0)
    monkeypatch.setattr(storage, 'RDBStorage', late)
    if tries == 3:
        assert join(plan(), storage_of(f'sqlite:///{tmp_path}/trials.db', tmp_path), 'sweep')
    else:
        with pytest.raises(UserError, match='cannot use --storage'):
            storage_of(f'sqlite:///{tmp_path}/trials.db', tmp_path)
    assert len(made) == tries


def test_a_beat_that_cannot_be_written_is_told_once_and_the_next_ones_are(
        worker, monkeypatch, capsys):
    monkeypatch.setattr(study, 'BEAT_SECONDS', 0.01)
    one = worker()
    trial, write, failed = one.claim(), one.storage.set_trial_user_attr, []

    def full_at_first(*arguments):
        if len(failed) < 3:
            failed.append(arguments)
            raise OSError('no space left')
        return write(*arguments)
    monkeypatch.setattr(one.storage, 'set_trial_user_attr', full_at_first)
    with one.beating():
        wait_for(lambda: 'beat' in one.storage.get_trial(trial._trial_id).user_attrs)
    assert one.is_ours(trial) and len(failed) == 3
    assert capsys.readouterr().err.count('no space left') == 1


def test_adaptive_samplers_choose_as_their_seed_says(tmp_path):
    def chosen(number: int, seed: int) -> list[int]:
        sweep = join(plan(sampler='tpe', trials=6, sampler_seed=seed),
                     storage_of(None, tmp_path), f'sweep {number}')
        found = []
        for value in range(6):
            trial = sweep.claim()
            found.append(sweep.settings(trial)['optim.warmup_steps'])
            sweep.end(trial, TrialState.COMPLETE, float(value))
        return found
    first = chosen(0, seed=0)
    assert chosen(1, seed=0) == first and chosen(2, seed=1) != first and len(set(first)) > 1


def test_successive_halving_begins_with_the_first_measurement(worker):
    config = override(CONFIG, {'train.steps': 900, 'train.eval_every': 100})
    one = worker(pruner='hyperband', config=config)
    trials = [one.claim() for _ in range(4)]
    for value, trial in enumerate(trials):
        one.settings(trial)
        trial.report(float(value), 100)
    kept = [not trial.should_prune() for trial in trials]
    assert kept[0] and 1 < sum(kept)


def test_of_two_trials_for_a_place_the_later_is_needless(worker):
    one = worker(trials=1)
    for _ in range(2):
        one.study.enqueue_trial({'optim.warmup_steps': 0}, user_attrs={'place': 0})
    trial = one.claim()
    assert trial.number == 0 and one.claim() is None
    assert one.end(trial, TrialState.COMPLETE, 1.0) and one.finished()
    assert [len(trials) for trials in one.by_place()] == [1]


def test_another_plan_is_refused(worker):
    worker()
    with pytest.raises(UserError, match='the sweep sweep has another seeds: 1 there, 3 here'):
        worker(seeds=3)
    changed = override(CONFIG, {'model.dropout': 0.3})
    with pytest.raises(UserError, match='has another model.dropout: 0.1 there, 0.3 here'):
        worker(config=changed)
    with pytest.raises(UserError, match='has another trials: 4 there, 3 here'):
        worker(trials=3)
    with pytest.raises(UserError, match='has another sampler: .grid. there, .random. here'):
        worker(trials=9, sampler='random')
    assert worker().study.user_attrs['plan'] == plan().to_row()  # whatever was refused
    worker(text=TEXT.replace(' ', '   ') + '  # ten each')
    with pytest.raises(UserError, match='has another space'):
        worker(text='optim.warmup_steps = 0 .. 40 step 10',
               space=parse_space('optim.warmup_steps = 0 .. 40 step 10', CONFIG))


@pytest.mark.parametrize('sampler', ['random', 'tpe'])
def test_a_sweep_that_has_ended_goes_on_with_more_trials(sampler, worker):
    one = worker(trials=2, sampler=sampler)
    served = [one.claim(), one.claim()]
    settings = [one.settings(trial) for trial in served]
    for trial in served:
        one.end(trial, TrialState.COMPLETE, 1.0)
    assert one.finished()
    more = worker(trials=3, sampler=sampler)
    third = more.claim()
    assert place(third) == 2 and more.claim() is None and not more.finished()
    assert one.claim() is None and one.finished()  # was asked for two
    assert len(one.by_place()) == 2 and len(one.whole().by_place()) == 3
    more.end(third, TrialState.COMPLETE, 2.0)
    assert more.finished() and [len(trials) for trials in more.by_place()] == [1, 1, 1]
    if sampler == 'random':
        assert settings == [draw(more.plan.space, CONFIG, 0, number) for number in range(2)]
    with pytest.raises(UserError, match='has another trials: 3 there, 2 here'):
        worker(trials=2, sampler=sampler)


def test_a_database_that_cannot_be_reached_is_one_sentence(tmp_path):
    with pytest.raises(UserError) as found:
        storage_of('postgresql://me:secret@nowhere.invalid/x', tmp_path)
    assert 'secret' not in str(found.value) and '--storage=postgresql://...@now' in str(found.value)
