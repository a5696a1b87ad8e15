"""Language modelling: the next token of documents packed end to end."""

from dataclasses import dataclass

import numpy as np

from xformer.data.objectives.rows import check_fit, extended, one_sided, place, ragged
from xformer.data.plan import Shape
from xformer.data.store import Column
from xformer.data.tokenizers import Special


@dataclass(frozen=True, eq=False)
class NextToken:
    """Radford et al. (2018), section 3.1, equation 1, without a glance at other documents.

    Example r is the window of `length` labels from token r · length of the stream of documents;
    the last may be shorter. Every token is predicted exactly once an epoch, from the tokens of
    its own document in the window and the one before them; a document's first, from BOS.
    """

    text: Column
    documents: np.ndarray
    special: Special
    length: int

    def __len__(self) -> int:
        return -(-len(self.text.ids) // self.length)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): labels in the window, and 0."""
        return self._needs(np.arange(start, stop))

    def batch(self, indices: np.ndarray, shape: Shape,
              random: np.random.Generator) -> dict[str, np.ndarray]:
        """`labels_BT`, `inputs_BT`, `segments_BT` (number of the document within the row from 1;
        0 is padding) and `positions_BT` (from 0 at each document's first token in the row), where
        T is the first length of the shape. Nothing is random. Raises ValueError when the windows
        do not fit in the shape."""
        rows, width, _ = shape
        lengths_N2 = self._needs(indices)
        check_fit(lengths_N2, shape)
        starts_N, lengths_N = np.asarray(indices, np.int64) * self.length, lengths_N2[:, 0]
        labels_NT = np.full((len(indices), width), self.special.pad, np.int32)
        place(labels_NT, self.text.ids, starts_N, lengths_N)

        begins_NT = self._document_begins(starts_N, starts_N + lengths_N, width)
        inputs_NT = np.roll(labels_NT, 1, axis=1)
        inputs_NT[:, 0] = self.text.ids[np.maximum(starts_N - 1, 0)]
        inputs_NT[begins_NT] = self.special.bos

        columns = np.arange(width)
        inside_NT = columns < lengths_N[:, None]
        begins_NT[:, 0] = True
        firsts_NT = np.maximum.accumulate(np.where(begins_NT, columns, 0), axis=1)
        return {'inputs_BT': extended(np.where(inside_NT, inputs_NT, self.special.pad), rows,
                                      self.special.pad),
                'labels_BT': extended(labels_NT, rows, self.special.pad),
                'segments_BT': extended(begins_NT.cumsum(axis=1) * inside_NT, rows),
                'positions_BT': extended((columns - firsts_NT) * inside_NT, rows)}

    def _needs(self, indices: np.ndarray) -> np.ndarray:
        labels_N = np.minimum(len(self.text.ids) - np.asarray(indices, np.int64) * self.length,
                              self.length)
        return one_sided(labels_N)

    def _document_begins(self, starts_N: np.ndarray, stops_N: np.ndarray,
                         width: int) -> np.ndarray:
        """(N, width): where a document begins in start <= position < stop."""
        first_N, last_N = (
            np.searchsorted(self.documents, np.searchsorted(self.text.offsets, position_N))
            for position_N in (starts_N, stops_N))
        row, document = ragged(first_N, last_N)
        begins_NT = np.zeros((len(starts_N), width), bool)
        begins_NT[row, self.text.offsets[self.documents[document]] - starts_N[row]] = True
        return begins_NT
