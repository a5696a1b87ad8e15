"""Masked tokens, with or without the prediction of the next sentence."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xformer.config import UserError
from xformer.data.objectives.chunks import BLOCK, Chunks
from xformer.data.objectives.rows import (
    check_fit,
    choose,
    compacted,
    draw,
    encoder_rows,
    extended,
    one_sided,
)
from xformer.data.plan import Shape
from xformer.data.tokenizers import Special


@dataclass(frozen=True, eq=False)
class Masking:
    """Devlin et al. (2019), section 3.1, task 1: of each row max(1, round(rate · n)) of its n
    ordinary tokens are chosen; mask_share of these become MASK, random_share a random ordinary
    token, and the others stay (0.8 and 0.1 there; other mixes in its appendix C.2). Chosen anew
    for every batch (Liu et al., 2019, section 4.1: dynamic masking).
    """

    special: Special
    vocab_size: int
    rate: float
    mask_share: float
    random_share: float
    word_starts_V: np.ndarray | None  # ids that begin a word, to hide words as a whole

    @cached_property
    def ordinary_V(self) -> np.ndarray:
        """bool: all ids but the special ones, UNK among these: it is neither hidden nor put."""
        ordinary_V = np.ones(self.vocab_size, bool)
        ordinary_V[self.special.ids()] = False
        return ordinary_V

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        return np.flatnonzero(self.ordinary_V)

    def arrays(self, ids_NS: np.ndarray, lengths_N: np.ndarray, types_NS: np.ndarray, rows: int,
               random: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays of a step over these rows; P = ceil(rate · S) holds any choice.

        `inputs_BS`, `lengths_B`, `types_BS`, `masked_BP` (columns of the chosen, ascending, then
        0), `masked_labels_BP` (what stood there, then PAD) and `masked_lengths_B`.
        """
        ordinary_NS = self.ordinary_V[ids_NS]
        count_N = ordinary_NS.sum(axis=1)
        number_N = np.minimum(np.maximum(np.rint(self.rate * count_N), 1), count_N).astype(int)
        if self.word_starts_V is not None:
            chosen_NS = choose_words(self._word_begins(ids_NS, ordinary_NS), ordinary_NS,
                                     number_N, random)
        else:
            chosen_NS = choose(ordinary_NS, number_N, random)

        original = ids_NS[chosen_NS]
        fate = random.random(len(original))
        other = self.ordinary_ids[draw(random, np.full(len(original), len(self.ordinary_ids)))]
        inputs_NS = ids_NS.copy()
        inputs_NS[chosen_NS] = np.where(
            fate < self.mask_share, self.special.mask,
            np.where(fate < self.mask_share + self.random_share, other, original))

        slots = max(1, int(np.ceil(self.rate * ids_NS.shape[1])))
        columns_NS = np.broadcast_to(np.arange(ids_NS.shape[1]), ids_NS.shape)
        masked_NP, masked_lengths_N = compacted(columns_NS, chosen_NS, slots, fill=0)
        labels_NP, _ = compacted(ids_NS, chosen_NS, slots, fill=self.special.pad)
        return {'inputs_BS': extended(inputs_NS, rows, self.special.pad),
                'lengths_B': extended(lengths_N, rows),
                'types_BS': extended(types_NS, rows),
                'masked_BP': extended(masked_NP, rows),
                'masked_labels_BP': extended(labels_NP, rows, self.special.pad),
                'masked_lengths_B': extended(masked_lengths_N, rows)}

    def _word_begins(self, ids_NS: np.ndarray, ordinary_NS: np.ndarray) -> np.ndarray:
        """Where a word begins; one whose start the chunk cut off begins after the special token."""
        after_special_NS = np.ones_like(ordinary_NS)
        after_special_NS[:, 1:] = ~ordinary_NS[:, :-1]
        return ordinary_NS & (self.word_starts_V[ids_NS] | after_special_NS)


def choose_words(begins_NS: np.ndarray, allowed_NS: np.ndarray, number_N: np.ndarray,
                 random: np.random.Generator) -> np.ndarray:
    """bool (N, S): whole words, at most `number` tokens of each row.

    Words are taken in random order; one that would go beyond the number is passed over, as in
    BERT's own code. Where all words are longer than the number, the first in that order gives
    its first `number` tokens.
    """
    N, S = begins_NS.shape
    word_NS = begins_NS.cumsum(axis=1) - 1  # of the allowed places
    flat_NS = word_NS + S * np.arange(N)[:, None]
    size_NW = np.bincount(flat_NS[allowed_NS], minlength=N * S).reshape(N, S)
    score_NW = np.where(size_NW > 0, random.random((N, S)), 2)
    order_NW = np.argsort(score_NW, axis=1, kind='stable')
    size_NW = np.take_along_axis(size_NW, order_NW, axis=1)

    taken_NW, left_N = np.zeros((N, S), bool), number_N.copy()
    while True:  # each round takes all words up to the first that no longer fits
        fits_NW = ~taken_NW & (size_NW > 0) & (size_NW <= left_N[:, None])
        fits_NW &= np.where(fits_NW, size_NW, 0).cumsum(axis=1) <= left_N[:, None]
        if not fits_NW.any():
            break
        taken_NW |= fits_NW
        left_N -= np.where(fits_NW, size_NW, 0).sum(axis=1)
    none_N = ~taken_NW.any(axis=1)
    taken_NW[none_N, 0] = True

    np.put_along_axis(taken_NW, order_NW, taken_NW.copy(), axis=1)  # by place in the text again
    chosen_NS = allowed_NS & np.take_along_axis(taken_NW, np.maximum(word_NS, 0), axis=1)
    return chosen_NS & (chosen_NS.cumsum(axis=1) <= number_N[:, None])


@dataclass(frozen=True, eq=False)
class MaskedTokens:
    """Masked language modelling of [BOS] chunk [EOS]; see `Masking`."""

    chunks: Chunks
    special: Special
    masking: Masking

    def __len__(self) -> int:
        return len(self.chunks)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): tokens, BOS and EOS included, and 0."""
        return one_sided(self.chunks.sizes(start, stop) + 2)

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays of `Masking.arrays`, types all 0. Raises ValueError when the examples do not
        fit in the shape."""
        starts_N, stops_N = self.chunks.bounds(indices)
        none_N = np.zeros_like(starts_N)
        inputs = encoder_rows(self.chunks.ids, starts_N, stops_N - starts_N,
                              self.chunks.ids, none_N, none_N, shape, self.special)
        return self.masking.arrays(*inputs, shape[0], random)


TRIES = 8  # to find a random sentence that is short enough


@dataclass(frozen=True, eq=False)
class NextSentence:
    """Devlin et al. (2019), section 3.1, task 2, and masking: [BOS] A [EOS] B [EOS].

    A chunk is cut at a random sentence; A is what stands before. With probability 1/2 B is the
    rest (label 0, "is next"), else (label 1) it is as much text as the rest from a random sentence
    of another document on, drawn in proportion to its length, or less where that document ends.
    Where the rest ends with a sentence so does this B, or its last word would give it away; a
    sentence too long for that is drawn again, at most TRIES times, and then cut.
    """

    chunks: Chunks
    kept: np.ndarray  # chunks in which a sentence begins, int64
    special: Special
    masking: Masking

    def __len__(self) -> int:
        return len(self.kept)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): tokens, BOS and both EOS included, at most; and 0."""
        starts_N, stops_N = self.chunks.bounds(self.kept[start:stop])
        return one_sided(stops_N - starts_N + 3)

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays of `Masking.arrays`, types 1 for B and its EOS, and `nsp_labels_B`. Raises
        ValueError when the examples do not fit in the shape."""
        starts_N, stops_N = self.chunks.bounds(self.kept[indices])
        check_fit(one_sided(stops_N - starts_N + 3), shape)
        first_N, last_N = self.chunks.inner_sentences(starts_N, stops_N)
        cuts_N = self.chunks.sentences[first_N + draw(random, last_N - first_N)]
        other_N = random.random(len(indices)) < 0.5
        elsewhere = self._elsewhere(self.kept[indices], stops_N - cuts_N,
                                    self._ends_sentence(self.kept[indices], stops_N), random)
        b_starts_N, b_stops_N = (np.where(other_N, there_N, here_N) for there_N, here_N in
                                 zip(elsewhere, (cuts_N, stops_N)))

        inputs = encoder_rows(self.chunks.ids, starts_N, cuts_N - starts_N,
                              self.chunks.ids, b_starts_N, b_stops_N - b_starts_N, shape,
                              self.special)
        arrays = self.masking.arrays(*inputs, shape[0], random)
        return arrays | {'nsp_labels_B': extended(other_N, shape[0])}

    def _ends_sentence(self, chunks_N: np.ndarray, stops_N: np.ndarray) -> np.ndarray:
        _, ends_N = self.chunks.text(self.chunks.document(chunks_N))
        return (stops_N == ends_N) | (stops_N == self.chunks.sentence_start(stops_N))

    def _elsewhere(self, chunks_N: np.ndarray, room_N: np.ndarray, whole_N: np.ndarray,
                   random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Start and stop of at most `room` tokens from a random sentence on of a document that is
        not the chunk's; `whole`: of sentences."""
        starts_N, stops_N = np.zeros((2, len(chunks_N)), np.int64)
        missing_N = np.ones(len(chunks_N), bool)
        for _ in range(TRIES):
            starts_N[missing_N], ends_N = self._sentence_elsewhere(chunks_N[missing_N], random)
            limits_N = np.minimum(ends_N, starts_N[missing_N] + room_N[missing_N])
            whole_stops_N = np.where(limits_N == ends_N, ends_N,
                                     self.chunks.sentence_start(limits_N))
            cut_N = ~whole_N[missing_N] | (whole_stops_N == starts_N[missing_N])
            stops_N[missing_N] = np.where(cut_N, limits_N, whole_stops_N)
            missing_N[missing_N] = whole_N[missing_N] & cut_N
        return starts_N, stops_N

    def _sentence_elsewhere(self, chunks_N: np.ndarray,
                            random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random sentence's start in a document that is not the chunk's, and that one's end."""
        chunks = self.chunks
        own_N = chunks.document(chunks_N)
        first_N, last_N = chunks.first_chunk[own_N], chunks.first_chunk[own_N + 1]
        drawn_N = draw(random, len(chunks) - (last_N - first_N))
        drawn_N += np.where(drawn_N >= first_N, last_N - first_N, 0)  # skips the own document
        other_N = chunks.document(drawn_N)
        sentences_N = chunks.documents[other_N]
        sentences_N = sentences_N + draw(random, chunks.documents[other_N + 1] - sentences_N)
        _, stops_N = chunks.text(other_N)
        return np.minimum(chunks.sentences[sentences_N], stops_N - 1), stops_N


def chunks_to_cut(chunks: Chunks) -> np.ndarray:
    """int64: the chunks in which a sentence begins, so that they can be cut in two.

    Raises UserError when there is none, or only one document to take sentences from.
    """
    kept = []
    for start in range(0, len(chunks), BLOCK):
        chunks_N = np.arange(start, min(start + BLOCK, len(chunks)))
        first_N, last_N = chunks.inner_sentences(*chunks.bounds(chunks_N))
        kept.append(chunks_N[last_N > first_N])
    kept = np.concatenate(kept)
    if not len(kept):
        raise UserError('data.objective=mlm_nsp found no two sentences side by side within '
                        'data.sequence_length; give documents of several sentences (data.format='
                        'documents) or a larger --config.data.sequence_length')
    if chunks.document(0) == chunks.document(len(chunks) - 1):
        raise UserError('data.objective=mlm_nsp needs two documents or more, to take sentences '
                        'of another one; the data has one')
    return kept
