"""Evaluation of a model on a whole split: decode every source once, score, keep the outputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from xformer.config import Config
from xformer.data.sources import Pair
from xformer.data.tokenizers import Tokenizers
from xformer.decode.generate import Generator, Output
from xformer.evaluate.inputs import encode_sources
from xformer.evaluate.scores import score


class Prediction(NamedTuple):
    source: str
    prediction: str
    references: list[str]
    score: float


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
