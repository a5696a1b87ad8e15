"""Text to ids and back: symbols (characters, words) or subword pieces, one shared vocabulary."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sentencepiece

from xformer.config import DataConfig, UserError
from xformer.data.sources import Pair

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ('<pad>', '<bos>', '<eos>', '<unk>')
UNKNOWN = '\ufffd'  # how UNK reads in decoded text
_SEPARATORS = {'char': '', 'word': ' '}


class SymbolTokenizer:
    """One id per symbol: every character (separator '') or every word (separator ' ').

    `symbols` is the vocabulary after the four special tokens. Unknown symbols become UNK.
    """

    def __init__(self, symbols: Sequence[str], separator: str):
        self.symbols, self.separator = tuple(symbols), separator
        self.vocab_size = len(SPECIAL) + len(self.symbols)
        self._names = SPECIAL + self.symbols
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=len(SPECIAL))}

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return [self._ids.get(symbol, UNK) for symbol in _symbols(text, self.separator)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, special ones included: what a picture shows."""
        return [self._names[i] for i in _known_ids(ids, self.vocab_size)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; PAD, BOS and EOS are skipped, not obeyed."""
        return self.separator.join(
            UNKNOWN if i == UNK else self._names[i]
            for i in _known_ids(ids, self.vocab_size) if i not in (PAD, BOS, EOS))


class PieceTokenizer:
    """Subword pieces by sentencepiece (Kudo and Richardson, 2018); `model` is its model file.

    It marks spaces with U+2581, so that this one character reads back as a space.
    """

    def __init__(self, model: bytes):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, special ones included: what a picture shows."""
        return [self._processor.id_to_piece(i) for i in _known_ids(ids, self.vocab_size)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; PAD, BOS and EOS are skipped, not obeyed."""
        return self._processor.decode(_known_ids(ids, self.vocab_size))


Tokenizer = SymbolTokenizer | PieceTokenizer


@dataclass(frozen=True)
class Tokenizers:
    """Both sides' view of one vocabulary: the same ids, possibly cut differently."""

    source: Tokenizer
    target: Tokenizer

    @property
    def vocab_size(self) -> int:
        return self.source.vocab_size

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of the serialised form."""
        description, model = self._serialised()
        return hashlib.sha256(json.dumps(description).encode() + model).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and, for pieces, sentencepiece.model."""
        description, model = self._serialised()
        text = json.dumps(description | {'fingerprint': self.fingerprint}, indent=1)
        Path(folder, 'tokenizer.json').write_text(text + '\n', encoding='utf-8')
        if model:
            Path(folder, 'sentencepiece.model').write_bytes(model)

    def _serialised(self) -> tuple[dict, bytes]:
        if isinstance(self.source, PieceTokenizer):
            return {'source': 'pieces', 'target': 'pieces'}, self.source.model
        kinds = {separator: kind for kind, separator in _SEPARATORS.items()}
        return {'source': kinds[self.source.separator], 'target': kinds[self.target.separator],
                'symbols': list(self.source.symbols)}, b''


def load_tokenizers(folder: Path) -> Tokenizers:
    """The inverse of `Tokenizers.save`. Raises UserError for a missing or damaged file."""
    folder = Path(folder)
    try:
        description = json.loads((folder / 'tokenizer.json').read_text(encoding='utf-8'))
        if description['source'] == 'pieces':
            tokenizers = _twins((folder / 'sentencepiece.model').read_bytes())
        else:
            tokenizers = Tokenizers(*(
                SymbolTokenizer(description['symbols'], _SEPARATORS[description[side]])
                for side in ('source', 'target')))
        sound = tokenizers.fingerprint == description['fingerprint']
    except OSError as error:
        raise UserError(f'cannot read the tokenizer in {folder} ({error.strerror}: '
                        f'{Path(error.filename).name}); give the folder of a run') from None
    except (ValueError, KeyError, TypeError, RuntimeError):
        sound = False
    if not sound:
        raise UserError(f'the tokenizer files in {folder} are damaged (they do not match their '
                        'fingerprint); restore them from a copy')
    return tokenizers


def train_tokenizers(data: DataConfig, pairs: Iterable[Pair]) -> Tokenizers:
    """A vocabulary that covers both sides of `pairs`, and the two views of it.

    Characters and words mix freely and do not depend on the order of the pairs. Raises UserError
    when data.vocab_size cannot hold what bpe and unigram need.
    """
    if data.source_tokenizer not in _SEPARATORS:
        return _twins(_train_pieces(data, pairs))
    separators = _SEPARATORS[data.source_tokenizer], _SEPARATORS[data.target_tokenizer]
    symbols = set()
    for pair in pairs:
        for text, separator in zip(pair, separators):
            symbols.update(_symbols(text, separator))
    return Tokenizers(*(SymbolTokenizer(sorted(symbols), separator) for separator in separators))


def _train_pieces(data: DataConfig, pairs: Iterable[Pair]) -> bytes:
    """A sentencepiece model that loses nothing: no normalisation, rare characters as bytes."""
    texts: Iterator[str] = (text for pair in pairs for text in pair)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts, model_writer=model, model_type=data.source_tokenizer,
            vocab_size=data.vocab_size, hard_vocab_limit=False, byte_fallback=True,
            normalization_rule_name='identity', remove_extra_whitespaces=False,
            max_sentence_length=2**30,  # the default skips long lines without a word
            pad_id=PAD, bos_id=BOS, eos_id=EOS, unk_id=UNK, pad_piece=SPECIAL[PAD],
            bos_piece=SPECIAL[BOS], eos_piece=SPECIAL[EOS], unk_piece=SPECIAL[UNK],
            unk_surface=UNKNOWN, num_threads=16,  # fixed: sums depend on it
            minloglevel=2)
    except (RuntimeError, OSError) as error:
        reason = ' '.join(str(error).split('] ')[-1].split())
        raise UserError(f'sentencepiece could not train data.vocab_size={data.vocab_size} pieces '
                        f'({reason}); change --config.data.vocab_size') from None
    return model.getvalue()


def _twins(model: bytes) -> Tokenizers:
    tokenizer = PieceTokenizer(model)
    return Tokenizers(tokenizer, tokenizer)


def _symbols(text: str, separator: str) -> Sequence[str]:
    return text.split() if separator else text


def _known_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Plain integers; ids beyond the vocabulary (of a model wider than it) become UNK."""
    return [int(i) if 0 <= i < vocab_size else UNK for i in ids]
