"""The trials of a sweep, shared by any number of workers through a storage of Optuna's.

A sweep has places 0 ... N - 1. Each is served by one trial; where its worker died the trial is
marked as failed, and the place gets another with the same parameters, which goes on in the same run
folders. So does a place whose runs failed when the sweep is begun anew: what was wrong may have
been mended. A worker is alive as long as its trial's `beat` changes: journals have no heartbeat of
their own, and one that counts needs no clocks that agree.
"""

import functools
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from xformer.config import Config, UserError, diff, from_json, measure_of, to_json
from xformer.console import say
from xformer.sweep.space import Settings, Space, draw, grid, parse_space, settings_of

COMPLETE_FIRST = 5  # trials, before the median is looked at
BEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0  # without a beat
ATTEMPTS = 3
STOPPED = 'stopped'
HOPEFUL = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Plan:
    """What all workers of a sweep agree on. `metric` is dev/NAME:min or :max, as train.best_by."""

    config: Config
    text: str  # of the space
    space: Space
    metric: str
    trials: int
    seeds: int
    sampler: str
    pruner: str
    sampler_seed: int

    @property
    def measure(self) -> str:
        """The metric's name, without its direction."""
        return measure_of(self.metric)[0]

    @property
    def sign(self) -> int:
        """1 where less of the metric is better, -1 where more is."""
        return measure_of(self.metric)[1]

    def to_row(self) -> dict[str, Any]:
        """What is compared, and shown where workers disagree."""
        return {'space': self.text, 'metric': self.metric, 'trials': self.trials,
                'seeds': self.seeds, 'sampler': self.sampler, 'pruner': self.pruner,
                'sampler_seed': self.sampler_seed, 'config': to_json(self.config)}

    @functools.cached_property
    def _grid(self) -> list[dict[str, Any]]:
        return grid(self.space, self.config)

    def params(self, place: int) -> dict[str, Any]:
        """Those of a place, or none where the sampler chooses as it learns."""
        if self.sampler == 'tpe':
            return {}
        if self.sampler == 'grid':
            return self._grid[place]
        return draw(self.space, self.config, self.sampler_seed, place)


@dataclass
class Sweep:
    """A worker's view of the sweep; any number of threads may use it."""

    study: optuna.Study
    storage: optuna.storages.BaseStorage
    study_id: int
    plan: Plan
    _forgiven: Sequence[int] = ()  # numbers of trials whose failures count no more
    _mine: set[int] = field(default_factory=set)  # ids of the trials that this process serves
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict)  # beats, and when they came
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def trials(self) -> list[FrozenTrial]:
        """All there are, by number."""
        return self.storage.get_all_trials(self.study_id, deepcopy=False)

    def by_place(self) -> list[list[FrozenTrial]]:
        """The trials of each place, by number, without those that another made needless."""
        found: list[list[FrozenTrial]] = [[] for _ in range(self.plan.trials)]
        for trial in self.trials():
            place = trial.user_attrs['place']
            if not trial.user_attrs.get('needless') and place < self.plan.trials:
                found[place].append(trial)  # beyond are those of workers that were asked for more
        return found

    def whole(self) -> 'Sweep':
        """With as many trials as any worker was asked for."""
        trials = self.storage.get_study_user_attrs(self.study_id)['plan']['trials']
        return replace(self, plan=replace(self.plan, trials=trials))

    def claim(self) -> optuna.Trial | None:
        """A trial to serve, that nobody else serves; None if there is none now."""
        with self._lock:
            self._forgiven = self.storage.get_study_user_attrs(self.study_id).get('forgiven', ())
            self._bury()
            self._fill()
            for trial in self.trials():
                if trial.state is TrialState.WAITING and self._take(trial):
                    self._mine.add(trial._trial_id)
                    study = optuna.load_study(
                        study_name=self.study.study_name, storage=self.storage,
                        sampler=_sampler(self.plan, trial.user_attrs['place']),
                        pruner=_pruner(self.plan))
                    return optuna.Trial(study, trial._trial_id)
        return None

    def _take(self, trial: FrozenTrial) -> bool:
        if trial.user_attrs['place'] >= self.plan.trials:
            return False
        others = [other for other in self.by_place()[trial.user_attrs['place']]
                  if other.number < trial.number and other.state in HOPEFUL]
        try:
            if others:
                self.storage.set_trial_user_attr(trial._trial_id, 'needless', True)
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                return False
            if not self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:  # another worker was first
            return False
        self.storage.set_trial_user_attr(trial._trial_id, 'worker', f'{machine()} {os.getpid()}')
        return True

    def _bury(self) -> None:
        """Mark the trials of workers that died as failed."""
        for trial in self.trials():
            if trial.state is TrialState.RUNNING and self._is_dead(trial):
                try:
                    self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                except UpdateFinishedTrialError:
                    continue  # another worker was first

    def _is_dead(self, trial: FrozenTrial) -> bool:
        where, _, process = trial.user_attrs.get('worker', '').rpartition(' ')
        if trial._trial_id in self._mine:
            return False
        if where == machine() and not _runs(int(process)):
            return True
        beat, now = trial.user_attrs.get('beat'), time.monotonic()
        seen, since = self._seen.setdefault(trial._trial_id, (beat, now))
        if seen != beat:
            self._seen[trial._trial_id] = beat, now
            return False
        return now - since > DEAD_SECONDS

    def _fill(self) -> None:
        """A trial that waits for every place that has none to hope for."""
        for place, trials in enumerate(self.by_place()):
            hopeful = any(trial.state in HOPEFUL for trial in trials)
            if not hopeful and not self.given_up(trials):
                params = self.plan.params(place) or _chosen(trials)
                self.study.enqueue_trial(params, user_attrs={'place': place})

    def finished(self) -> bool:
        """Whether every place is served to the end, or given up."""
        return all(self.given_up(trials) or any(
            trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
            for trials in self.by_place())

    def given_up(self, trials: list[FrozenTrial]) -> bool:
        """Whether the trials of a place have shown that it cannot be served, since the sweep was
        begun anew or, where that was final, before."""
        failed = [trial.user_attrs.get('reason') for trial in trials
                  if trial.state is TrialState.FAIL and trial.user_attrs.get('reason') != STOPPED
                  and (trial.number not in self._forgiven or trial.user_attrs.get('final'))]
        return any(failed) or len(failed) >= ATTEMPTS

    def settings(self, trial: optuna.Trial) -> Settings:
        """What the trial sets, as its sampler chooses."""
        return settings_of(self.plan.space, self.plan.config,
                           lambda dimension: dimension.suggested(trial))

    def end(self, trial: optuna.Trial, state: TrialState, value: float | None = None,
            reason: str = '', final: bool = False) -> bool:
        """Mark a trial of ours; a failed one with a `reason` is not tried again, or, where that is
        STOPPED, as often as it takes; `final` outlasts the sweep's beginning anew. False if another
        worker took it for dead."""
        with self._lock:
            self._mine.discard(trial._trial_id)
        try:
            if reason:
                self.storage.set_trial_user_attr(trial._trial_id, 'reason', reason)
            if final:
                self.storage.set_trial_user_attr(trial._trial_id, 'final', True)
            self.storage.set_trial_state_values(
                trial._trial_id, state, None if value is None else [value])
        except UpdateFinishedTrialError:
            return False
        return True

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Show, as long as this lasts, that the trials of this process are served."""
        done = threading.Event()

        def beat() -> None:
            count, heard = 0, True
            while not done.wait(BEAT_SECONDS):
                count += 1
                for trial in list(self._mine):
                    try:
                        self.storage.set_trial_user_attr(trial, 'beat', count)
                        heard = True
                    except UpdateFinishedTrialError:  # it has ended, or was taken for dead
                        self._mine.discard(trial)
                    except Exception as error:  # a full disk, a database away: not for ever
                        if heard:
                            say(f'cannot show the other workers that this one is alive ({error}); '
                                f'trying on every {BEAT_SECONDS:g} s')
                        heard = False

        thread = threading.Thread(target=beat, name='beat', daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def is_ours(self, trial: optuna.Trial) -> bool:
        """Whether nobody took it for dead meanwhile."""
        return trial._trial_id in self._mine


def _chosen(trials: list[FrozenTrial]) -> dict[str, Any]:
    """What the sampler chose for a place: all that was given to its last trial, or found by it."""
    if not trials:
        return {}
    return trials[-1].system_attrs.get('fixed_params', {}) | trials[-1].params


@functools.cache
def machine() -> str:
    """A name for where processes see one another by their numbers."""
    boot, processes = Path('/proc/sys/kernel/random/boot_id'), Path('/proc/self/ns/pid')
    if boot.exists() and processes.is_symlink():
        return f'{boot.read_text().strip()}:{os.readlink(processes)}'
    return socket.gethostname()


def _runs(process: int) -> bool:
    if Path('/proc/self/stat').exists():
        try:
            state = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0]
        except OSError:
            return False
        return state != 'Z'  # killed, and not yet cleared away by its parent
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def join(plan: Plan, storage: optuna.storages.BaseStorage, name: str, anew: bool = True) -> Sweep:
    """The sweep of that name, made if there is none, and begun `anew` where a person asks for it.

    Raises UserError if it has another plan.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = {1: 'minimize', -1: 'maximize'}[plan.sign]
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction=direction)
        study.set_user_attr('plan', plan.to_row())
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
    there = study.user_attrs.get('plan') or plan.to_row()  # its maker may be about to say
    more = plan.sampler != 'grid' and there['trials'] < plan.trials  # of the same are no others
    _check_same(name, there | ({'trials': plan.trials} if more else {}), plan)
    if more:
        study.set_user_attr('plan', plan.to_row())
    if anew:
        study.set_user_attr('forgiven', [trial.number for trial in study.get_trials(
            deepcopy=False, states=[TrialState.FAIL])])
    return Sweep(study, storage, storage.get_study_id_from_name(name), plan)


def _check_same(name: str, there: dict[str, Any], plan: Plan) -> None:
    """Raises UserError where the sweep has another plan."""
    before = from_json(there['config'], f'the sweep {name}')  # newer fields have their defaults
    others = diff(before, plan.config)
    if not others and parse_space(there['space'], before) != plan.space:
        others['space'] = there['space'], plan.text
    others |= {what: (there[what], value) for what, value in plan.to_row().items()
               if what not in ('config', 'space') and there[what] != value}
    if others:
        what, (old, new) = next(iter(others.items()))
        raise UserError(f'the sweep {name} has another {what}: {old!r} there, {new!r} here; choose '
                        'another --workdir, or the same to go on')


def _sampler(plan: Plan, place: int) -> optuna.samplers.BaseSampler:
    if plan.sampler == 'tpe':  # workers at once should not all try the same
        [seed] = np.random.SeedSequence((plan.sampler_seed, place)).generate_state(1)
        return optuna.samplers.TPESampler(constant_liar=True, seed=int(seed))
    return optuna.samplers.RandomSampler()  # asked for nothing: parameters are set beforehand


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
    if plan.pruner == 'hyperband':  # its least budget is what the first measurement has had
        return optuna.pruners.HyperbandPruner(min_resource=plan.config.train.eval_every,
                                              max_resource=plan.config.train.steps)
    if plan.pruner == 'median':
        return optuna.pruners.MedianPruner(n_startup_trials=COMPLETE_FIRST)
    return optuna.pruners.NopPruner()
