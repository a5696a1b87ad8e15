"""Evaluation of a model on a whole split: decode every source once, score, keep the outputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from xformer.config import Config, UserError
from xformer.data.sources import Pair, prepare_source
from xformer.data.tokenizers import Tokenizers
from xformer.decode.generate import Generator, Output
from xformer.evaluate.scores import score


class Prediction(NamedTuple):
    source: str
    prediction: str
    references: list[str]
    score: float


def encode_texts(texts: Sequence[str], config: Config, tokenizers: Tokenizers) -> list[list[int]]:
    """Ids of each text as the model reads it: source EOS in seq2seq, BOS text EOS in an encoder,
    BOS text in a decoder (BOS source EOS if it learnt pairs).

    Raises UserError for an empty or too long one.
    """
    most, end = config.model.max_length, _end(config, tokenizers)
    begin = [] if config.model.family == 'seq2seq' else [tokenizers.special.bos]
    room = most - len(begin) - len(end)
    encoded = []
    for number, text in enumerate(texts, start=1):
        ids = tokenizers.source.encode(prepare_source(text, config.data))
        if not ids:
            raise UserError(f'input {number} is empty; give at least one token')
        if len(ids) > room and config.data.too_long != 'cut':
            raise UserError(f'input {number} ({text[:40]!r}...) has {len(ids) + most - room:,} '
                            'tokens, those at its ends included; the model takes '
                            f'{most}: shorten it')
        encoded.append(begin + ids[:room] + end)
    return encoded


def encode_sources(texts: Sequence[str], config: Config, tokenizers: Tokenizers
                   ) -> list[list[int]]:
    """Ids of each source, the end token last, or of each prompt of a language model.

    Raises UserError for an empty or too long one.
    """
    after_bos = config.model.family == 'decoder'
    return [ids[after_bos:] for ids in encode_texts(texts, config, tokenizers)]


def encode_outputs(texts: Sequence[str], sources: Sequence[Sequence[int]], config: Config,
                   tokenizers: Tokenizers) -> list[list[int]]:
    """Ids of each given output, the end token last, but for a language model's text.

    Raises UserError for an empty text, and for an output too long, in a decoder with its source.
    """
    tokenizer = tokenizers.source if config.data.objective == 'lm' else tokenizers.target
    encoded = []
    for number, (text, source) in enumerate(zip(texts, sources), start=1):
        ids = tokenizer.encode(text) + _end(config, tokenizers)
        length = len(ids) + (len(source) if config.model.family == 'decoder' else 0)
        if not ids:
            raise UserError(f'input {number} is empty; give at least one token')
        if length > config.model.max_length:
            raise UserError(f'output {number} ({text[:40]!r}...) makes {length:,} tokens; the '
                            f'model takes {config.model.max_length}: shorten it')
        encoded.append(ids)
    return encoded


def _end(config: Config, tokenizers: Tokenizers) -> list[int]:
    return [] if config.data.objective == 'lm' else [tokenizers.special.eos]


def predict(sources: Sequence[Sequence[int]], tokenizers: Tokenizers, generator: Generator,
            progress: Callable[[int], None] = lambda done: None
            ) -> list[list[tuple[str, Output]]]:
    """The n-best (text, output) of each encoded source."""
    return [[(tokenizers.target.decode(output.ids), output) for output in best]
            for best in generator(sources, progress)]


def examples_of(pairs: Sequence[Pair], config: Config) -> list[tuple[str, list[str]]]:
    """Each source with its references.

    Where outputs are right or wrong, a source counts once, with all its targets: a word may have
    several pronunciations. BLEU and ROUGE are of the pairs as they are, as published ones are.
    """
    if config.data.score not in ('errors', 'exact'):
        return [(source, [target]) for source, target in pairs]
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(target)
    return list(references.items())


def evaluate_pairs(pairs: Sequence[Pair], config: Config, tokenizers: Tokenizers,
                   generator: Generator, progress: Callable[[int], None] = lambda done: None
                   ) -> tuple[dict[str, float], list[Prediction]]:
    """(metrics, predictions) over all examples (see `examples_of`)."""
    examples = examples_of(pairs, config)
    sources = encode_sources([source for source, _ in examples], config, tokenizers)
    best = predict(sources, tokenizers, generator, progress)
    predictions = [Prediction(source, outputs[0][0], targets, outputs[0][1].score)
                   for (source, targets), outputs in zip(examples, best)]
    texts = [row.prediction for row in predictions]
    targets = [row.references for row in predictions]
    return score(config.data.score, texts, targets, config.data), predictions
