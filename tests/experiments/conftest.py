"""The real commands, run as their users run them, and one tiny trained run that all tests share."""

import fcntl
import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from forked import run_forked

ROOT = Path(__file__).parents[2]
STEPS = 60

CONFIG = '''"""Spell a word in capitals, with marks that do not count."""
from xformer.config import *

CONFIG = Config(
    model=ModelConfig(num_encoder_layers=1, num_decoder_layers=1, d_model=16, num_heads=2,
                      d_ff=32, max_length=8, dropout=0.1, layers='scan'),
    data=DataConfig(train={train!r}, target_tokenizer='word', score_strip='01',
                    batch_tokens=256, max_buckets=2, min_fill=0.5),
    optim=OptimConfig(schedule='constant', peak_learning_rate=2e-2, warmup_steps=5,
                      clip_norm=1.0),
    train=TrainConfig(steps={steps}, accumulate=2, log_every=5, eval_every=20, save_every=10,
                      keep_last=3))
'''

LANGUAGE = '''"""Sums of two digits, a text of many lines."""
from xformer.config import *

CONFIG = Config(
    model=ModelConfig(family='decoder', num_encoder_layers=0, num_decoder_layers=1, d_model=32,
                      num_heads=2, d_ff=64, max_length=64, dropout=0.0, positions='rotary',
                      layers='unroll'),
    data=DataConfig(objective='lm', train={train!r}, dev={train!r}, test={train!r}, format='text',
                    batch_tokens=512),
    optim=OptimConfig(schedule='constant', peak_learning_rate=1e-2, warmup_steps=5),
    train=TrainConfig(steps={steps}, log_every=20, eval_every=40, save_every=40))
'''


def sums() -> str:
    """'3+4=7' and its like, all hundred of them, ten times in different orders."""
    lines = [f'{a}+{b}={a + b}\n' for a in range(10) for b in range(10)]
    return ''.join(''.join(random.Random(i).sample(lines, 100)) for i in range(10))


def pairs() -> list[tuple[str, str]]:
    """'abd' -> 'A0 B1 D0', and for each fifth word a second way, 'D0 B0 A0'."""
    words = [''.join(letters) for n in (2, 3, 4) for letters in itertools.product('abcd', repeat=n)]
    return [pair for i, word in enumerate(words) for pair in (
        (word, ' '.join(f'{x.upper()}{k % 2}' for k, x in enumerate(word))),
        (word, ' '.join(f'{x.upper()}0' for x in reversed(word))))[:1 + (i % 5 == 0)]]


def tsv(rows: list[tuple[str, str]]) -> str:
    return ''.join(f'{source}\t{target}\n' for source, target in rows)


@pytest.fixture(scope='session')
def shared(tmp_path_factory) -> Path:
    """A folder that the workers of this session share, with tiny.py and its data."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'experiments'
    folder.mkdir(exist_ok=True)
    for name, text in {
            'pairs.tsv': tsv(pairs()), 'sums.txt': sums(),
            'tiny.py': CONFIG.format(train=str(folder / 'pairs.tsv'), steps=STEPS),
            'language.py': LANGUAGE.format(train=str(folder / 'sums.txt'), steps=80)}.items():
        temporary = folder / f'{name}.{os.getpid()}'
        temporary.write_text(text)
        temporary.replace(folder / name)
    return folder


@pytest.fixture(scope='session')
def environment(shared) -> dict[str, str]:
    """Of the commands."""
    inherited = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    return inherited | {
        'PYTHONPATH': str(ROOT), 'PYTHONUTF8': '1', 'PYTHONFAULTHANDLER': '1',
        'JAX_PLATFORMS': 'cpu', 'XFORMER_CACHE': str(shared / 'cache')}


@pytest.fixture(scope='session')
def start(environment) -> Iterator[Callable[..., subprocess.Popen]]:
    """start('train', '--config=...', cwd=..., env={...}): the command, under way."""
    started = []

    def start(module: str, *args, cwd: Path, env: dict[str, str] | None = None, **streams):
        streams = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE,
                   'stderr': subprocess.PIPE} | streams
        started.append(subprocess.Popen(
            [sys.executable, '-m', f'experiments.{module}', *map(str, args)], cwd=cwd,
            encoding='utf-8', env=environment | (env or {}), **streams))
        return started[-1]
    yield start
    for process in started:
        process.kill()  # those that a failed test left behind


@pytest.fixture(scope='session')
def finish(start, environment, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """As `start`, but run to its end; `text` goes to its standard input.

    A command with an `env` of its own is a process of its own, any other is forked.
    """
    folder = tmp_path_factory.mktemp('forked')

    def finish(module: str, *args, cwd: Path, text: str = '', env: dict[str, str] | None = None
               ) -> subprocess.CompletedProcess:
        if not env:
            return run_forked([f'experiments.{module}', *map(str, args)], cwd, environment, text,
                              folder)
        with start(module, *args, cwd=cwd, env=env, stdin=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(text, timeout=300)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # stderr then shows where it hangs
                out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
    return finish


@pytest.fixture
def run(finish, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """run('generate', '--model=...', text=..., cwd=..., env=...): the command, once it has ended.

    It runs in the folder of the test unless told otherwise.
    """
    def run(*args, **options) -> subprocess.CompletedProcess:
        return finish(*args, **{'cwd': tmp_path} | options)
    return run


@pytest.fixture(scope='session')
def trained(trained_once) -> Path:
    """What undisturbed training of tiny.py gives. Read it only; `mine` is a copy to change."""
    return trained_once('tiny')[0]


@pytest.fixture(scope='session')
def language_model(trained_once) -> Path:
    """A decoder that has read the sums. Read it only."""
    return trained_once('language')[0]


@contextmanager
def first(shared: Path, name: str) -> Iterator[bool]:
    """Whether this worker is the first to make `name`; the others wait until it has."""
    with open(shared / f'{name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shared / f'{name}.done'
        yield not done.exists()
        done.touch()


@pytest.fixture(scope='session')
def trained_once(shared, finish) -> Callable[..., tuple[Path, str]]:
    """trained_once('labels', {'labels.py': ...}): (run folder, what training said) of labels.py in
    the shared folder, after these files were written. It fills the compile cache of all."""
    def trained_once(name: str, files: dict[str, str] | None = None) -> tuple[Path, str]:
        said = shared / f'{name}.said'
        with first(shared, name) as is_first:
            if is_first:
                for file, text in (files or {}).items():
                    (shared / file).write_text(text)
                result = finish('train', f'--config={name}.py', f'--workdir={name}', cwd=shared)
                assert result.returncode == 0, result.stderr
                said.write_text(result.stderr)
        return shared / name, said.read_text()
    return trained_once


@pytest.fixture(scope='session')
def untrained(small, shared) -> Callable[[str], Path]:
    """untrained('encoder'): the run folder of a small model that nobody trained. Read it only."""
    from xformer.config import to_json
    from xformer.train.checkpoint import Checkpoints

    @functools.cache
    def untrained(family: str) -> Path:
        with first(shared, family) as is_first:
            if is_first:
                make(small(family), shared / family)
        return shared / family

    def make(one, folder: Path) -> None:
        folder.mkdir()
        (folder / 'config.json').write_text(to_json(one.config))
        (folder / 'manifest.json').write_text('{"data_fingerprint": ""}')
        one.tokenizers.save(folder)
        checkpoints = Checkpoints(folder / 'checkpoints', 1, 0, print, one.config.train.best_by)
        checkpoints.save(7, {'params': one.params}, {'dev/loss': 1.0})
        checkpoints.wait()
    return untrained


@pytest.fixture(scope='session')
def without_jax(tmp_path_factory) -> dict[str, str]:
    """An environment in which importing a heavy package is a failure of its own."""
    folder = tmp_path_factory.mktemp('without_jax')
    for name in ('jax', 'flax', 'orbax', 'matplotlib'):
        (folder / f'{name}.py').write_text(f'raise AssertionError("{name} was imported")\n')
    return {'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}'}


@pytest.fixture
def answered_early(run, untrained, without_jax) -> Callable[[str, str], None]:
    """answered_early('embed', '--model={run} ...'): one sentence, and no heavy import before it."""
    def answered_early(module: str, arguments: str) -> None:
        result = run(module, *arguments.format(run=untrained('encoder')).split(), env=without_jax)
        assert (result.returncode, result.stdout) == (2, '')
        assert re.fullmatch(f'{module}: [^\n]+\n', result.stderr)
    return answered_early


@pytest.fixture
def mine(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / 'mine'))


@pytest.fixture(scope='session')
def contents() -> Callable[[Path], dict]:
    """contents(folder): every file's bytes (None for a folder) by its path."""
    def contents(folder: Path) -> dict[str, bytes | None]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
                for path in sorted(folder.rglob('*'))}
    return contents


@pytest.fixture(scope='session')
def rows() -> Callable[[Path], list[dict]]:
    """rows(path): the lines of a .jsonl file."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]
