"""Subword pieces by sentencepiece (Kudo and Richardson, 2018): byte-pair encoding and unigram."""

import heapq
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import sentencepiece

from xformer.config import UserError
from xformer.console import say
from xformer.data.tokenizers.special import (
    TRAINED,
    Spans,
    find_special,
    missing_special,
    names_of,
    readable,
)

# Appended to a model (a protocol buffer, in which the last value of a field counts), field 3 of its
# normalizer_spec, add_dummy_prefix, is false: no space is put before a text.
NO_DUMMY_PREFIX = bytes([3 << 3 | 2, 2, 3 << 3, 0])
MOST_CHARACTERS = 20_000_000  # of the texts that pieces are learnt from


class PieceTokenizer:
    """A sentencepiece model, `file`; `appended` names the special tokens after its own pieces.

    It marks spaces with U+2581, so that this one character reads back as a space.
    """

    file_name = 'sentencepiece.model'

    def __init__(self, kind: str, file: bytes, appended: Sequence[str] = ()):
        self.kind, self.file, self.appended = kind, file, tuple(appended)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=file)
        size = self._processor.get_piece_size()
        self._names = *(self._processor.id_to_piece(i) for i in range(size)), *self.appended
        self.vocab_size = len(self._names)
        self.special = find_special(_special_ids(self._processor)
                                    | {name: i for i, name in enumerate(self.appended, size)})

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def encode_following(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts of which each goes on another, with nothing put before it."""
        if self._inside:
            return self._inside.encode(list(texts))
        # it strips texts: the space that it puts before each is the one that parted them
        return self._processor.encode([text.removeprefix(' ') for text in texts])

    @cached_property
    def _inside(self) -> sentencepiece.SentencePieceProcessor | None:
        """The same without the space before a text, unless that would be stripped."""
        inside = sentencepiece.SentencePieceProcessor(model_proto=self.file + NO_DUMMY_PREFIX)
        return inside if inside.encode(' a') == self._processor.encode('a') else None

    def spans(self, text: str) -> Spans:
        """The ids of `text` and where in it they stand."""
        found = self._processor.encode(text, return_type='offset_mapping')
        return Spans(found['ids'], found['offsets'])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, special ones included: what a picture shows."""
        return names_of(ids, self._names, self.special.unk)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are skipped, not obeyed, but for unknown ones."""
        return self._processor.decode_pieces(readable(ids, self._names, self.special))

    def word_starts(self) -> np.ndarray:
        """bool (V,): which ids begin a word: special tokens and pieces that begin with a space."""
        starts = np.array([name.startswith('\u2581') for name in self._names])
        starts[self.special.ids()] = True
        return starts


def sampled(texts: Iterable[str]) -> Iterator[str]:
    """`texts`, or if they are long those with the lowest hashes, of MOST_CHARACTERS in all:
    sentencepiece holds what it learns from in memory, many times over."""
    kept: list[tuple[int, int, str]] = []  # a heap, the greatest hash first
    size, dropped = 0, False
    for number, text in enumerate(texts):
        heapq.heappush(kept, (-zlib.crc32(text.encode()), number, text))
        size += len(text)
        while size > MOST_CHARACTERS and len(kept) > 1:
            size -= len(heapq.heappop(kept)[2])
            dropped = True
    if dropped:
        say(f'the pieces are learnt from a sample: texts of {size:,} characters')
    return (text for _, _, text in sorted(kept, key=lambda each: each[1]))


def train_pieces(kind: str, vocab_size: int, objective: str,
                 texts: Iterable[str]) -> PieceTokenizer:
    """Pieces that lose nothing: no normalisation, rare characters as bytes.

    `vocab_size` counts the special tokens that `objective` needs. Raises UserError where it is too
    small or too large for `texts`.
    """
    appended = missing_special(TRAINED, objective)
    pad, bos, eos, unk = TRAINED
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # the space before a sentence that follows another is put there by the model, too
            sentence_iterator=(text.removeprefix(' ') for text in sampled(texts)),
            model_writer=model, model_type=kind, vocab_size=vocab_size - len(appended),
            hard_vocab_limit=False, byte_fallback=True,
            normalization_rule_name='identity', remove_extra_whitespaces=False,
            max_sentence_length=2**30,  # the default skips long lines without a word
            pad_id=0, bos_id=1, eos_id=2, unk_id=3,
            pad_piece=pad, bos_piece=bos, eos_piece=eos, unk_piece=unk,
            num_threads=16,  # fixed: sums depend on it
            minloglevel=2)
    except (RuntimeError, OSError) as error:
        reason = ' '.join(str(error).split('] ')[-1].split())
        raise UserError(f'sentencepiece could not train data.vocab_size={vocab_size} pieces '
                        f'({reason}); change --config.data.vocab_size') from None
    return PieceTokenizer(kind, model.getvalue(), appended)


def read_pieces(file: bytes, objective: str) -> PieceTokenizer:
    """The model, with what it lacks for `objective` appended; RuntimeError where it is none."""
    if not file:
        raise RuntimeError('the file is empty')  # sentencepiece would take it for no model yet
    processor = sentencepiece.SentencePieceProcessor(model_proto=file)
    return PieceTokenizer(_kind(processor), file,
                          missing_special(_special_ids(processor), objective))


def _special_ids(processor: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    """{name: id} of the tokens that text never yields, and of the roles that the model declares.

    A user-defined symbol is none of them, whatever its name: text that contains it yields it.
    """
    ids = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())
           if processor.is_control(i) or processor.is_unknown(i)}
    roles = {'<pad>': processor.pad_id(), '<s>': processor.bos_id(), '</s>': processor.eos_id(),
             '<unk>': processor.unk_id()}
    return ids | {name: i for name, i in roles.items() if i >= 0}


def _kind(processor: sentencepiece.SentencePieceProcessor) -> str:
    """The scores tell: of byte-pair encoding they are ranks, of a unigram model log p."""
    scores = (processor.get_score(i) for i in range(processor.get_piece_size()))
    return 'bpe' if all(score.is_integer() for score in scores) else 'unigram'
