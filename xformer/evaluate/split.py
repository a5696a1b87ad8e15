"""Evaluation of a model on a whole split: decode every source once, score, keep the outputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from xformer.config import Config, DataConfig, UserError
from xformer.data.sources import Pair, prepare_source
from xformer.data.tokenizers import EOS, Tokenizers
from xformer.decode.generate import Generator, Output
from xformer.evaluate.metrics import score, strip_symbols


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


def predict(sources: Sequence[Sequence[int]], tokenizers: Tokenizers, generator: Generator,
            progress: Callable[[int], None] = lambda done: None
            ) -> list[list[tuple[str, Output]]]:
    """The n-best (text, output) of each encoded source."""
    return [[(tokenizers.target.decode(output.ids), output) for output in best]
            for best in generator(sources, progress)]


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
    sources = encode_sources(list(references), config, tokenizers)
    best = predict(sources, tokenizers, generator, progress)
    predictions = [Prediction(source, outputs[0][0], targets, outputs[0][1].score)
                   for (source, targets), outputs in zip(references.items(), best)]

    rates = score([scored_tokens(row.prediction, config.data) for row in predictions],
                  [[scored_tokens(text, config.data) for text in row.references]
                   for row in predictions], config.data.score_strip)
    return rates, predictions


def scored_tokens(text: str, data: DataConfig) -> list[str]:
    """What error rates count: characters of a target cut into characters, else its words."""
    return list(text) if data.target_tokenizer == 'char' else text.split()


def is_right(prediction: str, references: Sequence[str], data: DataConfig) -> bool:
    """Whether wer counts it as right: equal to any reference, data.score_strip disregarded."""
    def plain(text: str) -> list[str]:
        return strip_symbols(scored_tokens(text, data), data.score_strip)
    return plain(prediction) in [plain(text) for text in references]
