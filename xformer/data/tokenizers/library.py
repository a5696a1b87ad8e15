"""WordPiece and byte-level BPE by the `tokenizers` library, and whatever its files describe."""

import json
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from xformer.config import UserError
from xformer.data.tokenizers.special import (
    TRAINED,
    TRAINED_WORDPIECE,
    Spans,
    Special,
    find_special,
    has_unknown,
    missing_special,
    names_of,
    readable,
)

_CONTINUES = '##'  # begins every piece of a word but the first (Schuster and Nakajima, 2012)
_SPACES = {  # begin the piece after a space, or a line end or tab
    'byte_bpe': ('Ġ', 'Ċ', 'č', 'ĉ'), 'bpe': '\u2581', 'unigram': '\u2581'}


class ByLibrary:
    """How the library's tokenizers cut a text, whatever their file says of special tokens."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without the special tokens around it."""
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def spans(self, text: str) -> Spans:
        """The ids of `text` and where in it they stand."""
        encoding = self._library.encode(text, add_special_tokens=False)
        return Spans(encoding.ids, encoding.offsets)

    def word_starts(self) -> np.ndarray:
        """bool (V,): which ids begin a word; see the function."""
        return word_starts(self.kind, self._names, self._continues, self.special.ids())


class LibraryTokenizer(ByLibrary):
    """A tokenizer of the `tokenizers` library; `file` is its tokenizer.json, as that writes it.

    Its own handling of special tokens, truncation, padding and dropout is switched off.
    """

    file_name = 'tokenizer.json'

    def __init__(self, file: bytes):
        self.file = file
        description = json.loads(file)
        ids = _ids(description)
        self.kind = kind_of(description)
        self._continues = description['model'].get('continuing_subword_prefix')
        self.special = find_special(ids)
        self._names = tuple(sorted(ids, key=ids.get))
        self.vocab_size = len(self._names)
        if ids[self._names[-1]] != self.vocab_size - 1:
            raise UserError(f'the vocabulary has {self.vocab_size} tokens but ids up to '
                            f'{ids[self._names[-1]]}; number them without gaps or repeats')
        if self.kind != 'byte_bpe' and not has_unknown(ids):
            raise UserError('the vocabulary has no token for what it does not know; '
                            'give one of its tokens the name [UNK] or <unk>')
        self._library = Tokenizer.from_str(_inert(description, self.special, self._names))
        self._library.encode_special_tokens = True
        self._decoder = self._library.decoder

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The name of every id, special ones included: what a picture shows."""
        return names_of(ids, self._names, self.special.unk)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are skipped, not obeyed, but for unknown ones."""
        tokens = readable(ids, self._names, self.special)
        return self._decoder.decode(tokens) if self._decoder else ' '.join(tokens)


def word_starts(kind: str, names: Sequence[str], continues: str | None,
                special_ids: Sequence[int]) -> np.ndarray:
    """bool (V,): which ids begin a word: special tokens and pieces that do not continue one.

    The first piece of a text has no space before it: in byte-level BPE it looks like a
    continuation. Raises UserError where pieces mark the ends of words instead.
    """
    if kind == 'wordpiece':
        starts = np.array([not name.startswith(continues) for name in names])
    else:
        starts = np.array([name.startswith(_SPACES.get(kind, '')) for name in names])
    if not starts.any():
        raise UserError('the pieces of this tokenizer do not show where a word begins; '
                        'switch data.whole_words off')
    starts[special_ids] = True
    return starts


def train_wordpiece(vocab_size: int, objective: str, texts: Iterable[str]) -> LibraryTokenizer:
    """Pieces as BERT has them (Devlin et al., 2019), case and accents kept.

    Words part at spaces and around punctuation and Chinese characters. `vocab_size` counts the
    special tokens that `objective` needs. Raises UserError where it cannot hold all characters.
    """
    appended = missing_special(TRAINED_WORDPIECE, objective)
    library = wordpiece({'[UNK]': 0}, lowercase=False, strip_accents=False)
    with tempfile.TemporaryFile('w+', encoding='utf-8', newline='') as lines:
        characters = set()
        for text in texts:
            characters.update(text)
            lines.write(text + '\n')
        lines.seek(0)
        # The trainer numbers continuing characters in the order of a hash table, and breaks ties
        # by number (huggingface/tokenizers, issue 1794). Known beforehand, their numbers are fixed.
        continuing = [_CONTINUES + character for character in sorted(characters)
                      if _within_words(character, library)]
        library.train_from_iterator(lines, trainers.WordPieceTrainer(
            vocab_size=vocab_size - len(appended), show_progress=False,
            special_tokens=[*TRAINED_WORDPIECE, *continuing]))
    library = wordpiece(library.get_vocab(), lowercase=False, strip_accents=False)
    return _fitting(LibraryTokenizer(_complete(library, objective)), vocab_size)


def train_byte_bpe(vocab_size: int, objective: str, texts: Iterable[str]) -> LibraryTokenizer:
    """Byte-pair encoding of bytes (Radford et al., 2019, GPT-2): nothing is ever unknown.

    `vocab_size` counts the special tokens that `objective` needs. Raises UserError where it cannot
    hold all bytes.
    """
    appended = missing_special(TRAINED, objective)
    library = byte_bpe(models.BPE())
    library.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size - len(appended), show_progress=False, special_tokens=list(TRAINED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return _fitting(LibraryTokenizer(_complete(library, objective)), vocab_size)


def read_library(file: bytes, objective: str) -> LibraryTokenizer:
    """A tokenizer.json, with what it lacks for `objective` appended."""
    return LibraryTokenizer(_complete(Tokenizer.from_buffer(file), objective))


def read_wordpiece(pieces: Sequence[str], objective: str) -> LibraryTokenizer:
    """BERT's vocab.txt, a piece a line; text is lower-cased if no piece has a capital, and loses
    its accents if no piece has one, either."""
    ids = {piece: i for i, piece in enumerate(pieces)}
    lowercase = all(piece == piece.lower() for piece in ids if not piece.startswith(('[', '<')))
    accented = any(unicodedata.category(character) == 'Mn' for piece in ids
                   for character in unicodedata.normalize('NFD', piece))
    return LibraryTokenizer(_complete(wordpiece(ids, lowercase, lowercase and not accented),
                                      objective))


def read_byte_bpe(ids: Mapping[str, int], merges: Sequence[str],
                  objective: str) -> LibraryTokenizer:
    """GPT-2's vocab.json and merges.txt, a pair of pieces a line, most frequent first."""
    return LibraryTokenizer(_complete(byte_bpe(models.BPE(dict(ids), pairs_of(merges))), objective))


def pairs_of(merges: Sequence[str]) -> list[tuple[str, ...]]:
    """The pairs in the lines of a merges.txt."""
    return [tuple(line.split(' ')) for line in merges if line and not line.startswith('#version')]


def wordpiece(ids: dict[str, int], lowercase: bool, strip_accents: bool | None,
              part_chinese: bool = True, unk: str = '[UNK]') -> Tokenizer:
    """BERT's tokenizer over a vocabulary; `strip_accents` None is as `lowercase`."""
    library = Tokenizer(models.WordPiece(ids, unk_token=unk))
    library.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=part_chinese, lowercase=lowercase, strip_accents=strip_accents)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix=_CONTINUES)
    return library


def byte_bpe(model: models.BPE, begin_with_space: bool = False) -> Tokenizer:
    """GPT-2's tokenizer over a vocabulary and its merges."""
    library = Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=begin_with_space)
    library.decoder = decoders.ByteLevel()
    return library


def _within_words(character: str, library: Tokenizer) -> bool:
    """Whether a character can follow another in one word; spaces and punctuation cannot."""
    twice = library.normalizer.normalize_str(2 * character)
    words = library.pre_tokenizer.pre_tokenize_str(twice)
    return [word for word, _ in words] == [2 * character]


def _fitting(tokenizer: LibraryTokenizer, vocab_size: int) -> LibraryTokenizer:
    if tokenizer.vocab_size > vocab_size:
        raise UserError(f'data.vocab_size={vocab_size} cannot hold the {tokenizer.vocab_size} '
                        'special tokens and characters of the texts; raise '
                        '--config.data.vocab_size')
    return tokenizer


def _complete(library: Tokenizer, objective: str) -> bytes:
    """Its tokenizer.json; special tokens are marked as such, missing ones appended."""
    ids = library.get_vocab()
    missing = missing_special(ids, objective)
    special = find_special(ids | {name: i for i, name in enumerate(missing, len(ids))})
    names = sorted(ids, key=ids.get)
    library.add_special_tokens([names[i] for i in special.ids() if i < len(ids)] + missing)
    return library.to_str().encode()


def _inert(description: dict, special: Special, names: Sequence[str]) -> str:
    """The tokenizer.json of one that never yields a special token, unless unk for the unknown.

    Each is renamed to what no text contains: `encode_special_tokens` alone would leave them in the
    model, where a unigram model finds </s> like any other piece.
    """
    model, added = description['model'], description['added_tokens']
    hidden = {names[i] for i in special.ids()} | {
        token['content'] for token in added if token['special']}

    def rename(name: str) -> str:
        return f'\0 {name}' if name in hidden else name

    if model['type'] == 'Unigram':
        model |= {'vocab': [(rename(name), score) for name, score in model['vocab']],
                  'unk_id': special.unk}
    else:
        model |= {'vocab': {rename(name): i for name, i in model['vocab'].items()},
                  'unk_token': rename(names[special.unk])}
    if 'dropout' in model:
        model['dropout'] = None
    added = [token | {'content': rename(token['content']),
                      'special': token['content'] in hidden} for token in added]
    return json.dumps(description | {'added_tokens': added, 'post_processor': None,
                                     'truncation': None, 'padding': None})


def _ids(description: dict) -> dict[str, int]:
    vocab = description['model']['vocab']
    if description['model']['type'] == 'Unigram':  # [[name, log p], ...]
        vocab = {name: i for i, (name, _) in enumerate(vocab)}
    return vocab | {token['content']: token['id'] for token in description['added_tokens']}


def kind_of(description: dict) -> str:
    """Which data.tokenizer this is; byte-level BPE shows in how it decodes."""
    model = description['model']['type']
    if model == 'BPE':
        return 'byte_bpe' if '"ByteLevel"' in json.dumps(description['decoder']) else 'bpe'
    return {'WordPiece': 'wordpiece', 'Unigram': 'unigram', 'WordLevel': 'word'}[model]
