"""Private memory and time of preparing data and of training on them, by size.

    python -m benchmarks.prepare_memory --texts=2000 --pairs=20

makes a text of 2,000 MB (documents of sentences) and 20 million short pairs under --folder,
tokenises them (--tokenizer) and trains a small model on them for some steps. Each runs in a process
of its own; what is printed is the most private memory (RssAnon) that /proc saw of it, sampled 50
times a second. Memory that maps files is not counted: the system takes it back at need.

On 2 CPU cores: 34 MB to prepare the text and 553 MB to train on it, 47 and 771 MB of the pairs.
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

from experiments import cli
from xformer.config import Config, override
from xformer.data.pipeline import prepare

MODEL = {'model.d_model': 32, 'model.num_heads': 2, 'model.d_ff': 64, 'model.max_length': 128,
         'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3, 'train.steps': 30}
FAMILIES = {
    'texts': {'data.objective': 'lm', 'data.format': 'documents', 'model.family': 'decoder',
              'model.num_encoder_layers': 0, 'model.num_decoder_layers': 1},
    'pairs': {'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1}}
CHUNK = 100_000  # lines written at a time


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--texts', type=int, default=0, help='size of the text in MB')
    parser.add_argument('--pairs', type=float, default=0, help='millions of pairs')
    parser.add_argument('--folder', default=tempfile.gettempdir(), help='where there is room')
    parser.add_argument('--tokenizer', default='bytes', help='data.tokenizer, as bytes or unigram')
    values = parser.parse_args(arguments)
    for kind, size in (('texts', values.texts), ('pairs', values.pairs)):
        if size:
            with tempfile.TemporaryDirectory(prefix='prepare-', dir=values.folder) as folder:
                work = multiprocessing.get_context('spawn').Process(
                    target=measure, args=(kind, size, Path(folder), values.tokenizer))
                work.start()
                work.join()
                if work.exitcode:
                    sys.exit(work.exitcode)


def measure(kind: str, size: float, folder: Path, tokenizer: str = 'bytes') -> None:
    """Prepare, train, and print what it took as a row of JSON."""
    os.environ['XFORMER_CACHE'] = str(folder / 'cache')
    cli.keep_memory()
    path = folder / 'train'
    write = write_texts if kind == 'texts' else write_pairs
    write(path, size)
    with open(path, 'rb') as file:
        (folder / 'dev').write_bytes(b''.join(itertools.islice(file, 99)))
    config = override(Config(), MODEL | FAMILIES[kind] | {
        'data.tokenizer': tokenizer, 'data.train': str(path), 'data.batch_tokens': 16384,
        'data.dev': str(folder / 'dev'), 'data.test': str(folder / 'dev')})
    row = {'kind': kind, 'file_mb': round(path.stat().st_size / 1e6),
           'at_start_mb': round(private_mb(), 1)}
    corpus, row['prepare'] = watched(lambda: prepare(config))
    store = corpus.stores['train']
    row |= {'examples': len(store), 'tokens': sum(
        len(column.ids) for column in store.columns.values())}
    del corpus, store

    from xformer.train.loop import train
    _, row['train'] = watched(lambda: train(config, folder / 'run'))
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
