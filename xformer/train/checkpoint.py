"""Checkpoints of a run: saved while training goes on, checked before they are trusted, averaged.

The one place that touches Orbax. Orbax writes `checkpoints/STEP/`; `checkpoints/STEP.json` is our
record of it: the metrics, the SHA-256 of every file, and a SHA-256 of the record itself. Orbax
restores wrong arrays without a word after one flipped byte, so nothing is restored unverified.
A record is the last thing written and the first removed: a step without one is not a checkpoint
but a save that was cut short.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xformer.config import UserError, measure_of
from xformer.files import write_atomically

PyTree = Any
Metrics = dict[str, float]


class Checkpoints:
    """The checkpoints of one run, for the one process that writes them.

    Kept are the newest `keep_last` and the `keep_best` by the metric and direction `best_by`, and
    one that is only passing while it is the newest of all. What an earlier process left unfinished
    is removed at once. `say` is told, a sentence each, whatever is removed, damaged or moved;
    while saving it is called from a background thread.
    """

    def __init__(self, folder: Path, keep_last: int, keep_best: int, say: Callable[[str], None],
                 best_by: str):
        self._folder, self._best_by = folder.absolute(), best_by
        self._keep_last, self._keep_best, self._say = keep_last, keep_best, say
        self._background = ThreadPoolExecutor(max_workers=1)
        self._pending: Future | None = None
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in _unfinished(self._folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            say(f'removed {path}, a save that was cut short')

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending; none of their files is read."""
        return _steps(self._folder)

    def save(self, step: int, state: dict[str, PyTree], metrics: Metrics,
             passing: bool = False) -> None:
        """Copies `state` and returns; writing, recording and pruning go on in the background.

        A `passing` one is there to go on from, where a run that nobody interrupts saves none: it
        takes no other's place and no part in means, so that both end with the same checkpoints.

        The arrays may be donated as soon as this returns. A save still under way is waited for.
        Raises UserError if the disk is full or fails, now or in the save before, and ValueError
        if there is a checkpoint of this step already.
        """
        self.wait()
        if step in self.steps():
            raise ValueError(f'there is a checkpoint of step {step} in {self._folder} already')
        checkpointer = _orbax().StandardCheckpointer()
        with _errors_of_the_disk(step, self._folder):
            checkpointer.save(self._folder / str(step), state)
        self._pending = self._background.submit(self._finish, checkpointer, step, metrics, passing)

    def wait(self) -> None:
        """Until everything is on disk; call it before the process ends.

        Raises UserError if the last save could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(self, abstract_state: dict[str, PyTree]) -> tuple[int, dict[str, PyTree]] | None:
        """Step and state of the newest intact checkpoint; None only if there is none at all.

        The leaves of `abstract_state` are jax.ShapeDtypeStruct with shardings. Damaged checkpoints
        newer than the intact one are moved to `damaged/` beside the folder, out of the way of
        their steps being saved again. Raises UserError if every checkpoint is damaged, or if the
        state saved has other arrays than `abstract_state`.
        """
        self.wait()
        newest_first = self.steps()[::-1]
        if not newest_first:
            return None
        intact = next(_intact(self._folder, newest_first, self._say), None)
        if intact is None:
            raise UserError(f'every checkpoint in {self._folder} is damaged (steps '
                            f'{_join(newest_first)}); restore them from a copy, or remove the '
                            'folder to start from step 0')
        state = _load(self._folder / str(intact), abstract_state, whole=True)
        for damaged in newest_first[:newest_first.index(intact)]:
            self._set_aside(damaged)
        return intact, state

    def _finish(self, checkpointer, step: int, metrics: Metrics, passing: bool) -> None:
        with _errors_of_the_disk(step, self._folder):
            checkpointer.wait_until_finished()
            checkpointer.close()
            _write_record(self._folder, step, {name: float(x) for name, x in metrics.items()},
                          passing)
            self._prune()

    def _prune(self) -> None:
        # A checkpoint whose record is damaged has no known metrics: it is named, never removed.
        records = _records(self._folder, self._say)
        metrics = _lasting(records)
        kept = {max(records), *sorted(metrics, reverse=True)[:self._keep_last],
                *_best_first(metrics, self._best_by)[:self._keep_best]}
        for step in records.keys() - kept:
            _record_path(self._folder, step).unlink()
            shutil.rmtree(self._folder / str(step))

    def _set_aside(self, step: int) -> None:
        target, n = self._folder.parent / 'damaged' / str(step), 1
        while target.exists():  # an earlier one, of the same step
            n += 1
            target = target.with_name(f'{step}-{n}')
        target.mkdir(parents=True)
        # The record moves last: killed in between, what is left is still known as damaged.
        for path in (self._folder / str(step), _record_path(self._folder, step)):
            if path.exists():
                path.rename(target / path.name)
        self._say(f'moved the damaged checkpoint of step {step} to {target}')


_WHICH = re.compile(r'(?P<step>[0-9]+)|(?P<one>last|best)'
                    r'|average-(?P<many>last|best):(?P<count>[1-9][0-9]*)')


def read_params(folder: Path, which: str, abstract_params: PyTree, say: Callable[[str], None],
                best_by: str) -> tuple[str, PyTree]:
    """Parameters alone, for readers: ('step 40' or 'mean of steps 20, 40', params).

    `which` is best (by `best_by`; the newer of equals), last, a step, or average-last:K or
    average-best:K, the arithmetic mean of K checkpoints (Vaswani et al. 2017, section 6.1). Sums
    are float64, results of the types of `abstract_params`. A leaf of `abstract_params` without
    a sharding goes to the default device.

    Nothing is written. A damaged checkpoint is named through `say` and the next in order taken.
    Raises UserError for an unknown `which`, a step that is missing or damaged, fewer intact
    checkpoints than `which` needs, or arrays that do not fit `abstract_params`.
    """
    folder = folder.absolute()
    asked = _WHICH.fullmatch(which)
    if not asked:
        raise UserError(f'there is no checkpoint {which!r}; choose best, last, the number of a '
                        'step, average-last:K or average-best:K')
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}; name the folder of a run')
    for path in _unfinished(folder):
        say(f'{path} is a save under way, or one that was cut short; it is not used')

    steps = _steps(folder)
    if asked['step']:
        order = [step for step in steps if step == int(asked['step'])]
    elif which == 'last':
        order = steps[::-1]
    else:
        metrics = _lasting(_records(folder, say))
        order = _best_first(metrics, best_by) if 'best' in which else sorted(metrics, reverse=True)
    needed = int(asked['count'] or 1)
    chosen = sorted(islice(_intact(folder, order, say), needed))
    if len(chosen) < needed:
        with_metric = f' with a {measure_of(best_by)[0]}' if 'best' in which else ''
        raise UserError(f'{which!r} needs {needed} intact checkpoint{"s" * (needed > 1)}'
                        f'{with_metric}, {folder} has {len(chosen)}; ask for others (steps there: '
                        f'{_join(steps)}), or restore damaged ones from a copy')
    params = jax.tree.map(lambda x, leaf: jax.device_put(x.astype(leaf.dtype), leaf.sharding),
                          _mean_params(folder, chosen, abstract_params), abstract_params)
    return f'{"mean of steps" if needed > 1 else "step"} {_join(chosen)}', params


def _mean_params(folder: Path, steps: list[int], abstract_params: PyTree) -> PyTree:
    """The mean over `steps` as float64 NumPy arrays; one checkpoint beside the sum is held."""
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
                            {'params': abstract_params})
    total = None
    for step in steps:
        params = _load(folder / str(step), abstract, whole=False)['params']
        if total is None:
            total = jax.tree.map(lambda x: x.astype(np.float64), params)
        else:
            jax.tree.map(np.add, total, params, total)  # the third argument is where sums go
    return jax.tree.map(lambda x: x / len(steps), total)


# What is on disk, and whether it is intact


class _Damage(Exception):
    """What is wrong with a checkpoint, in a few words."""


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob('*.json') if path.stem.isdecimal())


def _join(steps: Iterable[int]) -> str:
    return ', '.join(map(str, steps)) or 'none'


def _record_path(folder: Path, step: int) -> Path:
    return folder / f'{step}.json'


def _unfinished(folder: Path) -> list[Path]:
    """Steps without a record, and the temporary files of Orbax and of records."""
    return [path for path in sorted(folder.iterdir())
            if re.fullmatch(r'[0-9]+\.(orbax-checkpoint-tmp.*|json\..*\.tmp)', path.name)
            or path.name.isdecimal() and not _record_path(folder, int(path.name)).exists()]


def _seal(content: dict[str, Any]) -> bytes:
    """The bytes of a record: its content and the SHA-256 of that content, as JSON."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return (json.dumps({**content, 'sha256': digest}, indent=1) + '\n').encode()


def _write_record(folder: Path, step: int, metrics: Metrics, passing: bool) -> None:
    write_atomically(_record_path(folder, step), _seal({
        'step': step, 'metrics': metrics, 'passing': passing,
        'files': _digests(folder / str(step))}))


def _read_record(folder: Path, step: int) -> dict[str, Any]:
    path = _record_path(folder, step)
    try:
        sealed = path.read_bytes()
        record = json.loads(sealed)
        del record['sha256']
        sound = sealed == _seal(record) and record['step'] == step
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damage(f'{path.name} cannot be read') from error
    if not sound:
        raise _Damage(f'{path.name} is not as it was written')
    return {'passing': False} | record  # older ones do not say it


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its path from there."""
    digests = {}
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
        with open(path, 'rb') as file:
            digests[path.relative_to(folder).as_posix()] = \
                hashlib.file_digest(file, 'sha256').hexdigest()
    return digests


def _verify(folder: Path, step: int) -> None:
    """Raises _Damage unless the files are exactly those recorded, byte for byte."""
    recorded = _read_record(folder, step)['files']
    try:
        found = _digests(folder / str(step))
    except OSError as error:
        raise _Damage(f'{error.filename} cannot be read: {error.strerror}') from error
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            raise _Damage(f'{step}/{name} is missing')
        if name not in recorded:
            raise _Damage(f'{step}/{name} is not part of it')
        if found[name] != recorded[name]:
            raise _Damage(f'{step}/{name} is not as it was written')


def _intact(folder: Path, steps: Iterable[int], say: Callable[[str], None],
            check: Callable[[Path, int], Any] = _verify) -> Iterator[int]:
    """Those of `steps` that pass the check, in order; each of the others is named."""
    for step in steps:
        try:
            check(folder, step)
        except _Damage as damage:
            say(f'checkpoint {step} in {folder} is damaged ({damage}) and is not used')
        else:
            yield step


def _records(folder: Path, say: Callable[[str], None]) -> dict[int, dict[str, Any]]:
    """Records by step; a checkpoint whose record is damaged is named and left out."""
    return {step: _read_record(folder, step)
            for step in _intact(folder, _steps(folder), say, check=_read_record)}


def _lasting(records: dict[int, dict[str, Any]]) -> dict[int, Metrics]:
    """Metrics by step, of those that are not only passing."""
    return {step: record['metrics'] for step, record in records.items() if not record['passing']}


def _best_first(metrics: dict[int, Metrics], best_by: str) -> list[int]:
    """Steps with a finite value of that metric, the best first; of equals, the newer first."""
    name, sign = measure_of(best_by)
    values = {step: sign * row[name] for step, row in metrics.items()
              if math.isfinite(row.get(name, math.nan))}
    return sorted(values, key=lambda step: (values[step], -step))


@contextmanager
def _errors_of_the_disk(step: int, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        # TensorStore, below Orbax, reports an error of the disk as a ValueError with this mark.
        mark = re.search(r"os_error_code='([0-9]+)'", str(error))
        if not isinstance(error, OSError) and not mark:
            raise
        reason = os.strerror(int(mark[1]) if mark else error.errno)
        raise UserError(f'checkpoint {step} could not be written to {folder} ({reason}); '
                        'mend that, then run the same command to go on from the checkpoint '
                        'before it') from error


# Orbax


@cache
def _orbax():
    """Imported when first needed (a second), and silenced: absl would print 40 lines for a save,
    and tracebacks of errors that are raised as well."""
    import orbax.checkpoint
    from absl import logging
    logging.set_verbosity(logging.FATAL)
    getLogger('asyncio').setLevel(CRITICAL)  # tracebacks of the same errors, once more
    sys.unraisablehook = partial(_without_echoes, sys.unraisablehook)
    return orbax.checkpoint


def _without_echoes(report: Callable, unraisable) -> None:
    """`report` what Python cannot raise, except for writes that end after their save has failed:
    each finds Orbax's event loop closed, and the failure itself is raised."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'):
        report(unraisable)


def _load(path: Path, abstract: dict[str, PyTree], whole: bool) -> dict[str, PyTree]:
    """The arrays of `abstract`, which may leave out entries of the state unless `whole`.

    Orbax casts silently where types differ: names, shapes and types are compared first. Leaves
    without a sharding are restored as NumPy arrays.
    """
    ocp = _orbax()
    with ocp.PyTreeCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata.tree
        there = _arrays(stored if whole else {name: stored[name] for name in abstract})
        here = _arrays(abstract)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise UserError(f'{path} does not fit this model: {name} is {there.get(name)} '
                                f'there and {here.get(name)} here; use the configuration it was '
                                'trained with')
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(
            abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=not whole))


def _arrays(tree: PyTree) -> dict[str, str]:
    """Type and shape by name: {'params.embed': 'float32[80, 64]', ...}."""
    return {jax.tree_util.keystr(path, simple=True, separator='.'): f'{x.dtype}{list(x.shape)}'
            for path, x in jax.tree_util.tree_leaves_with_path(tree)}
