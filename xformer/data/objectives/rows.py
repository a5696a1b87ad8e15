"""Ragged token ids as rows of a batch: placed, compacted, shifted, checked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xformer.data.plan import Shape
from xformer.data.tokenizers import Special


def check_fit(lengths_N2: np.ndarray, shape: Shape) -> None:
    """Raises ValueError unless N examples of these lengths fit in (rows, S, T)."""
    longest = lengths_N2.max(axis=0, initial=0)
    if len(lengths_N2) > shape[0] or (longest > shape[1:]).any():
        raise ValueError(f'{len(lengths_N2)} examples of up to {longest.tolist()} tokens do not '
                         f'fit in {shape}')


def one_sided(lengths_N: np.ndarray) -> np.ndarray:
    """int32 (N, 2): what examples without a target need."""
    return np.stack([lengths_N, np.zeros_like(lengths_N)], axis=1).astype(np.int32)


def extended(array_N: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """int32: the same with `rows` rows, those beyond the examples full of `fill`."""
    array_B = np.full((rows, *array_N.shape[1:]), fill, np.int32)
    array_B[:len(array_N)] = array_N
    return array_B


def padded(rows: Sequence[Sequence[int]], shape: tuple[int, int], pad: int
           ) -> tuple[np.ndarray, np.ndarray]:
    """int32 (B, S) = `shape`: a sequence of ids a row, then `pad`; and the lengths (B,)."""
    ids_BS, lengths_B = np.full(shape, pad, np.int32), np.zeros(shape[0], np.int32)
    for row, ids in enumerate(rows):
        ids_BS[row, :len(ids)] = ids
        lengths_B[row] = len(ids)
    return ids_BS, lengths_B


def place(rows_NS: np.ndarray, ids: np.ndarray, starts_N: np.ndarray, lengths_N: np.ndarray,
          at_N: np.ndarray | int = 0) -> None:
    """Writes ids[start:start + length] into each row, from its column `at` on."""
    columns_NS = np.arange(rows_NS.shape[1]) - np.reshape(at_N, (-1, 1))
    inside_NS = (columns_NS >= 0) & (columns_NS < lengths_N[:, None])
    rows_NS[inside_NS] = ids[(starts_N[:, None] + columns_NS)[inside_NS]]


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


def encoder_rows(a: np.ndarray, a_starts_N: np.ndarray, a_N: np.ndarray,
                 b: np.ndarray, b_starts_N: np.ndarray, b_N: np.ndarray,
                 shape: Shape, special: Special, between: int = 1) -> Inputs:
    """Rows of a[start:start + length] and, where it is not empty, the same of b.

    Raises ValueError when they do not fit in the shape.
    """
    lengths_N = input_lengths(a_N, b_N, between)
    check_fit(one_sided(lengths_N), shape)
    ids_NS = np.full((len(a_N), shape[1]), special.pad, np.int32)
    rows, columns = np.arange(len(a_N)), np.arange(shape[1])
    b_at_N = a_N + 1 + between
    ids_NS[:, 0] = special.bos
    place(ids_NS, a, a_starts_N, a_N, at_N=1)
    place(ids_NS, b, b_starts_N, b_N, at_N=b_at_N)
    for ends_N in (a_N + 1, np.minimum(b_at_N, lengths_N) - 1, lengths_N - 1):
        ids_NS[rows, ends_N] = special.eos
    types_NS = (columns >= b_at_N[:, None]) & (columns < lengths_N[:, None])
    return Inputs(ids_NS, lengths_N, types_NS)


def input_lengths(first_N: np.ndarray, second_N: np.ndarray, between: int) -> np.ndarray:
    """Tokens with BOS and all EOS."""
    return first_N + 2 + np.where(second_N > 0, second_N + between, 0)


def compacted(values_NS: np.ndarray, keep_NS: np.ndarray, width: int,
              fill: int) -> tuple[np.ndarray, np.ndarray]:
    """The kept values of each row moved to its left, int32 (N, width), and their number (N,)."""
    counts_N = keep_NS.sum(axis=1)
    compact = np.full((len(values_NS), width), fill, np.int32)
    compact[np.arange(width) < counts_N[:, None]] = values_NS[keep_NS]
    return compact, counts_N


def ragged(starts_N: np.ndarray, stops_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All integers start <= i < stop of every row, end to end: (row of each, the integer)."""
    counts_N = stops_N - starts_N
    row = np.repeat(np.arange(len(counts_N)), counts_N)
    before_N = counts_N.cumsum() - counts_N
    return row, np.arange(len(row)) - before_N[row] + starts_N[row]


def draw(random: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """An integer 0 <= i < count for each of `counts`, uniformly."""
    return (random.random(counts.shape) * counts).astype(np.int64)


def choose(allowed_NS: np.ndarray, number_N: np.ndarray,
           random: np.random.Generator) -> np.ndarray:
    """bool (N, S): of each row `number` of the allowed places, every set equally likely."""
    score_NS = np.where(allowed_NS, random.random(allowed_NS.shape), 2)
    order_NS = np.argsort(score_NS, axis=1, kind='stable')
    chosen_NS = np.zeros_like(allowed_NS)
    ranks = np.arange(allowed_NS.shape[1])
    np.put_along_axis(chosen_NS, order_NS, ranks < number_N[:, None], axis=1)
    return chosen_NS


def shifted(labels_NT: np.ndarray, lengths_N: np.ndarray, special: Special) -> np.ndarray:
    """The inputs that labels are predicted from: BOS, then the labels but for the last one."""
    inputs_NT = np.roll(labels_NT, 1, axis=1)
    inputs_NT[:, 0] = special.bos
    inputs_NT[np.arange(labels_NT.shape[1]) >= lengths_N[:, None]] = special.pad
    return inputs_NT


def pair_arrays(source_NS: np.ndarray, source_lengths_N: np.ndarray, labels_NT: np.ndarray,
                target_lengths_N: np.ndarray, rows: int, special: Special) -> dict[str, np.ndarray]:
    """The arrays of a step from source to target."""
    inputs_NT = shifted(labels_NT, target_lengths_N, special)
    return {'source_BS': extended(source_NS, rows, special.pad),
            'source_lengths_B': extended(source_lengths_N, rows),
            'inputs_BT': extended(inputs_NT, rows, special.pad),
            'labels_BT': extended(labels_NT, rows, special.pad),
            'target_lengths_B': extended(target_lengths_N, rows)}
