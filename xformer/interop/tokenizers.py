"""The tokenizer of a Hugging Face folder: its files, old or new, as our tokenizers.

Ids are those that transformers gives. A tokenizer.json says how text is cut; what the special
tokens are for stands in special_tokens_map.json, tokenizer_config.json and config.json.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from xformer.config import UserError
from xformer.data.tokenizers import (
    MarianTokenizer,
    PublishedTokenizer,
    Special,
    Template,
    Tokenizers,
)
from xformer.interop.vocabularies import (
    Declared,
    as_llama,
    missing,
    read_albert,
    read_byte_bpe,
    read_json,
    read_llama,
    read_nothing,
    read_proto,
    read_t5,
    read_wordpiece,
    read_xlm_roberta,
)

ROLES = ('bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask')  # transformers: bos_token, ...


class Family(NamedTuple):
    """What transformers takes for granted of a kind of model."""

    kind: str  # model.family
    names: Mapping[str, str]  # of its special tokens
    read: Callable[[Declared], Tokenizer]  # its files where there is no tokenizer.json
    template: tuple[tuple[str, ...], ...]  # roles of the tokens of its `Template`; () from options
    segments: bool = False  # whether the ids go with token_type_ids


_BERT = Family('encoder', {'unk': '[UNK]', 'sep': '[SEP]', 'pad': '[PAD]', 'cls': '[CLS]',
                           'mask': '[MASK]'}, read_wordpiece, (('cls',), ('sep',), ('sep',)), True)
_ROBERTA = Family('encoder', {
    'bos': '<s>', 'eos': '</s>', 'unk': '<unk>', 'sep': '</s>', 'pad': '<pad>', 'cls': '<s>',
    'mask': '<mask>'}, read_byte_bpe, (('cls',), ('sep', 'sep'), ('sep',)))
_GPT2 = Family('decoder', dict.fromkeys(('bos', 'eos', 'unk'), '<|endoftext|>'), read_byte_bpe, ())
_LLAMA = Family('decoder', {'bos': '<s>', 'eos': '</s>', 'unk': '<unk>'}, read_llama, ())
_T5 = Family('seq2seq', {'eos': '</s>', 'unk': '<unk>', 'pad': '<pad>'}, read_t5,
             ((), ('eos',), ('eos',)))
FAMILIES = {
    'bert': _BERT, 'electra': _BERT, 'distilbert': _BERT._replace(segments=False),
    'albert': Family('encoder', {'bos': '[CLS]', 'eos': '[SEP]', 'unk': '<unk>', 'sep': '[SEP]',
                                 'pad': '<pad>', 'cls': '[CLS]', 'mask': '[MASK]'},
                     read_albert, _BERT.template, True),
    'roberta': _ROBERTA, 'xlm-roberta': _ROBERTA._replace(read=read_xlm_roberta),
    'bart': _ROBERTA._replace(kind='seq2seq'), 'gpt2': _GPT2, 'llama': _LLAMA, 'mistral': _LLAMA,
    'qwen2': _GPT2._replace(read=read_nothing), 't5': _T5, 'mt5': _T5}


def family_of(name: str) -> Family:
    """By config.json's model_type. Raises UserError for one that is not supported."""
    if name not in FAMILIES:
        raise UserError(f'tokenizers of the model_type {name!r} are not read or written; those of '
                        f'{", ".join(sorted([*FAMILIES, "marian"]))} are')
    return FAMILIES[name]


def read_tokenizers(folder: Path, family: str) -> Tokenizers:
    """The tokenizer of a folder whose config.json has the model_type `family`.

    Its template is the model's own. Special tokens in a text are obeyed. Raises UserError for
    files that are missing or damaged, or that contradict each other.
    """
    folder = Path(folder)
    try:
        return _read_marian(folder) if family == 'marian' else _read(folder, family)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{folder} has tokenizer files with a value of a wrong kind ({error!r}); '
                        'restore them from a copy') from error


def _read(folder: Path, family: str) -> Tokenizers:
    about = family_of(family)
    declared = _declared(folder, about.names)
    path = folder / 'tokenizer.json'
    library = _read_library(path) if path.is_file() else about.read(declared)
    if path.is_file():
        _check_same(declared, library)
        if family == 'llama' and _puts_spaces(library, declared):
            library = as_llama(library, declared)
    _add_declared(declared, library)
    known = library.get_vocab()
    marked = {token.content for token in library.get_added_tokens_decoder().values()}
    names = {role: name for role, name in declared.names.items()
             if name in known and (not path.is_file() or name in marked or _named(declared, role))}
    mark_special(library, [declared.tokens.get(name, name) for name in names.values()])
    special = _special(declared, about.kind, {role: known[name] for role, name in names.items()},
                       library)
    _place(library, about, names, declared, path.is_file())
    tokenizer = PublishedTokenizer(library.to_str().encode(), special)
    return Tokenizers(tokenizer, tokenizer, template=template_of(library, folder))


def _puts_spaces(library: Tokenizer, declared: Declared) -> bool:
    """Whether it puts a space before texts, as the files of Llama and Llama 2 do."""
    said = [json.loads(part.__getstate__()) for part in (library.normalizer, library.pre_tokenizer)
            if part is not None]
    kinds = {step['type'] for part in said for step in part.get('normalizers', [part])}
    return (declared.option('tokenizer_class', '') in ('LlamaTokenizer', 'LlamaTokenizerFast')
            and not kinds.isdisjoint({'Prepend', 'Metaspace'}))


def _read_library(path: Path) -> Tokenizer:
    try:
        library = Tokenizer.from_file(str(path))
    except Exception as error:  # what the tokenizers library raises is nothing more special
        raise UserError(f'{path} is no tokenizer that can be read ({" ".join(str(error).split())});'
                        ' restore it from a copy') from None
    library.no_truncation()
    library.no_padding()
    return library


def _declared(folder: Path, defaults: Mapping[str, str]) -> Declared:
    """The special tokens by their roles. Raises UserError where two files name different ones."""
    files = [folder / 'special_tokens_map.json', folder / 'tokenizer_config.json']
    found = [read_json(path) if path.is_file() else {} for path in files]
    names, tokens = dict(defaults), {}
    for role in ROLES:
        given = set()
        for token in (file[f'{role}_token'] for file in found if f'{role}_token' in file):
            given.add(_content(token))
            if isinstance(token, dict):
                tokens[_content(token)] = _added(token, special=True)
        if len(given - {None}) > 1:
            one, other = sorted(given - {None})
            raise UserError(f'{files[0]} and {files[1].name} contradict each other: {role}_token '
                            f'is {one!r} or {other!r}; correct the one that is wrong')
        if given - {None}:
            names[role] = (given - {None}).pop()
        elif given:  # null: there is none
            names.pop(role, None)
    for option, usual in ('word_tokenizer_type', 'basic'), ('subword_tokenizer_type', 'wordpiece'):
        if (value := found[1].get(option) or usual) != usual:
            raise UserError(f'{files[1]} has {option}={value!r}, which is not supported')
    return Declared(folder, names, tokens, found[1] | {'special_tokens_map': found[0]})


def _named(declared: Declared, role: str) -> bool:
    """Whether a file names the token, so that it need not be taken for granted."""
    return any(f'{role}_token' in file for file in (
        declared.options, declared.options['special_tokens_map']))


def _content(token: str | dict | None) -> str | None:
    return token['content'] if isinstance(token, dict) else token


def _added(token: dict, special: bool) -> AddedToken:
    """With what the file says of spaces around it."""
    told = {name: token[name] for name in ('lstrip', 'rstrip', 'single_word', 'normalized')
            if name in token}
    return AddedToken(token['content'], special=special, **told)


def mark_special(library: Tokenizer, tokens: Iterable[AddedToken | str]) -> None:
    """Those that are special already stay as they are: the library would forget what it knows of
    spaces beside them."""
    special = {token.content for token in library.get_added_tokens_decoder().values()
               if token.special}
    library.add_special_tokens([token for token in tokens if
                                getattr(token, 'content', token) not in special])


def _check_same(declared: Declared, library: Tokenizer) -> None:
    """Raises UserError where tokenizer_config.json contradicts tokenizer.json: transformers
    follows now the one, now the other."""
    normalizer, pre_tokenizer = library.normalizer, library.pre_tokenizer
    stated = {}
    if type(normalizer).__name__ == 'BertNormalizer':
        strips = normalizer.strip_accents
        stated = {'do_lower_case': normalizer.lowercase,
                  'strip_accents': normalizer.lowercase if strips is None else strips,
                  'tokenize_chinese_chars': normalizer.handle_chinese_chars}
    elif isinstance(pre_tokenizer, pre_tokenizers.ByteLevel):
        stated = {'add_prefix_space': pre_tokenizer.add_prefix_space}
    for name, value in stated.items():
        option = declared.option(name, value)
        if option != value:
            raise UserError(f'{declared.folder}/tokenizer_config.json has {name}={option}, '
                            f'tokenizer.json has {value}; correct the one that is wrong')


def _add_declared(declared: Declared, library: Tokenizer) -> None:
    """The tokens of added_tokens.json and tokenizer_config.json, each with the id given there."""
    path = declared.folder / 'added_tokens.json'
    listed = declared.options['special_tokens_map'] | declared.options
    extra = [listed.get(name) or () for name in (
        'additional_special_tokens', 'extra_special_tokens')]  # the latter may be by their roles
    special = [_content(token) for tokens in extra
               for token in (tokens.values() if isinstance(tokens, dict) else tokens)]
    added = {i: AddedToken(name, special=name in special)
             for name, i in (read_json(path) if path.is_file() else {}).items()}
    added |= {int(i): _added(token, token.get('special', False))
              for i, token in declared.option('added_tokens_decoder', {}).items()}
    for i, token in sorted(added.items()):
        name = token.content
        (library.add_special_tokens if token.special else library.add_tokens)([token])
        if library.token_to_id(name) != i:
            raise UserError(f'{declared.folder} gives the added token {name!r} the id {i}, but its '
                            f'vocabulary makes it {library.token_to_id(name)}; restore '
                            'added_tokens.json and tokenizer_config.json from a copy')
    mark_special(library, special)


def _special(declared: Declared, kind: str, ids: Mapping[str, int],
             library: Tokenizer) -> Special:
    """The ids of the roles; those that the files do not name, from config.json."""
    folder = declared.folder
    path = folder / 'config.json'
    config = read_json(path) if path.is_file() else {}

    def find(*roles: str) -> int | None:
        return next((ids[role] for role in roles if role in ids),
                    next((config[f'{role}_token_id'] for role in roles
                          if isinstance(config.get(f'{role}_token_id'), int)), None))

    eos, bos = find('sep', 'eos') if kind == 'encoder' else find('eos'), find('cls', 'bos')
    pad = find('pad')
    if kind == 'decoder':  # has no use for padding: whatever stands there is never seen
        bos, pad = find('bos'), eos if pad is None else pad
    elif kind == 'seq2seq':
        bos = config.get('decoder_start_token_id')
        if bos is None:  # the classes' own: BART begins with the end, T5 with padding
            bos = eos if 'cls' in ids else pad
    for value, role in ((eos, 'sep' if kind == 'encoder' else 'eos'), (pad, 'pad'),
                        (bos, 'cls') if kind == 'encoder' else (0, '')):
        if value is None:
            raise missing(folder, role)
    sentinels = (next((i for i in map(library.token_to_id, (
        f'<extra_id_{k}>', f'\u2581<extra_id_{k}>')) if i is not None), None) for k in range(100))
    unk = find('unk')
    return Special(pad, pad if bos is None else bos, eos, pad if unk is None else unk,
                   find('mask'), tuple(i for i in sentinels if i is not None))


def _place(library: Tokenizer, about: Family, names: Mapping[str, str], declared: Declared,
           complete: bool) -> None:
    """The template that the options say, unless tokenizer.json has one."""
    options = declared.options
    if about.template and not complete:
        for role in sum(about.template, ()):
            if role not in names:
                raise missing(declared.folder, role)
        around = [[names[role] for role in roles] for roles in about.template]
    elif about.kind == 'decoder' and not (complete and library.post_processor):
        if about is _LLAMA and not complete and 'add_bos_token' not in options:
            raise UserError(f'{declared.folder}/tokenizer_config.json does not say add_bos_token; '
                            'say there whether a text begins with the token '
                            f'{names.get("bos", "")!r}')
        begin, end = ([names[role]] if options.get(f'add_{role}_token') and role in names else []
                      for role in ('bos', 'eos'))
        around = [begin, [*end, *begin], end]
    else:
        return
    library.post_processor = post_processor(*around, library, about)


def post_processor(before: list[str], between: list[str], after: list[str], library: Tokenizer,
                   about: Family) -> processors.PostProcessor:
    """Puts special tokens, by name, around and between texts; with segments the second text and
    what comes after it are of type 1. Byte-level pieces stand where their letters do, but in
    decoders where their spaces do, too: as in RoBERTa and GPT-2."""
    second, spaces = int(about.segments), library.pre_tokenizer
    one = [f'{name}:0' for name in before] + ['$A:0']
    two = [f'{name}:0' for name in between] + [f'$B:{second}']
    template = processors.TemplateProcessing(
        single=[*one, *(f'{name}:0' for name in after)],
        pair=[*one, *two, *(f'{name}:{second}' for name in after)],
        special_tokens=[(name, library.token_to_id(name))
                        for name in dict.fromkeys([*before, *between, *after])])
    if isinstance(spaces, pre_tokenizers.ByteLevel) and about.kind != 'decoder':
        return processors.Sequence([processors.ByteLevel(
            trim_offsets=True, add_prefix_space=spaces.add_prefix_space), template])
    return template


def template_of(library: Tokenizer, folder: Path) -> Template:
    """Where the post-processor puts special tokens, seen on a pair of texts. Raises UserError for
    one of the `folder` that no `Template` describes."""
    text = next(text for text in ('a', *library.get_vocab())
                if library.encode(text, add_special_tokens=False).ids)
    pair, alone = library.encode(text, text), library.encode(text)
    first, second = ([i for i, side in enumerate(pair.sequence_ids) if side == which]
                     for which in (0, 1))
    template = Template(*(tuple(pair.ids[start:stop]) for start, stop in (
        (0, first[0]), (first[-1] + 1, second[0]), (second[-1] + 1, None))))
    if template.row([[pair.ids[i] for i in first]]) != alone.ids:
        raise UserError(f'{folder}/tokenizer.json puts other special tokens around one text than '
                        'around two, which is not supported; give a tokenizer whose '
                        'post_processor has the same for both')
    return template


def _read_marian(folder: Path) -> Tokenizers:
    """source.spm, target.spm, and vocab.json, which numbers the pieces of both.

    Punctuation is left as it is: transformers normalises it only where sacremoses is installed.
    """
    declared = _declared(folder, {'eos': '</s>', 'unk': '<unk>', 'pad': '<pad>'})
    if declared.option('separate_vocabs', False) or (folder / 'target_vocab.json').is_file():
        raise UserError(f'{folder} has a vocabulary for each language, which is not supported; '
                        'give a model in which they share vocab.json')
    for name in ('vocab.json', 'source.spm', 'target.spm'):
        if not (folder / name).is_file():
            raise UserError(f'{folder} has no {name}; put the tokenizer files of the model there')
    ids = read_json(folder / 'vocab.json')
    names = sorted(ids, key=ids.get)
    if [ids[name] for name in names] != list(range(len(names))):
        raise UserError(f'{folder}/vocab.json does not number its tokens from 0 without gaps or '
                        'repeats; restore it from a copy')
    for role in ('eos', 'unk', 'pad'):
        if declared.names.get(role) not in ids:
            raise UserError(f'{folder}/vocab.json has no {role}_token '
                            f'{declared.names.get(role)!r}; restore it from a copy')
    eos, unk, pad = (ids[declared.names[role]] for role in ('eos', 'unk', 'pad'))
    config = read_json(folder / 'config.json') if (folder / 'config.json').is_file() else {}
    special = Special(pad, config.get('decoder_start_token_id', pad), eos, unk)
    sides = []
    for name in ('source.spm', 'target.spm'):
        read_proto(folder / name)
        sides.append(MarianTokenizer((folder / name).read_bytes(), names, special))
    return Tokenizers(*sides, template=Template((), (), (eos,)))
