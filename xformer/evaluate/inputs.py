"""Texts that people give, as the ids that a model reads."""

from collections.abc import Sequence

import numpy as np

from xformer.config import CHOOSING, Config, ModelConfig, UserError
from xformer.console import say
from xformer.data.layouts import (
    LAYOUTS,
    Row,
    highest_id,
    label_id,
    labels_in,
    layout_of,
    shortened,
)
from xformer.data.sources import Labelled, prepare_source
from xformer.data.store import TokenStore
from xformer.data.tokenizers import (
    PublishedTokenizer,
    Template,
    Tokenizers,
    encode_following,
    own_template,
)

MARK = '[MASK]'  # in a text for a masked language model, whatever the vocabulary calls it


class Text(list):
    """The ids of a text as a model reads it; of two texts, the second begins at `second`."""

    def __init__(self, ids: Sequence[int], second: int | None = None):
        super().__init__(ids)
        self.second = len(ids) if second is None else second


def encode_texts(texts: Sequence[str], config: Config, tokenizers: Tokenizers) -> list[Text]:
    """Ids of each text as the model reads it.

    source EOS       seq2seq
    BOS text EOS     an encoder; of two separated by a tab, BOS first EOS second EOS
    BOS text         a decoder; BOS source EOS if it learnt pairs

    or as the template of a published model has it. With data.too_long=cut those too long are cut,
    and how many is said. Raises UserError for an empty or too long one.
    """
    family, most = config.model.family, config.model.max_length
    template = template_of(config, tokenizers)
    encoded, cut = [], 0
    for number, text in enumerate(texts, start=1):
        parts = text.split('\t') if family == 'encoder' else [text]
        sides = [_ids(part, config, tokenizers) for part in parts]
        if not all(sides):
            raise UserError(f'input {number} is empty; give at least one token')
        if len(sides) > 2:
            raise UserError(f'input {number} has {len(sides) - 1} tabs; give a text, or two '
                            'separated by one')
        row = template.row(sides)
        if len(row) > most:
            if config.data.too_long != 'cut':
                raise UserError(f'input {number} ({text[:40]!r}...) has {len(row):,} tokens, '
                                f'those at its ends included; the model takes {most}: shorten it')
            cut += 1
            room = most - (len(row) - sum(map(len, sides)))
            sides = shortened(*sides, room) if len(sides) == 2 else [sides[0][:room]]
            row = template.row(sides)
        check_known(row, number, config, tokenizers.source)
        second = len([*template.before, *sides[0], *template.between]) if len(sides) == 2 else None
        encoded.append(Text(row, second))
    if cut:
        say(f'texts beyond model.max_length={most}, cut there: {cut:,}')
    return encoded


def check_known(ids: Sequence[int], number: int, config: Config, tokenizer) -> None:
    """Raises UserError for a token of which the model has no embedding."""
    if 0 < config.model.vocab_size <= (highest := max(ids)):
        [token] = tokenizer.tokens([highest])
        raise UserError(f'input {number} has {token!r}, of which the model has no embedding; '
                        'leave it out')


def check_store(store: TokenStore, config: Config, tokenizers: Tokenizers) -> None:
    """Raises UserError for a token of which the model has no embedding."""
    highest = highest_id(store, config)
    if 0 < config.model.vocab_size <= highest:
        [token] = tokenizers.source.tokens([highest])
        raise UserError(f'a text has {token!r}, of which the model has no embedding; leave it out')


def _ids(text: str, config: Config, tokenizers: Tokenizers) -> list[int]:
    """Of the text alone, and the mask for each MARK where the model knows it."""
    source, mask = tokenizers.source, tokenizers.special.mask
    if config.data.objective not in ('mlm', 'mlm_nsp'):
        return source.encode(prepare_source(text, config.data))
    parts = [prepare_source(part, config.data) for part in text.split(MARK)]
    if isinstance(source, PublishedTokenizer) and mask is not None:
        return source.encode(source.tokens([mask])[0].join(parts))  # it may take spaces with it
    if config.data.tokenizer in ('bpe', 'unigram', 'byte_bpe'):  # a space is its word's, and hidden
        parts = [part.removesuffix(' ') for part in parts[:-1]] + parts[-1:]
    return sum(([mask, *part] for part in encode_following(source, parts[1:])),
               source.encode(parts[0]))


def segments(texts: Sequence[Text], shape: tuple[int, int], model: ModelConfig) -> np.ndarray:
    """types_BS of an encoder's rows: 1 in the second text of two and its EOS, if the model has
    segments, else 0."""
    types_BS = np.zeros(shape, np.int32)
    for row, text in enumerate(texts if model.num_segments > 1 else []):
        types_BS[row, text.second:len(text)] = 1
    return types_BS


def fitting(examples: Sequence, config: Config, tokenizers: Tokenizers) -> list:
    """The pairs or labelled examples that training keeps: with data.too_long=drop those too long
    are left out, and how many is said. Raises UserError for a label that training had not."""
    if config.data.objective in CHOOSING:
        for label in labels_in(map(Labelled._make, examples), config.data.objective):
            label_id(label, tokenizers)
    if config.data.too_long != 'drop':
        return list(examples)
    layout = LAYOUTS[layout_of(config)]
    encoded = layout.encode([Row(tuple(example), True) for example in examples], tokenizers)
    kept = [example for example, row in zip(examples, encoded)
            if layout.length(row) <= config.model.max_length]
    if not kept:
        raise UserError(f'all examples are beyond model.max_length={config.model.max_length}, and '
                        'none is left to measure; give shorter ones')
    if len(kept) < len(examples):
        say(f'examples beyond model.max_length={config.model.max_length}, left out: '
            f'{len(examples) - len(kept):,}')
    return kept


def encode_sources(texts: Sequence[str], config: Config, tokenizers: Tokenizers
                   ) -> list[list[int]]:
    """Ids of each source, the end token last, or of each prompt of a language model.

    Raises UserError for an empty or too long one.
    """
    begins = (len(template_of(config, tokenizers).before)
              if config.model.family == 'decoder' else 0)
    return [ids[begins:] for ids in encode_texts(texts, config, tokenizers)]


def encode_outputs(texts: Sequence[str], sources: Sequence[Sequence[int]], config: Config,
                   tokenizers: Tokenizers) -> list[list[int]]:
    """Ids of each given output, the end token last, but for a language model's text.

    Raises UserError for an empty text, and for an output too long, in a decoder with its source.
    """
    lm = config.data.objective == 'lm'
    tokenizer = tokenizers.source if lm else tokenizers.target
    template = template_of(config, tokenizers)
    encoded = []
    for number, (text, source) in enumerate(zip(texts, sources), start=1):
        ids = tokenizer.encode(prepare_source(text, config.data) if lm else text)
        ids = template.row([ids]) if config.model.family == 'seq2seq' else [*ids, *template.after]
        length = len(ids) + (len(source) if config.model.family == 'decoder' else 0)
        if not ids:
            raise UserError(f'input {number} is empty; give at least one token')
        check_known(ids, number, config, tokenizer)
        if length > config.model.max_length:
            raise UserError(f'output {number} ({text[:40]!r}...) makes {length:,} tokens; the '
                            f'model takes {config.model.max_length}: shorten it')
        encoded.append(ids)
    return encoded


def template_of(config: Config, tokenizers: Tokenizers) -> Template:
    """Where special tokens go: a published model's own way, or that of the objectives here, as in a
    decoder of pairs, whatever it was before."""
    family, objective = config.model.family, config.data.objective
    own = own_template(family, objective, tokenizers.special)
    return own if (family, objective) == ('decoder', 'pairs') else tokenizers.template or own
