"""Source to target."""

from dataclasses import dataclass

import numpy as np

from xformer.data.objectives.rows import (
    check_fit,
    extended,
    one_sided,
    pair_arrays,
    place,
    shifted,
)
from xformer.data.plan import Shape
from xformer.data.store import Column
from xformer.data.tokenizers import Special


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sutskever et al. (2014), section 2: predict label t from the source and labels < t."""

    source: Column
    target: Column
    special: Special

    def __len__(self) -> int:
        return len(self.source.offsets) - 1

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): source and target tokens, EOS included."""
        return np.stack([np.diff(column.offsets[start:stop + 1])
                         for column in (self.source, self.target)], axis=1).astype(np.int32)

    def bounds(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts and lengths (2, N) of the sources and the targets, in ids of their columns."""
        sides = (self.source, self.target)
        starts_2N = np.stack([column.offsets[indices] for column in sides])
        return starts_2N, np.stack([column.offsets[indices + 1] for column in sides]) - starts_2N

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """`source_BS`, `source_lengths_B`, `inputs_BT` (BOS, then the labels shifted right),
        `labels_BT` (ending in EOS) and `target_lengths_B`; PAD beyond the lengths. Nothing is
        random. Raises ValueError when the examples do not fit in the shape."""
        rows, *slots = shape
        starts_2N, lengths_2N = self.bounds(indices)
        check_fit(lengths_2N.T, shape)
        source_NS, labels_NT = (
            np.full((len(indices), width), self.special.pad, np.int32) for width in slots)
        place(source_NS, self.source.ids, starts_2N[0], lengths_2N[0])
        place(labels_NT, self.target.ids, starts_2N[1], lengths_2N[1])
        return pair_arrays(source_NS, lengths_2N[0], labels_NT, lengths_2N[1], rows, self.special)


@dataclass(frozen=True, eq=False)
class Continuations:
    """For a decoder: source and target as one text, of which only the target is scored
    (Radford et al. 2018, section 3.3, the transformed inputs)."""

    pairs: Pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): source and target tokens together, both EOS included; and 0."""
        return one_sided(self.pairs.lengths(start, stop).sum(axis=1))

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """`labels_BT` (source, EOS, target, EOS), `inputs_BT` (BOS, then the labels shifted),
        `segments_BT` (1 where there are labels), `positions_BT` and `scored_BT` (1 in the target).
        Nothing is random. Raises ValueError when the examples do not fit in the shape."""
        rows, width, _ = shape
        source, target, special = self.pairs.source, self.pairs.target, self.pairs.special
        starts_2N, lengths_2N = self.pairs.bounds(indices)
        total_N = lengths_2N.sum(axis=0)
        check_fit(one_sided(total_N), shape)
        labels_NT = np.full((len(indices), width), special.pad, np.int32)
        place(labels_NT, source.ids, starts_2N[0], lengths_2N[0])
        place(labels_NT, target.ids, starts_2N[1], lengths_2N[1], at_N=lengths_2N[0])
        columns = np.arange(width)
        inside_NT = columns < total_N[:, None]
        return {'inputs_BT': extended(shifted(labels_NT, total_N, special), rows, special.pad),
                'labels_BT': extended(labels_NT, rows, special.pad),
                'segments_BT': extended(inside_NT, rows),
                'positions_BT': extended(columns * inside_NT, rows),
                'scored_BT': extended(inside_NT & (columns >= lengths_2N[0][:, None]), rows)}
