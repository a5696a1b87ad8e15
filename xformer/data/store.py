"""The token store: the ids of one split in memory-mapped files, with a manifest.

    COLUMN.ids.bin       ids of all rows end to end, little-endian
    COLUMN.offsets.bin   int64; row i is ids[offsets[i]:offsets[i + 1]]
    documents.bin        int64, texts only; document d is rows documents[d] ... documents[d + 1] - 1
    manifest.json        counts, type of the ids, fingerprints

Pairs have the columns source and target, a row an example, each ended by EOS. Texts have the
column text, a row a sentence (or line, or chunk of a verbatim text); EOS ends the last row of a
document, so that its ids are documents end to end. Labelled examples have the columns first,
second (empty rows where there is one text) and target (see `layouts`), without EOS.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from xformer.config import UserError
from xformer.data.layouts import LAYOUTS, Encoded, Layout, Row
from xformer.data.sources.splits import SPLITS
from xformer.data.tokenizers import Tokenizers
from xformer.files import write_atomically

FORMAT = 5
BATCH_ROWS, BATCH_CHARACTERS = 4096, 2**20  # tokenised at a time
COMMIT_CHARACTERS, COMMIT_SECONDS = 2**26, 60  # between states that a killed build goes on from

DOCUMENTS, PROGRESS = 'documents.bin', 'progress.json'


@dataclass(frozen=True)
class Column:
    """Rows of ids."""

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.ids[self.offsets[i]:self.offsets[i + 1]]


@dataclass(frozen=True)
class TokenStore:
    """The examples of one split: pairs, labelled ones, or documents of rows."""

    columns: dict[str, Column]
    documents: np.ndarray | None
    manifest: dict

    def __len__(self) -> int:
        return self.manifest['examples']

    @property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of the ids and offsets."""
        return self.manifest['fingerprint']


def build_store(folder: Path, examples: Iterable, tokenizers: Tokenizers, *, kind: str, split: str,
                max_length: int = 0, too_long: str = 'error',
                say: Callable[[str], None] = lambda sentence: None,
                progress: Callable[[int, int], None] = lambda examples, tokens: None
                ) -> TokenStore:
    """Tokenises `examples` (a `kind` of `layouts`) into a new `folder`, and opens it.

    Memory stays bounded whatever their number. A killed build leaves its work beside the folder;
    the next one reads the same examples again but tokenises only those not yet done, and ends
    with the same bytes. Examples beyond `max_length` tokens are an error, or with
    too_long='drop' left out, with 'cut' shortened, and counted in the manifest. `progress` hears
    how many examples and tokens this call has done. One process at a time may build a folder.
    Raises UserError for examples too long, for a split without any, and for a folder that
    cannot be written.
    """
    layout = LAYOUTS[kind]
    identity = {'format': FORMAT, 'kind': kind, 'split': split,
                'dtype': '<u2' if tokenizers.vocab_size <= 2**16 else '<u4',
                'tokenizer': tokenizers.fingerprint,
                'limit': [max_length, too_long] if layout.cut else None}
    rows = layout.rows(examples)
    with unfinished(folder) as path, _Writer(path, identity, say) as writer:
        counts, before = writer.counts, (writer.counts['examples'], writer.tokens)
        next(itertools.islice(rows, counts['read'], counts['read']), None)  # skips what is done
        for batch in _batches(rows):
            encoded = kept = layout.encode(batch, tokenizers)
            if layout.cut:
                beyond = [layout.length(row) > max_length for row in encoded]
                if too_long == 'cut':
                    encoded = [layout.cut(row, max_length) if far else row
                               for row, far in zip(encoded, beyond)]
                    counts['cut'] += sum(beyond)
                elif too_long == 'error' and any(beyond):
                    _refuse(counts['read'], batch, encoded, layout, split, max_length)
                kept = [row for row in encoded if layout.length(row) <= max_length]
            writer.append(kept, len(batch), _characters(batch))
            progress(counts['examples'] - before[0], writer.tokens - before[1])
        if not counts['examples']:
            raise UserError(f'the {split} split has no {kind}' + _why_empty(split, counts))
        writer.finish()
    return open_store(folder)


def open_store(folder: Path) -> TokenStore:
    """The store in `folder`, memory-mapped. Raises UserError when it is missing or damaged."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / 'manifest.json').read_text())
        layout = LAYOUTS[manifest['kind']]
        columns = {name: Column(_mapped(folder / f'{name}.ids.bin',
                                        layout.dtypes.get(name, manifest['dtype'])),
                                _mapped(folder / f'{name}.offsets.bin', '<i8'))
                   for name in layout.columns}
        documents = (_mapped(folder / DOCUMENTS, '<i8')
                     if manifest['kind'] == 'texts' else None)
        sound = manifest['format'] == FORMAT and all(
            len(column) == manifest['rows']
            and len(column.ids) == column.offsets[-1] == manifest[f'{name}_tokens']
            for name, column in columns.items()) and (documents is None or (
                len(documents) == manifest['examples'] + 1 and documents[-1] == manifest['rows']))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'the token store {folder} is missing or damaged ({error}); remove the '
                        'folder and prepare the data again') from None
    if not sound:
        raise UserError(f'the token store {folder} is damaged (its sizes do not match its '
                        'manifest); remove the folder and prepare the data again')
    return TokenStore(columns, documents, manifest)


def _mapped(path: Path, dtype: str) -> np.ndarray:
    """The file's numbers; an empty file, which cannot be mapped, has none."""
    return np.memmap(path, dtype, 'r') if path.stat().st_size else np.zeros(0, dtype)


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name at the end.

    A kill, or a refusal of the system, leaves it for the next attempt; a mistake of the user's
    does not. Raises UserError when `folder` exists before, or cannot be written.
    """
    folder = Path(folder)
    path = folder.with_name(f'.{folder.name}.unfinished')
    with writing(folder):
        if folder.exists():
            raise UserError(f'{folder} exists already; remove it first')
        path.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        except UserError:
            shutil.rmtree(path)
            raise
        path.rename(folder)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns the system's refusals (full disk, read-only folder, ...) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f'cannot write {folder} ({error.strerror or error}); free some space or '
                        'set XFORMER_CACHE to another folder') from None


class _Writer:
    """The growing files of a store, and the state that a killed build goes on from."""

    def __init__(self, folder: Path, identity: dict, say: Callable[[str], None]):
        self.folder, self.identity = folder, identity
        self.layout = LAYOUTS[identity['kind']]
        self.columns = self.layout.columns
        names = [f'{column}.{part}.bin' for column in self.columns for part in ('ids', 'offsets')]
        names += [DOCUMENTS] if identity['kind'] == 'texts' else []
        self.counts, sizes = self._saved(names, say) or (
            dict.fromkeys(['read', 'rows', 'examples', 'dropped', 'cut',
                           *(f'{column}_tokens' for column in self.columns)], 0), {})
        self.files: dict[str, BinaryIO] = {}
        with contextlib.ExitStack() as opening:
            for name in names:
                self.files[name] = opening.enter_context(open(folder / name, 'ab'))
                self.files[name].truncate(sizes.get(name, 0))
                self.files[name].seek(0, os.SEEK_END)
                if name not in sizes and not name.endswith('ids.bin'):
                    self.files[name].write(bytes(8))  # the first offset
            self._opened = opening.pop_all()
        self._committed, self._characters = time.monotonic(), 0

    def __enter__(self) -> '_Writer':
        return self

    def __exit__(self, *error) -> None:
        self._opened.close()

    @property
    def tokens(self) -> int:
        """Tokens written, of all columns."""
        return sum(self.counts[f'{column}_tokens'] for column in self.columns)

    def append(self, kept: list[Encoded], read: int, characters: int) -> None:
        """Write what is kept of `read` rows of input."""
        counts = self.counts
        for column, rows in zip(self.columns, zip(*(row.ids for row in kept))):
            ids = np.fromiter(itertools.chain.from_iterable(rows),
                              self.layout.dtypes.get(column, self.identity['dtype']))
            ends = counts[f'{column}_tokens'] + np.cumsum([len(row) for row in rows], dtype='<i8')
            self.files[f'{column}.ids.bin'].write(ids.data)
            self.files[f'{column}.offsets.bin'].write(ends.data)
            counts[f'{column}_tokens'] += len(ids)
        last = np.array([row.last for row in kept], bool)
        if DOCUMENTS in self.files:
            ends = counts['rows'] + 1 + np.flatnonzero(last).astype('<i8')
            self.files[DOCUMENTS].write(ends.data)
        counts['read'] += read
        counts['rows'] += len(kept)
        counts['examples'] += int(last.sum())
        counts['dropped'] += read - len(kept)
        self._characters += characters
        if (self._characters >= COMMIT_CHARACTERS
                or time.monotonic() - self._committed >= COMMIT_SECONDS):
            self._commit()

    def finish(self) -> None:
        """Make the files durable and describe them."""
        self._commit()
        manifest = self.identity | self.counts | {'fingerprint': self._fingerprint()}
        del manifest['read']
        write_atomically(self.folder / 'manifest.json', json.dumps(manifest, indent=1) + '\n')
        (self.folder / PROGRESS).unlink()

    def _commit(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        state = {'identity': self.identity, 'counts': self.counts,
                 'sizes': {name: file.tell() for name, file in self.files.items()}}
        write_atomically(self.folder / PROGRESS, json.dumps(state))
        self._committed, self._characters = time.monotonic(), 0

    def _saved(self, names: list[str], say: Callable[[str], None]) -> tuple[dict, dict] | None:
        """The counts and file sizes of an earlier attempt, if it can be gone on from."""
        if not (self.folder / PROGRESS).exists():
            return None
        state = json.loads((self.folder / PROGRESS).read_text())
        split, sizes = self.identity['split'], state['sizes']
        if state['identity'] != self.identity or any(
                (self.folder / name).stat().st_size < sizes[name] for name in names):
            say(f'beginning {split} again: what an earlier attempt left is of no use')
            return None
        say(f'going on with {split} after {state["counts"]["examples"]:,} examples, which an '
            'earlier attempt tokenised')
        return state['counts'], sizes

    def _fingerprint(self) -> str:
        digests = []
        for name in self.files:
            with open(self.folder / name, 'rb') as file:
                digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
        return hashlib.sha256(''.join(digests).encode()).hexdigest()


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Up to BATCH_ROWS rows with, but for the last of them, less than BATCH_CHARACTERS."""
    batch, characters = [], 0
    for row in rows:
        batch.append(row)
        characters += _characters([row])
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _characters(batch: list[Row]) -> int:
    return sum(len(part) for row in batch for part in row.parts if isinstance(part, str))


def _refuse(read: int, batch: list[Row], encoded: list[Encoded], layout: Layout, split: str,
            max_length: int) -> None:
    """Raises UserError about the first example of the batch that is too long."""
    i = next(i for i, row in enumerate(encoded) if layout.length(row) > max_length)
    sizes = ' and '.join(f'{len(ids):,} {column}' for column, ids in zip(
        layout.columns, encoded[i].ids) if column not in layout.dtypes and len(ids))
    mend = (f'set --config.data.too_long=drop (or cut) or --config.model.max_length='
            f'{layout.length(encoded[i])}' if split in SPLITS else 'shorten it')
    raise UserError(
        f'example {read + i + 1:,} of {split} ({batch[i].parts[0][:40]!r}...) has {sizes} tokens, '
        f'beyond model.max_length={max_length}; {mend}')


def _why_empty(split: str, counts: dict) -> str:
    if counts['dropped']:
        return (f": all {counts['dropped']:,} were too long; set a larger "
                '--config.model.max_length')
    if split not in SPLITS:
        return ''
    return f'; give --config.data.{split}=FILE or a larger --config.data.train'
