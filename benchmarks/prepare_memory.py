"""Private memory and speed of preparing data and planning batches, by size.

    python -m benchmarks.prepare_memory --texts=2000 --pairs=20

makes a text of 2,000 MB (documents of sentences) and 20 million short pairs under --folder,
tokenises them by bytes, plans their batches and draws 300 of them. Each runs in a process of
its own; what is printed is the most private memory (RssAnon) that /proc saw of it, sampled 50
times a second. Memory that maps files is not counted: the system takes it back at need.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from xformer.config import Config, override
from xformer.data.pipeline import prepare
from xformer.data.plan import make_plan
from xformer.data.store import Column, TokenStore

BATCHES = 300
CHUNK = 100_000  # lines written at a time


class Pairs:
    """Pairs as a plan sees them."""

    def __init__(self, store: TokenStore):
        self._columns = tuple(store.columns.values())

    def __len__(self) -> int:
        return len(self._columns[0])

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return np.stack([np.diff(column.offsets[start:stop + 1]) for column in self._columns],
                        axis=1).astype(np.int32)


class Windows:
    """Every full window of a text, one token wider than a model sees."""

    def __init__(self, column: Column, width: int = 257):
        self._count, self._width = len(column.ids) // width, width

    def __len__(self) -> int:
        return self._count

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return np.tile(np.array([self._width, 0], np.int32), (stop - start, 1))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--texts', type=int, default=0, help='size of the text in MB')
    parser.add_argument('--pairs', type=float, default=0, help='millions of pairs')
    parser.add_argument('--folder', default=tempfile.gettempdir(), help='where there is room')
    values = parser.parse_args(arguments)
    for kind, size in (('texts', values.texts), ('pairs', values.pairs)):
        if size:
            with tempfile.TemporaryDirectory(prefix='prepare-', dir=values.folder) as folder:
                work = multiprocessing.get_context('spawn').Process(
                    target=measure, args=(kind, size, Path(folder)))
                work.start()
                work.join()
                if work.exitcode:
                    sys.exit(work.exitcode)


def measure(kind: str, size: float, folder: Path) -> None:
    """Prepare and plan, and print what it took as a row of JSON."""
    os.environ['XFORMER_CACHE'] = str(folder / 'cache')
    path = folder / 'train'
    write = write_texts if kind == 'texts' else write_pairs
    write(path, size)
    with open(path, 'rb') as file:
        (folder / 'dev').write_bytes(b''.join(itertools.islice(file, 99)))
    changes = {'data.objective': 'lm', 'data.format': 'documents'} if kind == 'texts' else {}
    config = override(Config(), changes | {
        'data.tokenizer': 'bytes', 'data.train': str(path), 'data.batch_tokens': 16384,
        'data.dev': str(folder / 'dev'), 'data.test': str(folder / 'dev')})
    row = {'kind': kind, 'file_mb': round(path.stat().st_size / 1e6),
           'at_start_mb': round(private_mb(), 1)}
    corpus, row['prepare'] = watched(lambda: prepare(config))
    store = corpus.stores['train']
    row |= {'examples': len(store), 'tokens': sum(
        len(column.ids) for column in store.columns.values())}
    examples = Pairs(store) if kind == 'pairs' else Windows(store.columns['text'])
    plan, row['plan'] = watched(lambda: make_plan(examples, corpus.fingerprint, config.data, 0))

    def draw() -> int:
        return sum(int(store.columns[next(iter(store.columns))].ids[indices].sum())
                   for _, indices in map(plan.batch, range(0, BATCHES * 7, 7)))
    _, row['draw'] = watched(draw)
    print(json.dumps(row), flush=True)


def watched(work: Callable) -> tuple:
    """What `work` returns, and {'seconds', 'peak_mb'} of it."""
    peak, done = [private_mb()], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            peak.append(max(peak.pop(), private_mb()))
    thread, start = threading.Thread(target=sample), time.perf_counter()
    thread.start()
    try:
        result = work()
    finally:
        done.set()
        thread.join()
    return result, {'seconds': round(time.perf_counter() - start, 1), 'peak_mb': round(peak[0], 1)}


def private_mb() -> float:
    """Memory of this process that belongs to no file, in MB (Linux)."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'RssAnon:\s+(\d+) kB', status)[1]) / 1024


def write_texts(path: Path, megabytes: float) -> None:
    """Documents of 20 sentences of made-up words, on average."""
    written, rng = 0, np.random.Generator(np.random.Philox(0))
    with open(path, 'wb') as file:
        while written < megabytes * 1e6:
            lines = (b''.join((line, b'.\n', b'\n' * end))
                     for line, end in zip(_lines(rng, 60), (rng.random(CHUNK) < 0.05).tolist()))
            written += file.write(b''.join(lines))


def write_pairs(path: Path, millions: float) -> None:
    """A source and a target of a few letters a line."""
    rng = np.random.Generator(np.random.Philox(0))
    with open(path, 'wb') as file:
        for _ in range(int(millions * 1e6) // CHUNK):
            file.write(b''.join(b'%b\t%b\n' % pair for pair in zip(_lines(rng, 8), _lines(rng, 8))))


def _lines(rng: np.random.Generator, mean: int) -> Iterator[bytes]:
    """CHUNK lines of letters, and of spaces where they are long, that vary around a mean."""
    lengths = 1 + rng.poisson(mean - 1, CHUNK)
    letters = b'abcdefghijklmnopqrstuvwxyz' + (b' ' * 5 if mean > 20 else b'')
    text = np.frombuffer(letters, np.uint8)[rng.integers(0, len(letters), lengths.sum())].tobytes()
    ends = np.cumsum(lengths).tolist()
    for start, end in zip([0, *ends], ends):
        line = text[start:end]
        yield line if line.strip() else b'x'


if __name__ == '__main__':
    main(sys.argv[1:])
