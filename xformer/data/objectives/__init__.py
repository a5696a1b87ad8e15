"""What a batch teaches: examples of a store as the arrays of a training step.

Suffixes: N examples, B rows of the batch, S source and T target slots, P masked tokens,
V vocabulary.
"""

from typing import Protocol

import numpy as np

from xformer.config import LABELLED, Config, UserError
from xformer.data.objectives.chunks import cut_documents
from xformer.data.objectives.denoise import Denoising
from xformer.data.objectives.labelled import make_labelled
from xformer.data.objectives.language import NextToken
from xformer.data.objectives.masked import MaskedTokens, Masking, NextSentence, chunks_to_cut
from xformer.data.objectives.pairs import Continuations, Pairs
from xformer.data.objectives.spans import SpanCorruption, SpanNoise
from xformer.data.plan import Shape
from xformer.data.store import TokenStore
from xformer.data.tokenizers import Tokenizers


class Objective(Protocol):
    """Examples of a store, and what is to be predicted of them."""

    def __len__(self) -> int:
        """Examples in an epoch."""

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): source and target slots that these examples need at most."""

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """int32 arrays of B = rows examples; those beyond the indices are empty (length 0).

        A function of these arguments alone. Of `random` only uniform floats are drawn, whose
        stream is the same in every version of NumPy. Raises ValueError when the examples do not
        fit in the shape.
        """


def make_objective(config: Config, store: TokenStore, tokenizers: Tokenizers) -> Objective:
    """The objective data.objective over a store.

    Raises UserError when the texts or the vocabulary cannot serve it.
    """
    data, name, special = config.data, config.data.objective, tokenizers.special
    max_length = data.sequence_length or config.model.max_length
    if name == 'pairs':
        pairs = Pairs(store.columns['source'], store.columns['target'], special)
        return Continuations(pairs) if config.model.family == 'decoder' else pairs
    if name in LABELLED:
        return make_labelled(name, store, tokenizers, config.model.max_length)
    if name == 'lm':
        return NextToken(store.columns['text'], store.documents, special, max_length)
    if name == 'spans':
        longest = min(max_length, config.model.max_length)
        noise = SpanNoise(data.noise_rate, data.mean_span, special.sentinels)
        return SpanCorruption(cut_documents(store, noise.largest_chunk(longest), least=2),
                              special, noise)
    if special.mask is None:
        raise UserError(f'data.objective={name} needs a vocabulary with a mask token; give one '
                        'that has it with --config.data.tokenizer_file')
    if name == 'denoise':
        return Denoising(cut_documents(store, max_length - 1), special, data.noise_rate,
                         data.mean_span)
    begins_V = tokenizers.source.word_starts() if data.whole_words else None
    masking = Masking(special, tokenizers.vocab_size, data.noise_rate, data.mask_share,
                      data.random_share, begins_V)
    if name == 'mlm':
        return MaskedTokens(cut_documents(store, max_length - 2), special, masking)
    chunks = cut_documents(store, max_length - 3)
    return NextSentence(chunks, chunks_to_cut(chunks), special, masking)


def real_tokens(batch: dict[str, np.ndarray]) -> int:
    """How many of a batch's slots hold tokens."""
    if 'segments_BT' in batch:
        return int((batch['segments_BT'] > 0).sum())
    lengths = (name for name in ('source_lengths_B', 'target_lengths_B', 'lengths_B')
               if name in batch)
    return int(sum(batch[name].sum() for name in lengths))


def labels_of(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The labels that count, end to end."""
    if 'masked_labels_BP' in batch:
        labels, lengths_B = batch['masked_labels_BP'], batch['masked_lengths_B']
    elif 'segments_BT' in batch:
        return batch['labels_BT'][batch.get('scored_BT', batch['segments_BT']) > 0]
    else:
        labels, lengths_B = batch['labels_BT'], batch['target_lengths_B']
    return labels[np.arange(labels.shape[1]) < lengths_B[:, None]]
