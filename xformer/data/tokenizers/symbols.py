"""Tokenizers without pieces: one id per character, per word, or per byte."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from xformer.data.tokenizers.special import (
    TRAINED,
    UNKNOWN,
    Spans,
    Special,
    find_special,
    known_ids,
    names_of,
    readable,
)

SEPARATORS = {'char': '', 'word': ' '}
_BYTE_NAMES = tuple(chr(byte) if chr(byte).isprintable() and byte < 128 else f'<0x{byte:02X}>'
                    for byte in range(256))


class SymbolTokenizer:
    """One id per symbol: every character (kind 'char') or every word (kind 'word').

    `symbols` is the vocabulary after <pad>, <bos>, <eos> and <unk>; `appended` names the special
    tokens after it. Unknown symbols become <unk>.
    """

    def __init__(self, kind: str, symbols: Sequence[str], appended: Sequence[str] = ()):
        self.kind, self.symbols, self.appended = kind, tuple(symbols), tuple(appended)
        self._names = TRAINED + self.symbols + self.appended
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=len(TRAINED))}
        self.vocab_size = len(self._names)
        self.special = _outside(self.symbols, self.appended)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return [self._ids.get(symbol, self.special.unk) for symbol in split(self.kind, text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def spans(self, text: str) -> Spans:
        """The ids of `text` and where in it they stand."""
        whole = r'\S+' if SEPARATORS[self.kind] else r'(?s).'
        return Spans(self.encode(text), [match.span() for match in re.finditer(whole, text)])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, special ones included: what a picture shows."""
        return names_of(ids, self._names, self.special.unk)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are skipped, not obeyed, but for unknown ones."""
        return SEPARATORS[self.kind].join(readable(ids, self._names, self.special))

    def word_starts(self) -> np.ndarray:
        """bool (V,): which ids begin a word; here every one."""
        return np.ones(self.vocab_size, bool)


class ByteTokenizer:
    """One id per byte of UTF-8 (Xue et al., 2022, ByT5), after the four special tokens."""

    kind = 'bytes'

    def __init__(self, appended: Sequence[str] = ()):
        self.appended = tuple(appended)
        self._names = TRAINED + _BYTE_NAMES + self.appended
        self.vocab_size = len(self._names)
        self.special = _outside(_BYTE_NAMES, self.appended)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return [byte + len(TRAINED) for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def spans(self, text: str) -> Spans:
        """The ids of `text` and where in it they stand: each byte where its character does."""
        return Spans(self.encode(text), [(i, i + 1) for i, character in enumerate(text)
                                         for _ in character.encode()])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id: the character if it is ASCII and printable, or <0x0A>."""
        return names_of(ids, self._names, self.special.unk)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; what is no UTF-8 reads U+FFFD, special tokens are skipped."""
        skipped, unk = self.special.skipped(), self.special.unk
        return b''.join(
            UNKNOWN.encode() if i == unk else bytes([i - len(TRAINED)])
            for i in known_ids(ids, self.vocab_size, unk) if i not in skipped
        ).decode(errors='replace')

    def word_starts(self) -> np.ndarray:
        """bool (V,): which ids begin a word; here every one."""
        return np.ones(self.vocab_size, bool)


def split(kind: str, text: str) -> Sequence[str]:
    """The symbols of `text`."""
    return text.split() if SEPARATORS[kind] else text


def _outside(between: Sequence[str], appended: Sequence[str]) -> Special:
    """The special tokens: those before the symbols `between`, and the `appended` after them."""
    start = len(TRAINED) + len(between)
    return find_special({name: i for i, name in enumerate(TRAINED)}
                        | {name: i for i, name in enumerate(appended, start)})
