"""From a configuration to stores on disk, and from a plan to batches made ahead of time."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from xformer.config import CHOOSING, Config, DataConfig, UserError
from xformer.console import counting
from xformer.data.layouts import labels_in, layout_of, scale
from xformer.data.sources import digests, kind_of, read_examples, splits_of
from xformer.data.sources.datasets import cache_folder
from xformer.data.sources.files import digest
from xformer.data.store import FORMAT, TokenStore, build_store, open_store, unfinished, writing
from xformer.data.tokenizers import (
    Tokenizers,
    load_tokenizers,
    tokenizer_files,
    train_tokenizers,
)

T = TypeVar('T')
Say = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """The tokenizers and the token store of every split there is; `held_out` has the texts of
    SPLIT.jsonl for all but train."""

    tokenizers: Tokenizers
    stores: dict[str, TokenStore]
    held_out: Path

    @property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of what a model is trained on: train ids and tokenizers."""
        both = self.stores['train'].fingerprint + self.tokenizers.fingerprint
        return hashlib.sha256(both.encode()).hexdigest()


def prepare(config: Config, say: Say = lambda sentence: None,
            given: Tokenizers | None = None) -> Corpus:
    """Trains the tokenizers on the train split and tokenises all splits, or reuses the cache.

    With tokenizers that are `given` (of the model that training starts from) none are trained.

    The cache is $XFORMER_CACHE (default ~/.cache/xformer), keyed by the content of the files and
    by every setting that matters here. Killed while it tokenises, the same call goes on from
    there. `say` hears what is done. Raises UserError for any fault of the user's files or of the
    cache folder.
    """
    folder = cache_folder() / 'stores' / _key(config, given)
    with _alone(folder, say):
        tokenizers = _reuse(folder / 'tokenizers', load_tokenizers,
                            lambda path: _train(path, config.data, given, say), say)
        stores = {split: _reuse(folder / split, lambda path: _open(path, tokenizers),
                                lambda path: _tokenise(path, config, tokenizers, say), say)
                  for split in splits_of(config.data)}
        held_out = _reuse(folder / 'held_out', lambda path: path,
                          lambda path: _hold_out(path, config.data), say)
    return Corpus(tokenizers, stores, held_out)


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


@contextlib.contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Makes the folder and holds it: of several processes, one prepares and the others wait."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / '.lock', 'w')
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting for another process that prepares the same data')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


def _train(folder: Path, data: DataConfig, given: Tokenizers | None, say: Say) -> Tokenizers:
    if not given:
        say(f'reading the tokenizer {data.tokenizer_file}' if data.tokenizer_file else
            'training the tokenizers')
    with unfinished(folder) as path:
        tokenizers = given or train_tokenizers(data, _texts(data))
        kind = kind_of(data)
        held = [split for split in splits_of(data) if split != 'train' and data.train
                and not getattr(data, split)] if kind in CHOOSING else []
        labels = labels_in(itertools.chain.from_iterable(  # of all that the one file has
            read_examples(data, split) for split in ('train', *held)), kind)
        replace(tokenizers, labels=labels).save(path)
    tokenizers = load_tokenizers(folder)
    about = ''
    if data.objective == 'regress':
        about = '; numbers of mean {:.4g} and standard deviation {:.4g}'.format(*scale(tokenizers))
    elif labels:
        about = f'; {len(labels):,} labels: {", ".join(labels[:20])}'
    say(f'vocabulary: {tokenizers.vocab_size:,} tokens{about}')
    return tokenizers


def _texts(data: DataConfig) -> Iterator[tuple[str, ...]]:
    """The train split as tokenizers learn from it: (source, target), or (text,)."""
    examples = read_examples(data, 'train')
    if kind_of(data) == 'pairs':
        return examples
    if kind_of(data) == 'texts':
        return ((sentence,) for document in examples for sentence in document)
    return ((text,) for example in examples for text in example[:2] if text)


def _tokenise(folder: Path, config: Config, tokenizers: Tokenizers, say: Say) -> TokenStore:
    data, split = config.data, folder.name
    say(f'tokenising {split}')
    with counting(f'tokenising {split}') as show:
        store = build_store(
            folder, read_examples(data, split), tokenizers, kind=layout_of(config),
            split=split, max_length=config.model.max_length, too_long=data.too_long, say=say,
            progress=lambda examples, tokens: show(examples))
    limited = ', {dropped:,} dropped as too long, {cut:,} cut'
    counted = {'pairs': '{examples:,} pairs, {source_tokens:,} source and {target_tokens:,} target '
                        'tokens' + limited,
               'texts': '{examples:,} documents, {rows:,} sentences, {text_tokens:,} tokens'}.get(
        kind_of(data), '{examples:,} examples, {first_tokens:,} + {second_tokens:,} tokens'
                       + limited)
    say(f'{split} split: ' + counted.format_map(store.manifest))
    return store


def _hold_out(folder: Path, data: DataConfig) -> Path:
    """A JSON list of its parts for each example."""
    with unfinished(folder) as path:
        for split in splits_of(data):
            if split != 'train':
                with open(path / f'{split}.jsonl', 'w', encoding='utf-8') as file:
                    for example in read_examples(data, split):
                        for number, part in enumerate(example):  # of one text, a piece of it
                            file.write(', ' if number else '[')
                            file.write(json.dumps(part, ensure_ascii=False))
                        file.write(']\n')
    return folder


def _open(folder: Path, tokenizers: Tokenizers) -> TokenStore:
    store = open_store(folder)
    if store.manifest['tokenizer'] != tokenizers.fingerprint:
        raise UserError(f'the token store {folder} was made with another tokenizer')
    return store


def _key(config: Config, given: Tokenizers | None) -> str:
    """A name for everything that the tokenizers and stores depend on."""
    data, limited = config.data, kind_of(config.data) != 'texts'
    trained = not data.tokenizer_file and data.tokenizer in ('bpe', 'unigram', 'wordpiece',
                                                             'byte_bpe')
    settings = {
        'format': FORMAT,
        'objective': data.objective,  # it decides on the special tokens, too
        'sources': digests(data),
        # labels are the data's own, whatever those of the model that training begins with
        'tokenizers': replace(given, labels=()).fingerprint if given else [
                       data.tokenizer, data.target_tokenizer or data.tokenizer,
                       data.vocab_size if trained else None,
                       [digest(path) for path in tokenizer_files(data)]],
        'lowercase_source': data.lowercase_source,
        'lengths': [config.model.max_length, data.too_long] if limited else None,
        'layout': layout_of(config),
        'per_label': data.per_label,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
