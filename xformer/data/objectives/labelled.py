"""Texts and pairs with what a head on an encoder is to find: labels, numbers, tags, answers."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xformer.config import UserError
from xformer.data.objectives.rows import check_fit, extended, one_sided, place
from xformer.data.plan import Shape
from xformer.data.store import Column, TokenStore
from xformer.data.tokenizers import Special, Tokenizers

NO_TAG = -1  # of a token that does not begin a word


class Inputs(NamedTuple):
    """[BOS] first [EOS], or [BOS] first [EOS] second [EOS] where there is a second text; in
    RoBERTa's rows two EOS part them (`between`)."""

    ids_NS: np.ndarray
    lengths_N: np.ndarray
    types_NS: np.ndarray  # 1 for second and its EOS (Devlin et al. 2019, section 3)

    def arrays(self, rows: int, special: Special) -> dict[str, np.ndarray]:
        return {'inputs_BS': extended(self.ids_NS, rows, special.pad),
                'lengths_B': extended(self.lengths_N, rows),
                'types_BS': extended(self.types_NS, rows)}


def encoder_inputs(first: Column, firsts_N: np.ndarray, second: Column, starts_N: np.ndarray,
                   stops_N: np.ndarray, shape: Shape, special: Special, between: int) -> Inputs:
    """Of the rows `firsts_N` of first with second.ids[start:stop]."""
    a_starts_N = np.asarray(first.offsets[firsts_N])
    a_N, b_N = first.offsets[firsts_N + 1] - a_starts_N, stops_N - starts_N
    lengths_N = input_lengths(a_N, b_N, between)
    check_fit(one_sided(lengths_N), shape)
    ids_NS = np.full((len(firsts_N), shape[1]), special.pad, np.int32)
    rows = np.arange(len(firsts_N))
    ids_NS[:, 0] = special.bos
    place(ids_NS, first.ids, a_starts_N, a_N, at_N=1)
    place(ids_NS, second.ids, starts_N, b_N, at_N=a_N + 1 + between)
    ids_NS[rows, a_N + 1] = special.eos
    ids_NS[rows, np.minimum(a_N + between, lengths_N - 1)] = special.eos
    ids_NS[rows, lengths_N - 1] = special.eos
    columns = np.arange(shape[1])
    types_NS = (columns >= a_N[:, None] + 1 + between) & (columns < lengths_N[:, None])
    return Inputs(ids_NS, lengths_N, types_NS)


def input_lengths(first_N: np.ndarray, second_N: np.ndarray, between: int) -> np.ndarray:
    """Tokens with BOS and all EOS."""
    return first_N + 2 + np.where(second_N > 0, second_N + between, 0)


@dataclass(frozen=True, eq=False)
class Labels:
    """The label (`kind` classify), the number (regress) or the tags (tag) of a text or pair."""

    kind: str
    first: Column
    second: Column
    target: Column
    special: Special
    between: int

    def __len__(self) -> int:
        return len(self.target)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): tokens, BOS and EOS included, and 0."""
        sizes = (np.diff(column.offsets[start:stop + 1]) for column in (self.first, self.second))
        return one_sided(input_lengths(*sizes, self.between))

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """`inputs_BS`, `lengths_B` and `types_BS` (see `Inputs`) and `labels_B`, `numbers_B`
        (float32) or `labels_BS` (NO_TAG where no word begins). Nothing is random. Raises
        ValueError when the examples do not fit in the shape."""
        rows, width, _ = shape
        inputs = encoder_inputs(self.first, indices, self.second, self.second.offsets[indices],
                                self.second.offsets[indices + 1], shape, self.special,
                                self.between)
        arrays = inputs.arrays(rows, self.special)
        starts_N = np.asarray(self.target.offsets[indices])
        if self.kind == 'tag':
            labels_NS = np.full((len(indices), width), NO_TAG, np.int32)
            sizes_N = self.target.offsets[indices + 1] - starts_N
            place(labels_NS, self.target.ids, starts_N, sizes_N, at_N=1)
            return arrays | {'labels_BS': extended(labels_NS, rows, NO_TAG)}
        if self.kind == 'regress':
            numbers_B = np.zeros(rows, np.float32)
            numbers_B[:len(indices)] = self.target.ids[starts_N]
            return arrays | {'numbers_B': numbers_B}
        return arrays | {'labels_B': extended(self.target.ids[starts_N], rows)}


@dataclass(frozen=True, eq=False)
class Answers:
    """The span of the context that answers a question (Devlin et al. 2019, section 4.2).

    Rows are [BOS] question [EOS] window [EOS]. A context that does not fit is read through
    windows of equal length, each half of which the next one repeats; the answer is sought where
    it is whole, and elsewhere, or where there is none, at BOS (section 4.3).
    """

    first: Column
    second: Column
    target: Column
    special: Special
    between: int
    max_length: int
    first_window: np.ndarray  # int64: example i has the windows first_window[i]:first_window[i+1]

    def __len__(self) -> int:
        return int(self.first_window[-1])

    def examples(self, windows_N: np.ndarray) -> np.ndarray:
        """The example of each window."""
        return np.searchsorted(self.first_window, windows_N, side='right') - 1

    def bounds(self, windows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(examples, starts, stops) of windows; places in the context's own tokens."""
        examples_N = self.examples(windows_N)
        room_N = _room(self.first, examples_N, self.max_length, self.between)
        size_N = self.second.offsets[examples_N + 1] - self.second.offsets[examples_N]
        last_N = np.maximum(size_N - room_N, 0)
        starts_N = np.minimum((windows_N - self.first_window[examples_N]) * _stride(room_N), last_N)
        return examples_N, starts_N, np.minimum(starts_N + room_N, size_N)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): tokens, BOS and both EOS included, and 0."""
        examples_N, starts_N, stops_N = self.bounds(np.arange(start, stop))
        questions_N = self.first.offsets[examples_N + 1] - self.first.offsets[examples_N]
        return one_sided(input_lengths(questions_N, stops_N - starts_N, self.between))

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """`inputs_BS`, `lengths_B` and `types_BS` (see `Inputs`) and `labels_B2`, the columns of
        the answer's first and last token, or 0 and 0. Nothing is random. Raises ValueError when
        the windows do not fit in the shape."""
        rows = shape[0]
        examples_N, starts_N, stops_N = self.bounds(np.asarray(indices, np.int64))
        context_N = self.second.offsets[examples_N]
        inputs = encoder_inputs(self.first, examples_N, self.second, context_N + starts_N,
                                context_N + stops_N, shape, self.special, self.between)
        spans_N2 = self.target.ids[self.target.offsets[examples_N][:, None] + np.arange(2)]
        inside_N = (spans_N2[:, 0] >= starts_N) & (spans_N2[:, 1] < stops_N)
        questions_N = self.first.offsets[examples_N + 1] - self.first.offsets[examples_N]
        columns_N2 = spans_N2 - starts_N[:, None] + questions_N[:, None] + 1 + self.between
        labels_N2 = np.where(inside_N[:, None], columns_N2, 0)
        return inputs.arrays(rows, self.special) | {'labels_B2': extended(labels_N2, rows)}


def make_labelled(kind: str, store: TokenStore, tokenizers: Tokenizers, max_length: int
                  ) -> Labels | Answers:
    """The objective over a store of labelled examples."""
    special, between = tokenizers.special, tokenizers.between
    columns = (store.columns[name] for name in ('first', 'second', 'target'))
    if kind != 'answer':
        return Labels(kind, *columns, special, between)
    first, second, target = columns
    everything = np.arange(len(first))
    room_N = _room(first, everything, max_length, between)
    beyond_N = np.maximum(np.diff(second.offsets) - room_N, 0)
    windows_N = 1 + -(-beyond_N // _stride(room_N))
    return Answers(first, second, target, special, between, max_length,
                   np.concatenate([[0], windows_N.cumsum()]).astype(np.int64))


def _room(first: Column, examples_N: np.ndarray, max_length: int, between: int) -> np.ndarray:
    """Tokens of context that fit beside each question; at least half of the row."""
    room_N = max_length - 2 - between - (first.offsets[examples_N + 1] - first.offsets[examples_N])
    if len(room_N) and room_N.min() < 2:
        raise UserError(f'model.max_length={max_length} leaves no room for a context beside the '
                        'question; shorten the question')
    return room_N


def _stride(room_N: np.ndarray) -> np.ndarray:
    return room_N // 2
