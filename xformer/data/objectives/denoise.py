"""Denoising: the whole text is to be told from a corrupted one."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xformer.data.objectives.chunks import Chunks
from xformer.data.objectives.rows import check_fit, compacted, pair_arrays, place
from xformer.data.plan import Shape
from xformer.data.tokenizers import Special


@dataclass(frozen=True, eq=False)
class Denoising:
    """Lewis et al. (2020), section 2.2: sentence permutation, then text infilling.

    The sentences of a chunk are put in random order; then spans of Poisson(mean_span) tokens,
    until max(1, round(rate · n)) of the n tokens are hidden, the last one cut to fit, are each
    replaced by one MASK, and a span of length 0 inserts one. All arrangements of the MASKs among
    the visible tokens are equally likely. Insertions that would make the source longer than the
    text are left out. Source and target both end in EOS.
    """

    chunks: Chunks
    special: Special
    rate: float
    mean_span: float

    def __len__(self) -> int:
        return len(self.chunks)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): source tokens, at most, and target tokens, EOS included."""
        return _two_sided(self.chunks.sizes(start, stop) + 1)

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """The arrays of `Pairs.batch`. Raises ValueError when the examples do not fit."""
        rows, S, T = shape
        starts_N, stops_N = self.chunks.bounds(indices)
        n_N = stops_N - starts_N
        check_fit(_two_sided(n_N + 1), shape)
        labels_NT = np.full((len(n_N), T), self.special.pad, np.int32)
        place(labels_NT, self.chunks.ids, starts_N, n_N)

        sentence_NT = self.chunks.sentence_numbers(starts_N, stops_N, T)
        score_NT = np.take_along_axis(random.random((len(n_N), T)), sentence_NT, axis=1)
        score_NT[np.arange(T) >= n_N[:, None]] = 2  # padding stays last
        shuffled_NT = np.take_along_axis(
            labels_NT, np.argsort(score_NT, axis=1, kind='stable'), axis=1)
        source_NS, source_lengths_N = self._infilled(shuffled_NT, n_N, S, random)

        labels_NT[np.arange(len(n_N)), n_N] = self.special.eos
        return pair_arrays(source_NS, source_lengths_N, labels_NT, n_N + 1, rows, self.special)

    def _infilled(self, text_NT: np.ndarray, n_N: np.ndarray, S: int,
                  random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(N, S) and (N,): the text with MASKs for spans, then EOS; its length with EOS."""
        hidden_N = np.minimum(np.maximum(np.rint(self.rate * n_N), 1), n_N).astype(np.int64)
        size_NK, masks_N = self._span_sizes(hidden_N, random)

        # the source is a row of items, visible tokens and MASKs in random order
        items_N = n_N - hidden_N + masks_N
        columns = np.arange(S)
        score_NS = np.where(columns < items_N[:, None], random.random((len(n_N), S)), 2)
        order_NS = np.argsort(score_NS, axis=1, kind='stable')
        covers_NS = np.ones((len(n_N), S), np.int64)  # tokens of the text that an item stands for
        np.put_along_axis(covers_NS, order_NS[:, :size_NK.shape[1]], size_NK, axis=1)
        is_mask_NS = np.zeros((len(n_N), S), bool)
        np.put_along_axis(is_mask_NS, order_NS, columns < masks_N[:, None], axis=1)
        index_NS = np.minimum(covers_NS.cumsum(axis=1) - covers_NS, text_NT.shape[1] - 1)

        source_NS = np.take_along_axis(text_NT, index_NS, axis=1)
        source_NS[is_mask_NS] = self.special.mask
        source_NS[columns >= items_N[:, None]] = self.special.pad
        source_NS[np.arange(len(n_N)), items_N] = self.special.eos
        return source_NS, items_N + 1

    def _span_sizes(self, hidden_N: np.ndarray,
                    random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(N, K) and (N,): lengths of the spans, which sum to `hidden`, then 1; their number."""
        draws_NK = self._poisson(random, (len(hidden_N), int(hidden_N.max(initial=1))))
        while (draws_NK.sum(axis=1) < hidden_N).any():
            draws_NK = np.concatenate([draws_NK, self._poisson(random, draws_NK.shape)], axis=1)
        before_NK = draws_NK.cumsum(axis=1) - draws_NK
        used_NK = before_NK < hidden_N[:, None]
        size_NK = np.minimum(draws_NK, hidden_N[:, None] - before_NK)
        insertion_NK = used_NK & (draws_NK == 0)
        spare_N = hidden_N - (used_NK & ~insertion_NK).sum(axis=1)  # slots that hiding has freed
        used_NK &= ~insertion_NK | (insertion_NK.cumsum(axis=1) <= spare_N[:, None])
        return compacted(size_NK, used_NK, int(used_NK.sum(axis=1).max(initial=0)), fill=1)

    @cached_property
    def _poisson_cdf(self) -> np.ndarray:
        """Probability of a span of at most k tokens, for k = 0, 1, ... until all is covered."""
        terms = [math.exp(-self.mean_span)]
        while len(terms) <= self.mean_span or terms[-1] > 1e-18:
            terms.append(terms[-1] * self.mean_span / len(terms))
        return np.cumsum(terms)

    def _poisson(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Poisson(mean_span) by inversion: NumPy may change its own sampler, not its uniforms."""
        return np.searchsorted(self._poisson_cdf, random.random(shape), side='right')


def _two_sided(lengths_N: np.ndarray) -> np.ndarray:
    return np.stack([lengths_N, lengths_N], axis=1).astype(np.int32)
