"""Vocabulary files from before tokenizer.json, as tokenizers of the `tokenizers` library.

They say less than a tokenizer.json: what is done to a text before it is cut is known by the family
of the model. Source: the tokenizer classes of transformers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from xformer.config import UserError
from xformer.data.tokenizers.library import byte_bpe, pairs_of, wordpiece
from xformer.data.tokenizers.vocabulary import lines_of

SPACE = '\u2581'  # how pieces write it
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # SentencePiece.Type


class Declared(NamedTuple):
    """What a folder says of its tokenizer beside the vocabulary."""

    folder: Path
    names: Mapping[str, str]  # of special tokens, by their roles: 'pad', 'cls', ...
    tokens: Mapping[str, AddedToken]  # those of which more is said than the name
    options: Mapping[str, object]  # tokenizer_config.json

    def name(self, role: str) -> str:
        """Of the token of a role. Raises UserError where the files say that there is none."""
        if role not in self.names:
            raise missing(self.folder, role)
        return self.names[role]

    def option(self, name: str, default):
        """An option, or the default of the family's class in transformers."""
        value = self.options.get(name)
        return default if value is None else value


def read_wordpiece(declared: Declared) -> Tokenizer:
    """BERT's vocab.txt. Raises UserError where nothing says whether text is lower-cased."""
    path = _file(declared.folder, 'vocab.txt')
    pieces = _read(path, lines_of)
    ids = {piece: i for i, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
        raise UserError(f'{path} has the piece {_twice(pieces)!r} twice; restore the file')
    cased = any(piece != piece.lower() for piece in ids if not piece.startswith(('[', '<')))
    if cased and declared.option('do_lower_case', None) is None:
        raise UserError(f'{path} has pieces with capital letters, and {declared.folder}/'
                        'tokenizer_config.json does not say do_lower_case; say there whether the '
                        'model reads lower-cased text')
    return wordpiece(ids, declared.option('do_lower_case', True),
                     declared.option('strip_accents', None),
                     declared.option('tokenize_chinese_chars', True), declared.name('unk'))


def read_byte_bpe(declared: Declared) -> Tokenizer:
    """vocab.json and merges.txt, or GPT-2's own encoder.json and vocab.bpe."""
    folder = declared.folder
    found = [pair for pair in (('vocab.json', 'merges.txt'), ('encoder.json', 'vocab.bpe'))
             if (folder / pair[0]).is_file()]
    if len(found) == 2:
        raise UserError(f'{folder} has both vocab.json and encoder.json; remove the one that does '
                        'not belong to the model')
    vocabulary, merges = found[0] if found else ('vocab.json', 'merges.txt')
    ids = read_json(_file(folder, vocabulary))
    pairs = pairs_of(_read(_file(folder, merges), lines_of))
    try:
        model = models.BPE(ids, pairs)
    except Exception as error:  # what the tokenizers library raises is nothing more special
        raise UserError(f'{folder}/{merges} does not go with {vocabulary} ({error}); restore both '
                        'from one copy') from None
    return byte_bpe(model, declared.option('add_prefix_space', False))


def read_t5(declared: Declared) -> Tokenizer:
    """spiece.model and the sentinels, <extra_id_0> last."""
    proto = read_proto(_file(declared.folder, 'spiece.model'))
    sentinels = [f'<extra_id_{k}>' for k in reversed(range(declared.option('extra_ids', 100)))]
    library = _unigram(proto, [*_scored(proto), *((name, 0.0) for name in sentinels)],
                       proto.trainer_spec.unk_id, _precompiled(proto))
    library.add_special_tokens(sentinels)
    return library


def read_albert(declared: Declared) -> Tokenizer:
    """spiece.model; text is lower-cased and loses its accents unless the options say otherwise."""
    proto = read_proto(_file(declared.folder, 'spiece.model'))
    steps = [normalizers.Replace('``', '"'), normalizers.Replace("''", '"')]
    if not declared.option('keep_accents', False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if declared.option('do_lower_case', True):
        steps.append(normalizers.Lowercase())
    return _unigram(proto, _scored(proto), proto.trainer_spec.unk_id, steps + _precompiled(proto))


def read_xlm_roberta(declared: Declared) -> Tokenizer:
    """sentencepiece.bpe.model, whose first three pieces make room for fairseq's four tokens."""
    proto = read_proto(_file(declared.folder, 'sentencepiece.bpe.model'))
    first = ((declared.name(role), 0.0) for role in ('bos', 'pad', 'eos', 'unk'))
    return _unigram(proto, [*first, *_scored(proto)[3:], (declared.name('mask'), 0.0)], 3,
                    _precompiled(proto))


def read_llama(declared: Declared) -> Tokenizer:
    """tokenizer.model, cut `as_llama`."""
    proto = read_proto(_file(declared.folder, 'tokenizer.model'))
    if proto.trainer_spec.model_type != _BPE:
        raise UserError(f'{declared.folder}/tokenizer.model is no byte-pair encoding, as Llama has '
                        'it; give the file of the model')
    return as_llama(from_proto(proto), declared)


def as_llama(library: Tokenizer, declared: Declared) -> Tokenizer:
    """As transformers' LlamaTokenizer cuts, whatever its files say: a text that begins with no
    space is given one, and with the option legacy=true so is what follows a special token."""
    prefix = 'always' if declared.option('legacy', False) else 'first'
    library.normalizer = None
    library.pre_tokenizer = pre_tokenizers.Metaspace(
        SPACE, prefix if declared.option('add_prefix_space', True) else 'never', split=False)
    return library


def read_nothing(declared: Declared) -> Tokenizer:
    """For families whose older files do not say how text is cut. Raises UserError."""
    raise UserError(f'{declared.folder} has no tokenizer.json, and the model\'s other tokenizer '
                    'files do not say how text is cut; put its tokenizer.json there')


def from_proto(proto) -> Tokenizer:
    """A sentencepiece model as it is: it cuts texts into the same pieces, but where its rules of
    normalisation make one character of several, which the `tokenizers` library may not.

    Raises UserError for a kind of model that the `tokenizers` library lacks.
    """
    spec, rules = proto.trainer_spec, proto.normalizer_spec
    if spec.model_type == _UNIGRAM:
        model = models.Unigram(_scored(proto), spec.unk_id, spec.byte_fallback)
    elif spec.model_type == _BPE:
        ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
        model = models.BPE(ids, _merges(proto), unk_token=proto.pieces[spec.unk_id].piece,
                           fuse_unk=True, byte_fallback=spec.byte_fallback)
    else:
        raise UserError('a sentencepiece model of characters or words has no counterpart; give '
                        'one of the kind unigram or bpe')
    steps = _precompiled(proto)
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(' {2,}'), ' ')]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(' ', SPACE))
    library = Tokenizer(model)
    library.normalizer = normalizers.Sequence(steps)
    parts = [decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
    if rules.add_dummy_prefix:
        parts.append(decoders.Strip(' ', 1, 0))
    library.decoder = decoders.Sequence(parts)
    _add_symbols(library, proto)
    return library


def missing(folder: Path, role: str) -> UserError:
    """That a folder has no token for a role, and where to name one."""
    return UserError(f'{folder} has no {role}_token in its vocabulary that tokenizer_config.json, '
                     'special_tokens_map.json or config.json names; add '
                     f'"{role}_token" to tokenizer_config.json')


def parse_proto(file: bytes):
    """A sentencepiece model's own description. Raises DecodeError where it is none."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file)
    return proto


def read_proto(path: Path):
    """Raises UserError for a file that cannot be read or is no sentencepiece model."""
    def parse(path: Path):
        proto = parse_proto(path.read_bytes())
        if not proto.pieces:
            raise ValueError('it has no pieces')
        return proto
    return _read(path, parse)


def read_json(path: Path) -> dict:
    """Raises UserError for a file that cannot be read or holds no JSON object."""
    def parse(path: Path) -> dict:
        return dict(json.loads(path.read_bytes()))
    return _read(path, parse)


def _unigram(proto, vocabulary: Sequence[tuple[str, float]], unk_id: int,
             steps: list) -> Tokenizer:
    """Words part at spaces, each then begins with one."""
    library = Tokenizer(models.Unigram(list(vocabulary), unk_id, byte_fallback=False))
    library.normalizer = normalizers.Sequence(steps)
    library.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, 'always')])
    library.decoder = decoders.Metaspace(SPACE, 'always')
    _add_symbols(library, proto)
    return library


def _add_symbols(library: Tokenizer, proto) -> None:
    """Control symbols are special tokens, user-defined ones are cut out of a text first."""
    known = library.get_vocab()
    for kind, add in ((_CONTROL, library.add_special_tokens), (_USER_DEFINED, library.add_tokens)):
        add([piece.piece for piece in proto.pieces if piece.type == kind and piece.piece in known])


def _scored(proto) -> list[tuple[str, float]]:
    return [(piece.piece, piece.score) for piece in proto.pieces]


def _merges(proto) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the most frequent piece first."""
    ids = {piece.piece for piece in proto.pieces if piece.type == _NORMAL}
    return [(name[:i], name[i:]) for name in (piece.piece for piece in proto.pieces)
            if name in ids for i in range(1, len(name)) if name[:i] in ids and name[i:] in ids]


def _precompiled(proto) -> list:
    rules = proto.normalizer_spec.precompiled_charsmap
    return [normalizers.Precompiled(rules)] if rules else []


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(f'{folder} has neither tokenizer.json nor {name}; put the tokenizer files '
                        'of the model there')
    return folder / name


def _read(path: Path, parse: Callable):
    try:
        return parse(path)
    except OSError as error:
        raise UserError(f'cannot read {path} ({error.strerror}); restore it from a copy') from None
    except (ValueError, TypeError, DecodeError) as error:
        raise UserError(f'{path} is damaged ({" ".join(str(error).split())}); restore it from a '
                        'copy') from None


def _twice(pieces: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(piece for piece in pieces if piece in seen or seen.add(piece))
