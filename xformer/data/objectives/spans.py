"""Span corruption: hidden spans are to be told one after the other."""

from dataclasses import dataclass

import numpy as np

from xformer.config import UserError
from xformer.data.objectives.chunks import Chunks
from xformer.data.objectives.rows import check_fit, choose, compacted, pair_arrays, place
from xformer.data.plan import Shape
from xformer.data.tokenizers import Special


@dataclass(frozen=True)
class SpanNoise:
    """How many tokens, in how many spans, are hidden of n >= 2 tokens."""

    rate: float
    mean_span: float
    sentinels: tuple[int, ...]

    def counts(self, n_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden tokens round(n · rate), and spans round(hidden ÷ mean_span).

        Both are at least 1; at least one token is left before every span; and there is a sentinel
        for every span and one for the end.
        """
        hidden_N = np.clip(np.rint(n_N * self.rate), 1, n_N - 1).astype(np.int64)
        most_N = np.minimum(np.minimum(hidden_N, n_N - hidden_N), len(self.sentinels) - 1)
        spans_N = np.clip(np.rint(hidden_N / self.mean_span), 1, most_N).astype(np.int64)
        return hidden_N, spans_N

    def lengths(self, n_N: np.ndarray) -> np.ndarray:
        """int32 (N, 2): tokens of source and target, with sentinels and EOS, exactly."""
        hidden_N, spans_N = self.counts(n_N)
        return np.stack([n_N - hidden_N + spans_N + 1, hidden_N + spans_N + 2],
                        axis=1).astype(np.int32)

    def largest_chunk(self, longest: int) -> int:
        """The most tokens, up to `longest`, whose source and target have at most `longest`.

        Raises UserError when the vocabulary has too few sentinels, or there is no room.
        """
        if len(self.sentinels) < 2:
            raise UserError('data.objective=spans needs a vocabulary with two sentinel tokens or '
                            'more; give one that has them with --config.data.tokenizer_file')
        sizes = np.arange(2, longest + 1)
        fits = (self.lengths(sizes) <= longest).all(axis=1)
        size = 1 + int(fits.cumprod().sum())
        if size < 2:
            raise UserError(f'a length of {longest} tokens has no room for hidden spans and their '
                            'sentinels; give a larger --config.data.sequence_length')
        return size


@dataclass(frozen=True, eq=False)
class SpanCorruption:
    """Raffel et al. (2020), sections 3.1.4 and 3.3.4: each hidden span becomes one sentinel.

    A chunk is visible and hidden spans in turn, a visible one first; the lengths of the visible
    and those of the hidden are each drawn uniformly from all that have the right sum. As in T5,
    a chunk therefore ends in a hidden span, and where there is but one, that is its end.
    Source: the chunk with hidden span j replaced by sentinel j, then EOS. Target: sentinel j and
    hidden span j for all j, the next sentinel, then EOS.
    """

    chunks: Chunks
    special: Special
    noise: SpanNoise

    def __len__(self) -> int:
        return len(self.chunks)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): source and target tokens, EOS included, exactly."""
        return self.noise.lengths(self.chunks.sizes(start, stop))

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays of `Pairs.batch`. Raises ValueError when the examples do not fit."""
        rows, S, T = shape
        starts_N, stops_N = self.chunks.bounds(indices)
        n_N = stops_N - starts_N
        check_fit(self.noise.lengths(n_N), shape)
        width = int(n_N.max(initial=0)) + 1
        text_NW = np.full((len(n_N), width), self.special.eos, np.int32)  # EOS at column n
        place(text_NW, self.chunks.ids, starts_N, n_N)

        span_NW, begins_NW = self._spans(n_N, width, random)
        hidden_NW = span_NW % 2 == 1
        sentinel_NW = np.asarray(self.noise.sentinels)[span_NW // 2]
        columns = np.arange(width)
        inside_NW, end_NW = columns <= n_N[:, None], columns == n_N[:, None]

        source_NW = np.where(hidden_NW, sentinel_NW, text_NW)
        source_NS, source_lengths_N = compacted(
            source_NW, inside_NW & (begins_NW | ~hidden_NW), S, self.special.pad)
        told_NW2 = np.stack([sentinel_NW, text_NW], axis=2)
        keep_NW2 = np.stack([hidden_NW & begins_NW, hidden_NW & inside_NW], axis=2)
        keep_NW2[end_NW] = True  # the last sentinel, and EOS
        labels_NT, target_lengths_N = compacted(
            told_NW2.reshape(len(n_N), 2 * width), keep_NW2.reshape(len(n_N), 2 * width), T,
            self.special.pad)
        return pair_arrays(source_NS, source_lengths_N, labels_NT, target_lengths_N, rows,
                           self.special)

    def _spans(self, n_N: np.ndarray, width: int,
               random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(N, width): number of each column's span (visible 0, hidden 1, visible 2, ...; the end
        counts as one more), and whether it begins there."""
        hidden_N, spans_N = self.noise.counts(n_N)
        visible_NK = random_composition(n_N - hidden_N, spans_N, random)
        hidden_NK = random_composition(hidden_N, spans_N, random)
        N, K = visible_NK.shape
        ends_NK = np.stack([visible_NK, hidden_NK], axis=2).reshape(N, 2 * K).cumsum(axis=1)
        begins_NW = np.zeros((N, width), bool)
        np.put_along_axis(begins_NW, ends_NK, True, axis=1)
        return begins_NW.cumsum(axis=1), begins_NW


def random_composition(totals_N: np.ndarray, parts_N: np.ndarray,
                       random: np.random.Generator) -> np.ndarray:
    """(N, K): `parts` lengths >= 1 that sum to the total, every such list equally likely; then 0.

    A list is a choice of parts - 1 of the total - 1 places between two tokens.
    """
    places = np.arange(1, totals_N.max(initial=1))
    allowed_NC = np.broadcast_to(places < totals_N[:, None], (len(totals_N), len(places)))
    chosen_NC = choose(allowed_NC, parts_N - 1, random)
    K = parts_N.max(initial=1)
    ends_NK = np.repeat(totals_N[:, None], K, axis=1)
    ends_NK[np.arange(K) < parts_N[:, None] - 1] = np.nonzero(chosen_NC)[1] + 1
    return np.diff(ends_NK, axis=1, prepend=0)
