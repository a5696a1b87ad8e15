"""From a configuration to stores on disk, and from a plan to batches made ahead of time."""

import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xformer.config import Config, UserError
from xformer.data.sources import SPLITS, input_files, read_pairs
from xformer.data.store import FORMAT, TokenStore, build_store, fresh_folder, open_store, writing
from xformer.data.tokenizers import Tokenizers, load_tokenizers, train_tokenizers

T = TypeVar('T')
Say = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """The tokenizers and the token store of every split."""

    tokenizers: Tokenizers
    stores: dict[str, TokenStore]

    @property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of what a model is trained on: train ids and tokenizers."""
        both = self.stores['train'].fingerprint + self.tokenizers.fingerprint
        return hashlib.sha256(both.encode()).hexdigest()


def prepare(config: Config, say: Say = lambda sentence: None) -> Corpus:
    """Trains the tokenizers on the train split and tokenises all splits, or reuses the cache.

    The cache is $XFORMER_CACHE (default ~/.cache/xformer), keyed by the content of the files and
    by every setting that matters here. `say` hears what is done. Raises UserError for any fault
    of the user's files or of the cache folder.
    """
    cache = Path(os.environ.get('XFORMER_CACHE') or '~/.cache/xformer').expanduser()
    folder = cache / 'stores' / _key(config)

    tokenizers = _reuse(folder / 'tokenizers', load_tokenizers,
                        lambda path: _train(path, config, say), say)
    stores = {split: _reuse(folder / split, lambda path: _open(path, tokenizers),
                            lambda path: _tokenise(path, config, tokenizers, say), say)
              for split in SPLITS}
    return Corpus(tokenizers, stores)


def prefetch(make_batch: Callable[[int], T], start: int, stop: int,
             depth: int = 2) -> Iterator[tuple[T, float]]:
    """make_batch(start), ..., make_batch(stop - 1), made up to `depth` ahead in a thread.

    Each comes with the seconds that the consumer waited for it. An exception in the thread is
    raised here; closing the iterator ends the thread.
    """
    ready, closed = queue.Queue(maxsize=depth), threading.Event()

    def produce() -> None:
        for i in range(start, stop):
            try:
                ready.put((make_batch(i), None))
            except BaseException as error:  # handed over: the consumer raises it
                ready.put((None, error))
                return
            if closed.is_set():
                return

    thread = threading.Thread(target=produce, name='prefetch', daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            asked = time.perf_counter()
            batch, error = ready.get()
            if error is not None:
                raise error
            yield batch, time.perf_counter() - asked
    finally:
        closed.set()
        while not ready.empty():  # frees a put that waits, after which the thread sees `closed`
            ready.get_nowait()
        thread.join()


def _reuse(folder: Path, load: Callable[[Path], T], make: Callable[[Path], T], say: Say) -> T:
    """What is cached in `folder`; made anew, and said so, if it is damaged."""
    with writing(folder):
        if folder.exists():
            try:
                return load(folder)
            except UserError as error:
                say(f'making {folder.name} again: {error}')
                shutil.rmtree(folder)
        return make(folder)


def _train(folder: Path, config: Config, say: Say) -> Tokenizers:
    say('training the tokenizers')
    with fresh_folder(folder) as unfinished:
        train_tokenizers(config.data, read_pairs(config.data, 'train')).save(unfinished)
    tokenizers = load_tokenizers(folder)
    say(f'vocabulary: {tokenizers.vocab_size:,} tokens')
    return tokenizers


def _tokenise(folder: Path, config: Config, tokenizers: Tokenizers, say: Say) -> TokenStore:
    say(f'tokenising {folder.name}')
    store = build_store(
        folder, read_pairs(config.data, folder.name), tokenizers, split=folder.name,
        max_length=config.model.max_length, too_long=config.data.too_long)
    say('{split} split: {examples:,} pairs, {source_tokens:,} source and {target_tokens:,} target '
        'tokens, {dropped:,} pairs dropped as too long'.format_map(store.manifest))
    return store


def _open(folder: Path, tokenizers: Tokenizers) -> TokenStore:
    store = open_store(folder)
    if store.manifest['tokenizer'] != tokenizers.fingerprint:
        raise UserError(f'the token store {folder} was made with another tokenizer')
    return store


def _key(config: Config) -> str:
    """A name for everything that the tokenizers and stores depend on."""
    data = config.data
    pieces = data.source_tokenizer in ('bpe', 'unigram')
    settings = {
        'format': FORMAT,
        'reader': data.dataset or data.format,
        'files': {split: [_digest(path) for path in paths]
                  for split, paths in input_files(data).items()},
        'tokenizers': [data.source_tokenizer, data.target_tokenizer,
                       data.vocab_size if pieces else None],
        'lowercase_source': data.lowercase_source,
        'max_length': config.model.max_length,
        'too_long': data.too_long,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    try:
        with open(path, 'rb') as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
        raise UserError(f'cannot read {path} ({error.strerror}); check the path') from None
