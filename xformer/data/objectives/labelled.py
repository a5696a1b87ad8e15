"""Texts and pairs with what a head on an encoder is to find: labels, numbers, tags, answers."""

from dataclasses import dataclass

import numpy as np

from xformer.config import UserError
from xformer.data.objectives.rows import encoder_rows, extended, input_lengths, one_sided, place
from xformer.data.plan import Shape
from xformer.data.store import Column, TokenStore
from xformer.data.tokenizers import Special, Tokenizers

NO_TAG = -1  # of a token that does not begin a word


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
        inputs = encoder_rows(self.first.ids, *_extents(self.first, indices), self.second.ids,
                              *_extents(self.second, indices), shape, self.special, self.between)
        arrays = inputs.arrays(rows, self.special)
        starts_N, sizes_N = _extents(self.target, indices)
        if self.kind == 'tag':
            labels_NS = np.full((len(indices), width), NO_TAG, np.int32)
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
        _, size_N = _extents(self.second, examples_N)
        last_N = np.maximum(size_N - room_N, 0)
        starts_N = np.minimum((windows_N - self.first_window[examples_N]) * _stride(room_N), last_N)
        return examples_N, starts_N, np.minimum(starts_N + room_N, size_N)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): tokens, BOS and both EOS included, and 0."""
        examples_N, starts_N, stops_N = self.bounds(np.arange(start, stop))
        _, questions_N = _extents(self.first, examples_N)
        return one_sided(input_lengths(questions_N, stops_N - starts_N, self.between))

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """`inputs_BS`, `lengths_B` and `types_BS` (see `Inputs`) and `labels_B2`, the columns of
        the answer's first and last token, or 0 and 0. Nothing is random. Raises ValueError when
        the windows do not fit in the shape."""
        rows = shape[0]
        examples_N, starts_N, stops_N = self.bounds(np.asarray(indices, np.int64))
        (questions_at_N, questions_N), (contexts_at_N, _) = (
            _extents(column, examples_N) for column in (self.first, self.second))
        inputs = encoder_rows(self.first.ids, questions_at_N, questions_N, self.second.ids,
                              contexts_at_N + starts_N, stops_N - starts_N, shape, self.special,
                              self.between)
        spans_N2 = self.target.ids[self.target.offsets[examples_N][:, None] + np.arange(2)]
        inside_N = (spans_N2[:, 0] >= starts_N) & (spans_N2[:, 1] < stops_N)
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


def _extents(column: Column, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the rows in the ids of their column."""
    starts_N = np.asarray(column.offsets[rows_N])
    return starts_N, column.offsets[rows_N + 1] - starts_N


def _room(first: Column, examples_N: np.ndarray, max_length: int, between: int) -> np.ndarray:
    """Tokens of context that fit beside each question: about half of the row, or more."""
    _, questions_N = _extents(first, examples_N)
    room_N = max_length - 2 - between - questions_N
    if len(room_N) and room_N.min() < 2:
        raise UserError(f'model.max_length={max_length} leaves no room for a context beside the '
                        'question; shorten the question')
    return room_N


def _stride(room_N: np.ndarray) -> np.ndarray:
    return room_N // 2
