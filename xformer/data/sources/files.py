"""Files of text, as pairs or as documents. Everything streams.

Every fault of a file is one `UserError` with the file and, where there is one, the line. Files
are UTF-8, gzipped if named *.gz; a byte order mark is dropped.
"""

import codecs
import contextlib
import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from xformer.config import UserError

BLOCK = 2**16  # characters, about, of a verbatim text at a time


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked. Raises UserError when it cannot be read."""
    try:
        with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'cannot read {path} ({reason}); check the path and the file') from None


def digest(path: Path) -> str:
    """sha256, in hexadecimal, of a file's content, unpacked."""
    with opened(path) as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its line end, LF or CRLF).

    Blank lines at the end of the file are ignored; anywhere else they are an error, because they
    usually mean that sides have slipped.
    """
    blank = 0
    for number, text in all_lines(path):
        if not text.strip():
            blank = blank or number
            continue
        if blank:
            raise UserError(f'{path}:{blank} is blank; remove the line (for parallel '
                            'files, from both) or fill it in')
        yield number, text
    if blank == 1:
        raise _empty(path)


def read_tsv(path: Path) -> Iterator[tuple[str, str]]:
    """A pair a line: source<TAB>target."""
    for number, text in read_lines(path):
        sides = text.split('\t')
        if len(sides) != 2:
            raise UserError(f'{path}:{number} has {len(sides) - 1} tabs; each line must be '
                            'source<TAB>target with exactly one')
        if not all(side.strip() for side in sides):
            empty = 'target' if sides[0].strip() else 'source'
            raise UserError(f'{path}:{number} has an empty {empty}; fill it in or remove the line')
        yield sides[0], sides[1]


def read_parallel(source_path: Path, target_path: Path) -> Iterator[tuple[str, str]]:
    """Pairs of equally numbered lines of two files."""
    both = itertools.zip_longest(read_lines(source_path), read_lines(target_path))
    for source, target in both:
        if source is None or target is None:
            longer, shorter = ((target_path, source_path) if source is None
                               else (source_path, target_path))
            number, _ = source or target
            raise UserError(f'{longer}:{number} has no partner because {shorter} ends before it; '
                            'parallel files must have the same number of lines')
        yield source[1], target[1]


def read_line_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Every line as its own target."""
    return ((text, text) for _, text in read_lines(path))


def read_json_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """A pair a line: {"source": TEXT, "target": TEXT}; other keys are the user's own."""
    return _json_texts(path, 'source', 'target')


def read_line_documents(path: Path) -> Iterator[list[str]]:
    """Every line as a document, but for blank ones."""
    return _some(path, ([text] for _, text in all_lines(path) if text.strip()))


def read_json_documents(path: Path) -> Iterator[list[str]]:
    """A document a line: {"text": TEXT}; its sentences are its lines, line ends kept. Blank ones
    are left out."""
    return _some(path, (re.findall(r'[^\n]*\n|[^\n]+', text)
                        for text, in _json_texts(path, 'text', blank=True) if text.strip()))


def read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """(file:line, value) of every line."""
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except (ValueError, RecursionError):
            row = None
        yield f'{path}:{number}', row


def read_documents(path: Path) -> Iterator[list[str]]:
    """A sentence a line and blank lines between documents (the format of BERT's own code)."""
    parts = itertools.groupby(all_lines(path), lambda line: not line[1].strip())
    return _some(path, ([text for _, text in lines] for blank, lines in parts if not blank))


def read_text(path: Path, start: float = 0.0, stop: float = 1.0) -> Iterator[Iterator[str]]:
    """One document: these shares of the characters of a file, verbatim, line ends as they are.

    It comes in chunks of some BLOCK characters, each read when it is asked for and cut at a line
    end where it has one.
    """
    if (start, stop) == (0.0, 1.0):  # read but once, as standard input can be
        pieces = _at_line_ends(_blocks(path))
        if not (first := next(pieces, '')):
            raise _empty(path)
        yield itertools.chain([first], pieces)
        return
    length = sum(map(len, _blocks(path)))
    if not length:
        raise _empty(path)
    yield _at_line_ends(_between(_blocks(path), int(length * start), int(length * stop)))


def all_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its line end), blank lines and all."""
    number = 0
    with opened(path) as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode().removesuffix('\n').removesuffix('\r')
            except UnicodeDecodeError as error:
                raise _not_utf8(f'{path}:{number}', error) from None
            yield number, text.removeprefix('\ufeff') if number == 1 else text
    if number == 0:
        raise _empty(path)
    if number == 1 and '\r' in text and not raw.endswith(b'\n'):
        raise UserError(f'{path} ends its lines with CR alone; convert it to LF')


def _some(path: Path, documents: Iterator[list[str]]) -> Iterator[list[str]]:
    """The same. Raises UserError if there is none."""
    found = False
    for document in documents:
        found = True
        yield document
    if not found:
        raise _empty(path)


def _json_texts(path: Path, *keys: str, blank: bool = False) -> Iterator[tuple[str, ...]]:
    """The texts under `keys` of every row, which may be `blank`."""
    wanted = json.dumps(dict.fromkeys(keys, '...'))
    for where, row in read_json(path):
        try:
            texts = tuple(row[key] for key in keys)
            sound = all(text.strip() or blank for text in texts)
        except (KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise UserError(f'{where} must be JSON like {wanted} with texts that are not '
                            'empty; mend or remove the line')
        yield texts


def _blocks(path: Path) -> Iterator[str]:
    """The decoded text in blocks of some BLOCK characters."""
    decoder, line = codecs.getincrementaldecoder('utf-8-sig')(), 1
    with opened(path) as file:
        raw = None
        while raw != b'':
            raw = file.read(BLOCK)
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                line += error.object[:error.start].count(b'\n')
                raise _not_utf8(f'{path}:{line}', error) from None
            line += text.count('\n')
            yield text


def _between(blocks: Iterator[str], start: int, stop: int) -> Iterator[str]:
    """Characters start ... stop - 1."""
    place = 0
    for block in blocks:
        yield block[max(start - place, 0):max(stop - place, 0)]
        place += len(block)


def _at_line_ends(blocks: Iterator[str]) -> Iterator[str]:
    """The same text, cut behind the last line end of a block; never empty pieces."""
    rest = ''
    for block in blocks:
        text = rest + block
        end = text.rfind('\n') + 1 or len(text)
        if end:
            yield text[:end]
        rest = text[end:]
    if rest:
        yield rest


def _not_utf8(where: str, error: UnicodeDecodeError) -> UserError:
    column = error.start - error.object.rfind(b'\n', 0, error.start)
    return UserError(f'{where} is not valid UTF-8 (byte 0x{error.object[error.start]:02x} in '
                     f'column {column}); convert the file to UTF-8')


def _empty(path: Path) -> UserError:
    return UserError(f'{path} is empty; give a file with at least one line')
