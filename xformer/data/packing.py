"""Texts of all lengths in rows of few widths: several to a row, so that few slots stay empty, or
one to a row.

Where the order of texts is free and nothing is learnt from them: rows need not be shuffled, and
the shapes are the same few whatever the texts.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

WIDTH = 64  # of the rows that hold texts up to it; a longer one takes the next `rounded` size
LEAST_WIDTH = 16  # of any row
SHORTEST = 4  # slots a text takes at least in what a row has room for: WIDTH // SHORTEST texts


class PackedBatch(NamedTuple):
    """Text n of the batch lies in row row_N[n] from column start_N[n] on, after place_N[n] others.

    A row holds at most `places(width)` texts; rows beyond the last are empty.
    """

    rows: int
    width: int
    texts_N: np.ndarray
    row_N: np.ndarray
    start_N: np.ndarray
    place_N: np.ndarray

    def laid_out(self, values_NS: np.ndarray, lengths_N: np.ndarray, fill: int) -> np.ndarray:
        """int32 (rows, width): the first `length` values of each text in their places."""
        array_BT = np.full((self.rows, self.width), fill, np.int32)
        text, column = np.nonzero(np.arange(values_NS.shape[1]) < lengths_N[:, None])
        array_BT[self.row_N[text], self.start_N[text] + column] = values_NS[text, column]
        return array_BT


def places(width: int) -> int:
    """Most texts in a row."""
    return width // SHORTEST


def packed_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[PackedBatch]:
    """Every text once, in batches of at most `batch_tokens` slots, or of one row.

    The longest come first, so that a batch too big for the memory fails at once.
    """
    for width, group in groupby(best_fit(lengths), key=lambda row: row[0]):
        held = [texts for _, texts in group]
        most = max(batch_tokens // width, 1)
        for first in range(0, len(held), most):
            yield _batch(held[first:first + most], width, lengths, most)


def best_fit(lengths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """(width, its texts) of rows, the widest first, by best fit decreasing (Johnson 1973): the
    longest text first, each to the row in which least room is left, or to a new one."""
    least = max(min(WIDTH, rounded(sum(lengths))), LEAST_WIDTH)
    rows: list[tuple[int, list[int]]] = []
    with_room: dict[int, list[int]] = {}  # {free slots: rows}
    rooms = 0  # bit f: some row has f free slots
    for text in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[text]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            rooms ^= (not with_room[room]) << room
        else:
            room, row = max(rounded(length), least), len(rows)
            rows.append((room, []))
        width, texts = rows[row]
        texts.append(text)
        if len(texts) < places(width):
            with_room.setdefault(room - length, []).append(row)
            rooms |= 1 << room - length
    return rows


def _batch(held: list[list[int]], width: int, lengths: Sequence[int], most: int) -> PackedBatch:
    row_N = np.repeat(np.arange(len(held)), list(map(len, held)))
    texts_N = np.concatenate(held)
    place_N = np.concatenate([np.arange(len(texts)) for texts in held])
    starts = [np.cumsum([0, *(lengths[text] for text in texts[:-1])]) for texts in held]
    return PackedBatch(min(rounded(len(held)), most), width, texts_N, row_N,
                       np.concatenate(starts), place_N)


def batches_by_length(lengths: Sequence[int], batch_tokens: int,
                      slots: Callable[[int], int] = lambda S: S
                      ) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """(indices, (rows, S)): S and rows powers of two, rows · slots(S) ≤ batch_tokens if rows > 1.

    S is the least that holds an input, LEAST_WIDTH or more. The longest come first, so that a
    batch too big for the memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        S = power_of_two(lengths[order[0]], least=LEAST_WIDTH)
        rows = 1 << max(batch_tokens // slots(S), 1).bit_length() - 1
        rows = min(rows, power_of_two(len(lengths)))
        shorter = S // 2 if S > LEAST_WIDTH else -1
        batch = [i for i in order[:rows] if lengths[i] > shorter]
        yield batch, (rows, S)
        order = order[len(batch):]


def rounded(value: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16 ... (powers of two, and half as much again) that is no
    smaller: few sizes, of which each is at most half as large again as what it is for."""
    power = 1 << (value - 1).bit_length()
    return power * 3 // 4 if value <= power * 3 // 4 else power


def power_of_two(value: int, least: int = 1) -> int:
    """The least that is no smaller than either: few sizes, for few compilations."""
    return max(least, 1 << (max(value, 1) - 1).bit_length())
