"""Our tokenizers as files of a Hugging Face folder, for transformers and whoever reads those.

tokenizer_config.json names the class that takes tokenizer.json as it is: the families' own classes
would build normalizer and pre-tokenizer anew, as their first models had them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from xformer.config import UserError
from xformer.data.tokenizers import MarianTokenizer, Special, Template, Tokenizers, own_template
from xformer.data.tokenizers.library import LibraryTokenizer
from xformer.data.tokenizers.pieces import PieceTokenizer
from xformer.data.tokenizers.published import PublishedTokenizer
from xformer.data.tokenizers.symbols import ByteTokenizer, SymbolTokenizer
from xformer.interop.tokenizers import (
    ROLES,
    Family,
    family_of,
    mark_special,
    post_processor,
    template_of,
)
from xformer.interop.vocabularies import from_proto, parse_proto

_MODELS = {'albert': 'spiece.model', 't5': 'spiece.model', 'mt5': 'spiece.model',
           'llama': 'tokenizer.model', 'mistral': 'tokenizer.model'}
_WHITE = ''.join(f'\\x{{{code:x}}}' for code in range(0x3001) if chr(code).isspace())


def write_tokenizers(tokenizers: Tokenizers, folder: Path, family: str, segments: bool = True,
                     longest: int | None = None) -> None:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json, for config.json's
    model_type `family`; for Marian source.spm, target.spm and vocab.json.

    Special tokens go where `tokenizers.template` has them, else as for the family's objectives (a
    decoder's: language modelling). Whoever reads the files obeys special tokens in a text, which
    tokenizers trained here take for text. A model without `segments` is given no types of tokens,
    and texts may be cut at `longest`. Raises UserError for what cannot be written.
    """
    folder = Path(folder)
    if family == 'marian':
        return _write_marian(tokenizers, folder)
    about, source = family_of(family), tokenizers.source
    if source.kind != tokenizers.target.kind or isinstance(source, MarianTokenizer):
        raise UserError(f'source and target have tokenizers of their own ({source.kind} and '
                        f'{tokenizers.target.kind}), and {family} has one for both; choose a run '
                        'with data.target_tokenizer empty')
    template = tokenizers.template or own_template(about.kind, 'lm', source.special)
    library = _library(source)
    library.no_truncation()
    library.no_padding()
    mark_special(library, source.tokens(source.special.ids()))
    if not (isinstance(source, PublishedTokenizer) and template_of(library, folder) == template):
        library.post_processor = post_processor(
            *(source.tokens(ids) for ids in template), library, about)
    _check_ids(source, library)
    library.save(str(folder / 'tokenizer.json'))
    _write_config(folder, _names(source, about, template), {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'clean_up_tokenization_spaces': False,
        'model_input_names': ['input_ids', *['token_type_ids'] * (about.segments and segments),
                              'attention_mask'],
        **({'model_max_length': longest} if longest else {}), **_options(library)})
    if isinstance(source, PieceTokenizer) and family in _MODELS:
        (folder / _MODELS[family]).write_bytes(source.file)


def _library(source) -> Tokenizer:
    match source:
        case PublishedTokenizer():
            return Tokenizer.from_buffer(source.file)
        case LibraryTokenizer():
            return _with_unknown(source)
        case PieceTokenizer():
            library = from_proto(parse_proto(source.file))
            library.add_special_tokens(list(source.appended))
            return library
        case ByteTokenizer():
            return _bytes(source)
        case SymbolTokenizer():
            return _symbols(source)


def _with_unknown(source: LibraryTokenizer) -> Tokenizer:
    """What the file leaves out where it knows no token reads as unknown here."""
    description = json.loads(source.file)
    model = description['model']
    if model['type'] == 'Unigram':
        model['unk_id'] = source.special.unk
    elif source.kind != 'byte_bpe':
        [model['unk_token']] = source.tokens([source.special.unk])
    if 'dropout' in model:
        model['dropout'] = None
    return Tokenizer.from_str(json.dumps(description))


def _symbols(source: SymbolTokenizer) -> Tokenizer:
    library = _word_level(source, source.tokens(range(source.vocab_size)))
    if source.kind == 'word':
        library.pre_tokenizer = pre_tokenizers.Split(Regex(f'[{_WHITE}]+'), 'removed')
    else:
        library.pre_tokenizer = pre_tokenizers.Split(Regex(r'[\s\S]'), 'isolated')
        library.decoder = decoders.Fuse()
    return library


def _bytes(source: ByteTokenizer) -> Tokenizer:
    """Bytes by the names that GPT-2 gave them: those of the printable ones in Latin-1 first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    names = source.tokens(range(source.vocab_size))
    first = source.encode('\0')[0]
    library = _word_level(source, [*names[:first], *letters, *names[first + 256:]])
    library.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Split(Regex(r'[\s\S]'), 'isolated')])
    library.decoder = decoders.ByteLevel()
    return library


def _word_level(source, names: Sequence[str]) -> Tokenizer:
    ids = {name: i for i, name in enumerate(names)}
    if len(ids) < len(names):
        raise UserError('the training data has a word that reads like a special token, which '
                        'tokenizer.json cannot tell apart; train with another data.tokenizer')
    return Tokenizer(models.WordLevel(ids, names[source.special.unk]))


def _check_ids(source, library: Tokenizer) -> None:
    """Raises UserError where a token would be written with another id, as where two share a
    name."""
    names = source.tokens(range(source.vocab_size))
    for i in source.special.ids():
        if library.token_to_id(names[i]) != i:
            raise UserError(f'the vocabulary has two tokens {names[i]!r}, which tokenizer.json '
                            'cannot tell apart; train with another data.tokenizer')


def _names(source, about: Family, template: Template) -> dict[str, str]:
    """The special tokens of the roles that the family has, where they have a token of their own."""
    special: Special = source.special
    begin = template.before[0] if template.before else special.bos
    ids = {'bos': begin, 'cls': begin, 'eos': special.eos, 'sep': special.eos, 'pad': special.pad,
           'unk': special.unk, 'mask': special.mask}
    if special.pad == special.eos:
        del ids['pad']
    if special.unk == special.pad and 'unk' in ids:
        del ids['unk']
    return {f'{role}_token': source.tokens([ids[role]])[0] for role in ROLES
            if ids.get(role) is not None and (role in about.names or role == 'pad')}


def _options(library: Tokenizer) -> dict:
    """What BERT's own classes are told in tokenizer_config.json."""
    if type(library.normalizer).__name__ != 'BertNormalizer':
        return {}
    return {'do_lower_case': library.normalizer.lowercase,
            'strip_accents': library.normalizer.strip_accents,
            'tokenize_chinese_chars': library.normalizer.handle_chinese_chars}


def _write_marian(tokenizers: Tokenizers, folder: Path) -> None:
    sides = tokenizers.source, tokenizers.target
    if not all(isinstance(side, MarianTokenizer | PieceTokenizer) for side in sides):
        raise UserError(f'Marian has sentencepiece models, not data.tokenizer={sides[0].kind}; '
                        'write another family, or train with data.tokenizer=unigram')
    special = tokenizers.special
    names = sides[0].tokens(range(sides[0].vocab_size))
    (folder / 'vocab.json').write_text(json.dumps(
        {name: i for i, name in enumerate(names)}, ensure_ascii=False), encoding='utf-8')
    for name, side in zip(('source.spm', 'target.spm'), sides):
        (folder / name).write_bytes(side.file)
    _write_config(folder, {f'{role}_token': names[i] for role, i in (
        ('eos', special.eos), ('unk', special.unk), ('pad', special.pad))},
        {'tokenizer_class': 'MarianTokenizer', 'separate_vocabs': False})


def _write_config(folder: Path, names: dict[str, str], options: dict) -> None:
    for name, content in (('special_tokens_map.json', names),
                          ('tokenizer_config.json', names | options)):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + '\n', encoding='utf-8')
