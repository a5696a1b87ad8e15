"""The token store: the ids of one split in memory-mapped files, with a manifest.

    source.bin, target.bin                   ids of all examples end to end, little-endian
    source_offsets.npy, target_offsets.npy   int64; example i is ids[offsets[i]:offsets[i + 1]]
    manifest.json                            counts, type of the ids, fingerprints
"""

import contextlib
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from xformer.config import UserError
from xformer.data.sources import Pair
from xformer.data.tokenizers import EOS, Tokenizers

FORMAT = 1
CHUNK = 4096  # pairs tokenised at a time
SIDES = ('source', 'target')


@dataclass(frozen=True)
class TokenStore:
    """The examples of one split; every source and every target ends with EOS."""

    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray
    manifest: dict

    def __len__(self) -> int:
        return len(self.source_offsets) - 1

    @property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of the ids and offsets."""
        return self.manifest['fingerprint']

    @cached_property
    def lengths_N2(self) -> np.ndarray:
        """int32: source and target length of each example in tokens, EOS included."""
        return np.stack([np.diff(self.source_offsets), np.diff(self.target_offsets)],
                        axis=1).astype(np.int32)

    def source(self, i: int) -> np.ndarray:
        return self.source_ids[self.source_offsets[i]:self.source_offsets[i + 1]]

    def target(self, i: int) -> np.ndarray:
        return self.target_ids[self.target_offsets[i]:self.target_offsets[i + 1]]


def build_store(folder: Path, pairs: Iterable[Pair], tokenizers: Tokenizers, *, split: str,
                max_length: int, too_long: str = 'error') -> TokenStore:
    """Tokenises `pairs` into a new `folder`, some thousand at a time, and opens it.

    Pairs with a side beyond `max_length` tokens are an error, or with too_long='drop' are left
    out and counted in the manifest. Raises UserError for those, for a split without pairs, and
    for a folder that cannot be written.
    """
    dtype = '<u2' if tokenizers.vocab_size <= 2**16 else '<u4'
    with fresh_folder(folder) as unfinished:
        lengths, digests, dropped = [], {side: hashlib.sha256() for side in SIDES}, 0
        with (open(unfinished / 'source.bin', 'wb') as source_file,
              open(unfinished / 'target.bin', 'wb') as target_file):
            for first, chunk in _chunks(pairs):
                encoded = _encode(chunk, tokenizers)
                kept = [example for example in encoded if max(map(len, example)) <= max_length]
                if len(kept) < len(chunk) and too_long == 'error':
                    _refuse(first, chunk, encoded, split, max_length)
                dropped += len(chunk) - len(kept)
                lengths += [(len(source), len(target)) for source, target in kept]
                for file, side, rows in zip((source_file, target_file), SIDES, zip(*kept)):
                    ids = np.fromiter(itertools.chain.from_iterable(rows), dtype)
                    file.write(ids.data)
                    digests[side].update(ids.data)
        if not lengths:
            raise UserError(f'the {split} split has no pairs' + _why_empty(split, dropped))
        offsets = np.zeros((len(lengths) + 1, 2), '<i8')
        offsets[1:] = np.cumsum(lengths, axis=0)
        for side, column in zip(SIDES, offsets.T):
            np.save(unfinished / f'{side}_offsets.npy', np.ascontiguousarray(column))
        digest = ''.join(digests[side].hexdigest() for side in SIDES).encode() + offsets.tobytes()
        manifest = {
            'format': FORMAT, 'split': split, 'examples': len(lengths), 'dropped': dropped,
            'source_tokens': int(offsets[-1, 0]), 'target_tokens': int(offsets[-1, 1]),
            'dtype': dtype, 'tokenizer': tokenizers.fingerprint,
            'fingerprint': hashlib.sha256(digest).hexdigest()}
        (unfinished / 'manifest.json').write_text(json.dumps(manifest, indent=1) + '\n')
    return open_store(folder)


def open_store(folder: Path) -> TokenStore:
    """The store in `folder`, memory-mapped. Raises UserError when it is missing or damaged."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / 'manifest.json').read_text())
        offsets = [np.load(folder / f'{side}_offsets.npy') for side in SIDES]
        ids = [np.memmap(folder / f'{side}.bin', manifest['dtype'], mode='r') for side in SIDES]
        sound = manifest['format'] == FORMAT and all(
            len(offset) == manifest['examples'] + 1
            and len(tokens) == offset[-1] == manifest[f'{side}_tokens']
            for side, offset, tokens in zip(SIDES, offsets, ids))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f'the token store {folder} is missing or damaged ({error}); remove the '
                        'folder and prepare the data again') from None
    if not sound:
        raise UserError(f'the token store {folder} is damaged (its sizes do not match its '
                        'manifest); remove the folder and prepare the data again')
    return TokenStore(ids[0], offsets[0], ids[1], offsets[1], manifest)


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name at the end, or vanishes on error.

    If another process makes `folder` meanwhile, that one stays. Raises UserError when the folder
    exists before, or cannot be written.
    """
    folder = Path(folder)
    with writing(folder):
        if folder.exists():
            raise UserError(f'{folder} exists already; remove it first')
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as parent:
            unfinished = Path(parent, folder.name)
            unfinished.mkdir()
            yield unfinished
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns the system's refusals (full disk, read-only folder, ...) into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f'cannot write {folder} ({error.strerror or error}); free some space or '
                        'set XFORMER_CACHE to another folder') from None


def _chunks(pairs: Iterable[Pair]) -> Iterator[tuple[int, list[Pair]]]:
    """(ordinal of the first pair, from 1; up to CHUNK pairs)."""
    iterator = iter(pairs)
    for first in itertools.count(1, CHUNK):
        chunk = list(itertools.islice(iterator, CHUNK))
        if not chunk:
            return
        yield first, chunk


def _encode(chunk: list[Pair], tokenizers: Tokenizers) -> list[tuple[list[int], list[int]]]:
    sources, targets = zip(*chunk)
    return [(source + [EOS], target + [EOS]) for source, target in zip(
        tokenizers.source.encode_batch(sources), tokenizers.target.encode_batch(targets))]


def _refuse(first: int, chunk: list[Pair], encoded: list, split: str, max_length: int) -> None:
    """Raises UserError about the first pair of the chunk that is too long."""
    for ordinal, (source, _), lengths in zip(
            itertools.count(first), chunk, (tuple(map(len, example)) for example in encoded)):
        if max(lengths) > max_length:
            raise UserError(
                f'pair {ordinal:,} of {split} ({source[:40]!r}...) has {lengths[0]:,} source and '
                f'{lengths[1]:,} target tokens, beyond model.max_length={max_length}; set '
                f'--config.data.too_long=drop or --config.model.max_length={max(lengths)}')


def _why_empty(split: str, dropped: int) -> str:
    if dropped:
        return f': all {dropped:,} were too long; set a larger --config.model.max_length'
    return f'; give --config.data.{split}=FILE or a larger --config.data.train'
