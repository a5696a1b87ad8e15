"""One vocabulary for source and target: trained on a corpus or read, saved and loaded."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from xformer.config import DataConfig, UserError
from xformer.data.tokenizers.library import (
    LibraryTokenizer,
    read_byte_bpe,
    read_library,
    read_wordpiece,
    train_byte_bpe,
    train_wordpiece,
)
from xformer.data.tokenizers.pieces import PieceTokenizer, read_pieces, train_pieces
from xformer.data.tokenizers.published import MarianTokenizer, PublishedTokenizer
from xformer.data.tokenizers.special import TRAINED, Special, Template, missing_special
from xformer.data.tokenizers.symbols import SEPARATORS, ByteTokenizer, SymbolTokenizer, split

Tokenizer = (SymbolTokenizer | ByteTokenizer | PieceTokenizer | LibraryTokenizer
             | PublishedTokenizer | MarianTokenizer)
_DESCRIPTION = 'tokenizers.json'
_SIDES = ('source.spm', 'target.spm')  # of a MarianTokenizer
_MERGES = ('merges.txt', 'vocab.bpe')  # beside vocab.json and OpenAI's encoder.json


def encode_following(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts of which each goes on another: sentencepiece's begin otherwise."""
    if isinstance(tokenizer, PieceTokenizer | PublishedTokenizer):
        return tokenizer.encode_following(texts)
    return tokenizer.encode_batch(texts)


@dataclass(frozen=True)
class Tokenizers:
    """Both sides' view of one vocabulary: the same ids, possibly cut differently.

    `labels` are what a head on an encoder chooses from, in the order of its outputs; of numbers,
    their mean and deviation; of answers, one word if some questions have none. `template`
    places the special tokens, where a published model does that in its own way; else it is
    `own_template`.
    """

    source: Tokenizer
    target: Tokenizer
    labels: tuple[str, ...] = ()
    template: Template | None = None

    @property
    def special(self) -> Special:
        return self.source.special

    @property
    def vocab_size(self) -> int:
        return self.source.vocab_size

    @property
    def between(self) -> int:
        """How many EOS part two texts that an encoder reads: 2 in RoBERTa, else 1."""
        return len(self.template.between) if self.template else 1

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, of the serialised form."""
        return _fingerprint(self._description(), b''.join(self._files().values()))

    def save(self, folder: Path) -> None:
        """Writes tokenizers.json and, for pieces, what they are read from beside it."""
        text = json.dumps(self._description() | {'fingerprint': self.fingerprint}, indent=1)
        Path(folder, _DESCRIPTION).write_text(text + '\n', encoding='utf-8')
        for name, content in self._files().items():
            Path(folder, name).write_bytes(content)

    def _files(self) -> dict[str, bytes]:
        """The files beside tokenizers.json."""
        match self.source:
            case PieceTokenizer() | LibraryTokenizer() | PublishedTokenizer():
                return {self.source.file_name: self.source.file}
            case MarianTokenizer():
                return dict(zip(_SIDES, (self.source.file, self.target.file)))
        return {}

    def _description(self) -> dict:
        """What tokenizers.json says, in JSON's own types."""
        special = self.special._asdict() | {'sentinels': list(self.special.sentinels)}
        about = {'source': self.source.kind, 'target': self.target.kind, 'special': special}
        if self.labels:
            about['labels'] = list(self.labels)
        if self.template:
            about['template'] = [list(ids) for ids in self.template]
        match self.source:
            case SymbolTokenizer(symbols=symbols, appended=appended):
                return about | {'symbols': list(symbols), 'appended': list(appended)}
            case ByteTokenizer(appended=appended):
                return about | {'appended': list(appended)}
            case PieceTokenizer(file_name=name, appended=appended):
                return about | {'file': name, 'appended': list(appended)}
            case LibraryTokenizer(file_name=name):
                return about | {'file': name}
            case PublishedTokenizer(file_name=name):
                return about | {'file': name, 'published': True}
            case MarianTokenizer(names=names):
                return about | {'names': list(names)}


def load_tokenizers(folder: Path) -> Tokenizers:
    """The inverse of `Tokenizers.save`. Raises UserError for a missing or damaged file."""
    folder = Path(folder)
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding='utf-8'))
        fingerprint = description.pop('fingerprint')
        names = _SIDES if 'names' in description else filter(None, [description.get('file')])
        files = [(folder / name).read_bytes() for name in names]
        sound = _fingerprint(description, b''.join(files)) == fingerprint
    except OSError as error:
        raise UserError(f'cannot read the tokenizer in {folder} ({error.strerror}: '
                        f'{Path(error.filename).name}); give the folder of a run') from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f'the tokenizer files in {folder} are damaged (they do not match their '
                        'fingerprint); restore them from a copy')
    template = description.get('template')
    return replace(_described(description, *files), labels=tuple(description.get('labels', ())),
                   template=template and Template(*map(tuple, template)))


def _described(description: dict, file: bytes = b'', other: bytes = b'') -> Tokenizers:
    kinds, appended = (description['source'], description['target']), description.get('appended')
    special = description['special']
    special = Special(**special | {'sentinels': tuple(special['sentinels'])})
    if description.get('published'):
        return _twins(PublishedTokenizer(file, special))
    if 'names' in description:
        return Tokenizers(*(MarianTokenizer(side, description['names'], special)
                            for side in (file, other)))
    if description.get('file') == LibraryTokenizer.file_name:
        return _twins(LibraryTokenizer(file))
    if description.get('file') == PieceTokenizer.file_name:
        return _twins(PieceTokenizer(kinds[0], file, appended))
    if kinds[0] == ByteTokenizer.kind:
        return _twins(ByteTokenizer(appended))
    return Tokenizers(*(SymbolTokenizer(kind, description['symbols'], appended) for kind in kinds))


def train_tokenizers(data: DataConfig, texts: Iterable[tuple[str, ...]]) -> Tokenizers:
    """A vocabulary that covers `texts`, pairs (source, target) or (text,), and the views of it.

    With data.tokenizer_file it is read instead. Characters, words and bytes do not depend on the
    order of the texts. Raises UserError for kinds that cannot share a vocabulary, for a file that
    cannot be read or holds another kind, and for a data.vocab_size that does not suit the texts.
    """
    kinds = data.tokenizer, data.target_tokenizer or data.tokenizer
    kind = kinds[0]
    if kind != kinds[1] and (data.tokenizer_file or not set(kinds) <= set(SEPARATORS)):
        raise UserError(f'data.tokenizer={kind} and data.target_tokenizer={kinds[1]} cannot share '
                        'one vocabulary; leave data.target_tokenizer empty')
    if data.tokenizer_file:
        return _twins(_read(data))
    if kind in SEPARATORS:
        symbols = {symbol for text in texts for side, kind in zip(text, kinds)
                   for symbol in split(kind, side)}
        appended = missing_special(TRAINED, data.objective)
        return Tokenizers(*(SymbolTokenizer(kind, sorted(symbols), appended) for kind in kinds))
    if kind == ByteTokenizer.kind:
        return _twins(ByteTokenizer(missing_special(TRAINED, data.objective)))
    sides = (side for text in texts for side in text)
    if kind == 'wordpiece':
        return _twins(train_wordpiece(data.vocab_size, data.objective, sides))
    if kind == 'byte_bpe':
        return _twins(train_byte_bpe(data.vocab_size, data.objective, sides))
    return _twins(train_pieces(kind, data.vocab_size, data.objective, sides))


def tokenizer_files(data: DataConfig) -> list[Path]:
    """The files that data.tokenizer_file stands for: none, itself, or a vocabulary and its merges.

    Raises UserError where one cannot be read.
    """
    if not data.tokenizer_file:
        return []
    path = Path(data.tokenizer_file).expanduser()
    try:
        if path.suffix != '.json' or 'model' in (head := json.loads(path.read_bytes())) \
                and isinstance(head['model'], dict):
            return [path]
    except OSError as error:
        raise UserError(f'cannot read {path} ({error.strerror}); '
                        'check data.tokenizer_file') from None
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from None
    for name in _MERGES:
        if (merges := path.with_name(name)).is_file():
            return [path, merges]
    raise UserError(f'{path} needs its merges in the same folder, as {" or ".join(_MERGES)}; '
                    'put them there')


def _read(data: DataConfig) -> Tokenizer:
    """The tokenizer in data.tokenizer_file, which must be of the kind data.tokenizer."""
    path, *merges = tokenizer_files(data)
    try:
        file = path.read_bytes()
        if merges:
            tokenizer = read_byte_bpe(json.loads(file), lines_of(merges[0]), data.objective)
        elif path.suffix == '.json':
            tokenizer = read_library(file, data.objective)
        elif path.suffix == '.txt':
            tokenizer = read_wordpiece(lines_of(path), data.objective)
        elif path.suffix in ('.model', '.spm'):
            tokenizer = read_pieces(file, data.objective)
        else:
            raise UserError('its name must end in .txt, .json, .model or .spm')
    except OSError as error:
        raise UserError(f'cannot read {error.filename} ({error.strerror}); '
                        'check data.tokenizer_file') from None
    except Exception as error:  # what the tokenizers library raises is nothing more special
        raise _unreadable(path, error) from None
    if tokenizer.kind in SEPARATORS:
        raise UserError(f'{path} holds a {tokenizer.kind} tokenizer, which is not read from files;'
                        f' leave data.tokenizer_file empty and set --config.data.tokenizer='
                        f'{tokenizer.kind}, which is learnt from the data')
    if tokenizer.kind != data.tokenizer:
        raise UserError(f'{path} holds a {tokenizer.kind} tokenizer, not data.tokenizer='
                        f'{data.tokenizer}; set --config.data.tokenizer={tokenizer.kind}')
    return tokenizer


def lines_of(path: Path) -> list[str]:
    """Lines without their ends; only a newline ends one, as pieces hold rarer line ends."""
    with open(path, encoding='utf-8-sig', newline='') as file:
        text = file.read().rstrip('\r\n')
    return [line.removesuffix('\r') for line in text.split('\n')]


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f'{path} is not a tokenizer that can be read ({" ".join(str(error).split())}'
                     '); check data.tokenizer_file')


def _fingerprint(description: dict, file: bytes) -> str:
    return hashlib.sha256(json.dumps(description).encode() + file).hexdigest()


def _twins(tokenizer: Tokenizer) -> Tokenizers:
    return Tokenizers(tokenizer, tokenizer)
