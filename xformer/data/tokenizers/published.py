"""Tokenizers as their publishers mean them: special tokens in a text are obeyed.

What is trained here reads them as any other text (see `library`). Published models are used with
`[MASK]`, <extra_id_0> or the marks of a dialogue written into their texts.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import sentencepiece
from tokenizers import Tokenizer

from xformer.data.tokenizers.library import ByLibrary, kind_of
from xformer.data.tokenizers.special import Spans, Special, known_ids, names_of


class PublishedTokenizer(ByLibrary):
    """A tokenizer.json with everything it says, but for truncation, padding and dropout.

    `file` is that of the `tokenizers` library; `special` are the roles of its tokens, which no
    tokenizer.json tells.
    """

    file_name = 'tokenizer.json'

    def __init__(self, file: bytes, special: Special):
        self.file, self.special = file, special
        description = json.loads(file)
        self.kind = kind_of(description)
        self._continues = description['model'].get('continuing_subword_prefix')
        self._library = _plain(Tokenizer.from_buffer(file))
        self._names = _by_id(self._library.get_vocab())
        self.vocab_size = len(self._names)

    def encode_following(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts of which each goes on another, as they are inside of one text."""
        encodings = self._inside.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @cached_property
    def _inside(self) -> Tokenizer:
        """The same without the space before a text, where line ends are tokens (Llama's)."""
        description = json.loads(self.file)
        before, normalizer = (description.get(part) or {} for part in (
            'pre_tokenizer', 'normalizer'))
        if not description['model'].get('byte_fallback'):
            return self._library
        if before.get('type') == 'Metaspace':
            before['prepend_scheme'] = 'never'
        if steps := normalizer.get('normalizers'):  # as older files have it
            normalizer['normalizers'] = [step for step in steps if step['type'] != 'Prepend']
        return _plain(Tokenizer.from_str(json.dumps(description)))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, special ones included: what a picture shows."""
        return names_of(ids, self._names, self.special.unk)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens, the unknown one among them."""
        return self._library.decode([int(i) for i in ids], skip_special_tokens=True)


class MarianTokenizer:
    """One side of an OPUS-MT model: sentencepiece's pieces, numbered by a vocabulary of its own.

    `file` is the side's sentencepiece model, `names` the tokens of both sides by id. A text may
    begin with the mark of a language, as >>fr<<.
    """

    kind = 'marian'

    def __init__(self, file: bytes, names: Sequence[str], special: Special):
        self.file, self.names, self.special = file, tuple(names), special
        self.vocab_size = len(self.names)
        self._ids = {name: i for i, name in enumerate(self.names)}
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=file)
        marks = sorted((self.names[i] for i in special.ids()), key=len, reverse=True)
        self._marks = re.compile(f'({"|".join(map(re.escape, marks))})')

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without the special tokens around it."""
        return self.spans(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def spans(self, text: str) -> Spans:
        """The ids of `text` and where in it they stand."""
        ids, places, begin = [], [], 0
        for number, part in enumerate(self._marks.split(text)):
            language = re.match('>>.*?<<', part, re.DOTALL)
            mark = part if number % 2 else language.group() if language else ''
            if mark:
                ids.append(self._ids.get(mark, self.special.unk))
                places.append((begin, begin + len(mark)))
            begin += len(mark)
            rest = part[len(mark):]
            found = self._processor.encode(rest, return_type='offset_mapping')
            ids.extend(self._ids.get(piece, self.special.unk) for piece in found['pieces'])
            places.extend((begin + start, begin + stop) for start, stop in found['offsets'])
            begin += len(rest)
        return Spans(ids, places)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, special ones included: what a picture shows."""
        return names_of(ids, self.names, self.special.unk)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without special tokens, the unknown one among them."""
        skipped = self.special.ids()
        known = (i for i in known_ids(ids, self.vocab_size, self.special.unk) if i not in skipped)
        text = self._processor.decode_pieces([self.names[i] for i in known])
        return text.replace('\u2581', ' ').strip()

    def word_starts(self) -> np.ndarray:
        """bool (V,): which ids begin a word: special tokens and pieces that begin with a space."""
        starts = np.array([name.startswith('\u2581') for name in self.names])
        starts[self.special.ids()] = True
        return starts


def _plain(library: Tokenizer) -> Tokenizer:
    library.no_truncation()
    library.no_padding()
    if hasattr(library.model, 'dropout'):
        library.model.dropout = None
    return library


def _by_id(ids: dict[str, int]) -> list[str]:
    """The names in the order of their ids; '' for an id that nothing has."""
    names = [''] * (max(ids.values()) + 1)
    for name, i in ids.items():
        names[i] = name
    return names
