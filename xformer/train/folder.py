"""The run folder: made once, recognised afterwards, never overwritten by another run."""

import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xformer.config import Config, UserError, diff, read_config, to_flat, to_json
from xformer.console import say
from xformer.data.pipeline import Corpus
from xformer.files import write_atomically

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'sentencepiece',
            'tokenizers')

AUTOMATIC = {'model.vocab_size': 0, 'model.num_labels': 0, 'model.pad_id': -1, 'model.bos_id': -1,
             'model.eos_id': -1}
LOCK = '.lock'
BEFORE_CONFIG = (LOCK, 'config.json.*.tmp')  # what a kill may leave before a folder is a run


def check_folder(folder: Path, config: Config) -> None:
    """Raise UserError if `folder` holds something other than this configuration's run.

    `config` is as the user gave it: what it leaves to the tokenizer is not compared.
    """
    path = folder / 'config.json'
    if not path.exists():
        if folder.exists() and not folder.is_dir():
            raise UserError(f'{folder} is a file; choose another --workdir')
        if folder.exists() and not all(any(map(item.match, BEFORE_CONFIG))
                                       for item in folder.iterdir()):
            raise UserError(f'{folder} is not empty and holds no run; choose another --workdir')
        return
    changes = diff(read_config(folder), config)
    for name, automatic in AUTOMATIC.items():
        if to_flat(config)[name] == automatic:
            changes.pop(name, None)
    if changes:
        listed = '; '.join(f'{name} is {old!r} there, {new!r} here'
                           for name, (old, new) in changes.items())
        raise UserError(f'{folder} holds a run with another configuration ({listed}); choose '
                        'another --workdir, or the same configuration to go on')


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder and hold it for this process; raise UserError if another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make {folder} ({error.strerror}); choose another --workdir'
                        ) from None
    with open(folder / LOCK, 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f'another process is training in {folder}; wait for it, or choose '
                            'another --workdir') from None
        try:
            yield
        except OSError as error:  # a write to an open file does not say to which
            error.filename = error.filename or str(folder)
            raise


def is_held(folder: Path) -> bool:
    """Whether a process is training there."""
    try:
        with open(folder / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def create_folder(folder: Path, config: Config, corpus: Corpus, parallel: dict,
                  origins: dict[str, dict | None]) -> None:
    """Write what the run is: config, tokenizers, held-out texts, manifest. Idempotent.

    A folder of the same configuration whose data have changed since is refused.
    """
    manifest = folder / 'manifest.json'
    if manifest.exists():
        before = read_manifest(folder)
        if before['data_fingerprint'] != corpus.fingerprint:
            raise UserError(f'the training data are not those that {folder} was trained on; '
                            'restore them, or choose another --workdir')
        changed = [split for split, fingerprint in before.get('held_out', {}).items()
                   if fingerprint != corpus.stores[split].fingerprint]
        if changed:
            raise UserError(f'the {changed[0]} split is not the one that {folder} was measured on; '
                            'restore it, or choose another --workdir')
        if before['devices'] != parallel:
            say(f'begun on {_listed(before["devices"])}, going on with {_listed(parallel)}: from '
                'here on sums round otherwise, and dropout may draw otherwise, than they would '
                'have')
        return
    write_atomically(folder / 'config.json', to_json(config))
    corpus.tokenizers.save(folder)
    shutil.copytree(corpus.held_out, folder / 'data', dirs_exist_ok=True)
    about = describe(corpus, parallel) | {name: run for name, run in origins.items() if run}
    write_atomically(manifest, json.dumps(about, indent=2) + '\n')


def read_manifest(folder: Path) -> dict:
    """What `describe` said of a run. Raises UserError where it is missing or damaged."""
    try:
        return json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {folder}/manifest.json ({error}); restore it from a copy'
                        ) from None


def held_out(folder: Path, split: str) -> list:
    """The pairs or documents of the dev or test split, as they were when the run began."""
    path = folder / 'data' / f'{split}.jsonl'
    try:
        with open(path, encoding='utf-8') as file:  # splitlines would also split at U+2028
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read the {split} split in {path} ({error}); give '
                        '--input=FILE instead') from None


def _listed(devices: dict) -> str:
    return ', '.join(f'{name} {value}' for name, value in devices.items())


def describe(corpus: Corpus, parallel: dict) -> dict:
    """Where a run comes from: data, code, packages, machine, command."""
    return {
        'data_fingerprint': corpus.fingerprint,
        'held_out': {split: store.fingerprint for split, store in corpus.stores.items()
                     if split != 'train'},
        'examples': {split: len(store) for split, store in corpus.stores.items()},
        'dropped': {split: store.manifest.get('dropped', 0)
                    for split, store in corpus.stores.items()},
        'commit': commit_of_code(),
        'python': platform.python_version(),
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES},
        'platform': platform.platform(),
        'processor': processor(),
        'cpus': cpus(),
        'devices': parallel,
        'command': [Path(sys.argv[0]).stem, *sys.argv[1:]],
        'environment': {name: os.environ[name] for name in ('XLA_FLAGS', 'JAX_PLATFORMS')
                        if name in os.environ},
    }


def processor() -> str:
    """The model of this machine's processor, as far as the system tells."""
    cpuinfo = Path('/proc/cpuinfo')
    named = re.search(r'model name\s*: (.+)', cpuinfo.read_text() if cpuinfo.exists() else '')
    return named[1] if named else platform.processor() or platform.machine()


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def commit_of_code() -> str:
    """The commit of the code, with '+changes' where files differ from it, other than the results
    that reproduce writes; '' outside git."""
    here = Path(__file__).parent
    but_results = ':/', ':(exclude,top)RESULTS.md', ':(exclude,top)results'
    try:
        commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=here, capture_output=True,
                                text=True, check=True).stdout.strip()
        dirty = subprocess.run(['git', 'status', '--porcelain', '--untracked-files=no', '--',
                                *but_results], cwd=here, capture_output=True, text=True,
                               check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''
    return commit + ('+changes' if dirty else '')
