"""One trial of a sweep: its runs, one after the other, as the ordinary commands in processes of
their own."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from xformer.checks import validate
from xformer.config import UserError, override, to_json
from xformer.files import write_atomically
from xformer.sweep.study import STOPPED, Sweep
from xformer.train.folder import is_held
from xformer.train.telemetry import best_row, read_rows

POLL_SECONDS = 0.5
TAKEN = 'another worker took it over'
SAVED = 75  # the exit code of training that was asked to stop
NOT_FINITE = 3  # and where its loss is no number any more


def entry_point(command: str) -> list[str]:
    """The command line of train or evaluate."""
    return [sys.executable, '-m', f'experiments.{command}']


class Ended(Exception):
    """A trial that ended without a value."""

    def __init__(self, state: TrialState, reason: str = '', final: bool = False):
        super().__init__(reason)
        self.state, self.reason, self.final = state, reason, final


class Runner:
    """Serves trials; `folder` is the sweep's."""

    def __init__(self, sweep: Sweep, folder: Path, say: Callable[[str], None]):
        self._sweep, self._folder, self._say = sweep, folder, say
        self._stop, self._children = threading.Event(), set()
        self._begins = threading.RLock()  # so that a run that begins is told, too, and once

    def stop(self) -> None:
        """Let all runs save and end; nothing more is begun."""
        with self._begins:
            self._stop.set()
            for child in self._children:
                child.send_signal(signal.SIGTERM)

    def work(self) -> None:
        """Serve trials until the sweep is finished, or `stop`."""
        while not self._stop.is_set():
            trial = self._sweep.claim()
            if trial is not None:
                self._serve(trial)
            elif self._sweep.finished():
                return
            else:
                self._stop.wait(POLL_SECONDS)

    def _serve(self, trial: optuna.Trial) -> None:
        place = trial.user_attrs['place']
        try:
            values = self._values(trial, place)
            trial.set_user_attr('values', values)
        except Ended as ended:
            self._sweep.end(trial, ended.state, self._last_value(trial, ended), ended.reason,
                            ended.final)
            self._say(f'trial {place}: {ended.reason or ended.state.name.lower()}')
            return
        except UpdateFinishedTrialError:
            self._say(f'trial {place}: {TAKEN}')
            return
        mean = statistics.mean(values)
        if self._sweep.end(trial, TrialState.COMPLETE, mean):
            self._say(f'trial {place}: {self._sweep.plan.measure} {mean:.5g}'
                      + (f' ± {statistics.stdev(values):.2g}' if len(values) > 1 else ''))

    def _last_value(self, trial: optuna.Trial, ended: Ended) -> float | None:
        """What a pruned trial had reached."""
        found = self._sweep.storage.get_trial(trial._trial_id).intermediate_values
        return found[max(found)] if ended.state is TrialState.PRUNED and found else None

    def _values(self, trial: optuna.Trial, place: int) -> list[float]:
        """The metric of each seed."""
        plan = self._sweep.plan
        try:
            settings = self._sweep.settings(trial)
            validate(override(plan.config, settings))
        except UserError as error:
            raise Ended(TrialState.FAIL, str(error)) from None
        trial.set_user_attr('settings', settings)
        trial.set_user_attr('folder', f'{socket.gethostname()}:{self._folder.resolve()}')
        return [self._trained(trial, self._folder / 'trials' / f'{place:04}' / f'seed-{seed}',
                              settings | {'train.seed': plan.config.train.seed + seed}, seed == 0)
                for seed in range(plan.seeds)]

    def _trained(self, trial: optuna.Trial, folder: Path, settings: dict, reports: bool) -> float:
        """The metric of one run."""
        name = self._sweep.plan.measure
        flags = [f'--config.{field}={value}' for field, value in settings.items()]
        rows = _Follower(folder / 'metrics.jsonl', name)

        def report() -> None:
            for step, value in rows.new() if reports else ():
                trial.report(value, step)

        def watch() -> None:
            report()
            if reports and trial.should_prune():
                raise Ended(TrialState.PRUNED)

        command = [f'--config={self._folder / "base.json"}', *flags, f'--workdir={folder}']
        while not self._train(trial, folder, command, watch):
            pass
        report()
        best = best_row(read_rows(folder / 'metrics.jsonl'), self._sweep.plan.metric)
        if best:
            return best[name]
        if reports and self._sweep.plan.pruner != 'none':
            self._say(f'--pruner={self._sweep.plan.pruner} has no effect: {name} is measured by '
                      'evaluate alone, after training')
        return self._evaluated(trial, folder, name.removeprefix('dev/'))

    def _train(self, trial: optuna.Trial, folder: Path, command: list[str],
               watch: Callable[[], None]) -> bool:
        """Train, or False where what a worker that died had begun was first in the folder."""
        while is_held(folder) and not self._stop.wait(POLL_SECONDS):
            pass  # it ends by itself
        try:
            self._run(trial, folder, 'train', command, watch)
        except Ended as ended:
            waits = ended.state is TrialState.FAIL and is_held(folder)
            if self._stop.is_set() or not self._sweep.is_ours(trial) or not waits:
                raise
            return False
        return True

    def _evaluated(self, trial: optuna.Trial, folder: Path, name: str) -> float:
        """What experiments.evaluate measures of the best checkpoint."""
        self._run(trial, folder, 'evaluate', [f'--model={folder}', '--split=dev'])
        metrics = json.loads((folder / 'eval' / 'dev.json').read_text())['metrics']
        numbers = {each: x for each, x in metrics.items() if not isinstance(x, str)}
        if name not in numbers:  # nor will it be in any other trial
            raise UserError(f'--metric=dev/{name} is measured neither in training nor by evaluate, '
                            f'which has {", ".join(numbers)}; choose another, and a --workdir')
        return numbers[name]

    def _run(self, trial: optuna.Trial, folder: Path, command: str, flags: list[str],
             watch: Callable[[], None] = lambda: None) -> None:
        """Raises Ended unless the command succeeds, and where `watch` does."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix('.log')
        with self._begins, open(log, 'ab') as output:
            if self._stop.is_set():
                raise Ended(TrialState.FAIL, STOPPED)
            child = subprocess.Popen([*entry_point(command), *flags], stdin=subprocess.DEVNULL,
                                     stdout=output, stderr=output)
            self._children.add(child)
        try:
            self._wait(child, trial, watch)
        finally:
            with self._begins:
                self._children.discard(child)
        if child.returncode == SAVED or child.returncode and self._stop.is_set():
            raise Ended(TrialState.FAIL, STOPPED)
        if child.returncode:
            lines = log.read_text(errors='replace').strip().splitlines()
            said = lines[-1] if lines else 'nothing'
            reason = f'{command} exited with {child.returncode} and said: {said} ({log})'
            raise Ended(TrialState.FAIL, reason if child.returncode > 0 else '',
                        final=child.returncode == NOT_FINITE)

    def _wait(self, child: subprocess.Popen, trial: optuna.Trial, watch: Callable[[], None]
              ) -> None:
        """Until the child has ended; ended by us where the trial is pruned or was given away."""
        try:
            while _runs_on(child):
                if not self._sweep.is_ours(trial):
                    raise Ended(TrialState.FAIL, TAKEN)
                watch()
        except BaseException:  # whatever it is, nobody is left who would watch the run
            child.terminate()
            child.wait()
            raise


class _Follower:
    """What a growing metrics.jsonl says of one measure."""

    def __init__(self, path: Path, name: str):
        self._path, self._name, self._step = path, name, 0

    def new(self) -> list[tuple[int, float]]:
        """(step, value) of every row since the last call."""
        rows = [(row['step'], row[self._name]) for row in read_rows(self._path)
                if self._name in row and row['step'] > self._step]
        self._step = rows[-1][0] if rows else self._step
        return rows


def _runs_on(child: subprocess.Popen) -> bool:
    """Whether it has not ended after a moment."""
    try:
        child.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def prepare_folder(folder: Path, sweep: Sweep) -> None:
    """The configuration that the runs begin with, where their command finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / 'base.json', to_json(sweep.plan.config))


def work_together(runner: Runner, workers: int) -> None:
    """`runner.work` in so many threads, each with its share of the processors."""
    with ThreadPoolExecutor(workers, thread_name_prefix='worker') as pool:
        working = [pool.submit(_alone, runner, number, workers) for number in range(workers)]
        try:
            for each in as_completed(working):
                each.result()  # raises what it raised
        except BaseException:
            runner.stop()
            raise


def _alone(runner: Runner, number: int, workers: int) -> None:
    if hasattr(os, 'sched_setaffinity'):  # of this thread, and of the processes that it begins
        there = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, there[number::workers] or there)
    runner.work()
