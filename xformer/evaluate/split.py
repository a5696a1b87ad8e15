"""Evaluation of a model on a whole split: decode every source once, score, keep the outputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from xformer.config import Config, UserError
from xformer.data.sources import Pair, prepare_source
from xformer.data.tokenizers import EOS, Tokenizers
from xformer.decode.generate import Generator, Output
from xformer.evaluate.metrics import score


class Prediction(NamedTuple):
    source: str
    prediction: str
    references: list[str]
    score: float


def encode_sources(texts: Sequence[str], config: Config, tokenizers: Tokenizers
                   ) -> list[list[int]]:
    """Ids of each source, ending in EOS. Raises UserError for one that is empty or too long."""
    encoded = []
    for number, text in enumerate(texts, start=1):
        ids = tokenizers.source.encode(prepare_source(text, config.data)) + [EOS]
        if len(ids) == 1:
            raise UserError(f'input {number} is empty; give at least one token')
        if len(ids) > config.model.max_length:
            raise UserError(f'input {number} ({text[:40]!r}...) has {len(ids):,} tokens, end '
                            f'included; the model takes {config.model.max_length}: shorten it')
        encoded.append(ids)
    return encoded


def predict(texts: Sequence[str], config: Config, tokenizers: Tokenizers, generator: Generator,
            progress: Callable[[int], None] = lambda done: None
            ) -> list[list[tuple[str, Output]]]:
    """The n-best (text, output) of each source text."""
    outputs = generator(encode_sources(texts, config, tokenizers), progress)
    return [[(tokenizers.target.decode(output.ids), output) for output in best]
            for best in outputs]


def group_references(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """All targets of each source, in order: a word with several pronunciations counts once."""
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(target)
    return references


def evaluate_pairs(pairs: Sequence[Pair], config: Config, tokenizers: Tokenizers,
                   generator: Generator, progress: Callable[[int], None] = lambda done: None
                   ) -> tuple[dict[str, float], list[Prediction]]:
    """(error rates, predictions) over all distinct sources."""
    references = group_references(pairs)
    best = predict(list(references), config, tokenizers, generator, progress)
    predictions = [Prediction(source, outputs[0][0], targets, outputs[0][1].score)
                   for (source, targets), outputs in zip(references.items(), best)]

    def tokens(text: str) -> list[str]:
        return list(text) if config.data.target_tokenizer == 'char' else text.split()
    rates = score([tokens(row.prediction) for row in predictions],
                  [[tokens(text) for text in row.references] for row in predictions],
                  config.data.score_strip)
    return rates, predictions
