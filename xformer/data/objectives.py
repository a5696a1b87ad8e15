"""What a batch teaches: examples of a store as the arrays of a training step."""

import numpy as np

from xformer.data.plan import Shape
from xformer.data.store import TokenStore
from xformer.data.tokenizers import BOS, PAD


def pair_batch(store: TokenStore, indices: np.ndarray, shape: Shape) -> dict[str, np.ndarray]:
    """Source to target (Sutskever et al., 2014): predict label t from the source and labels < t.

    Returns int32 arrays of B = rows examples: `source_BS`, `source_lengths_B`, `inputs_BT` (BOS,
    then the labels shifted right), `labels_BT` (ending in EOS) and `target_lengths_B`, all with
    PAD beyond their lengths. Rows beyond the examples are empty: length 0, PAD everywhere.
    Raises ValueError when the examples do not fit in the shape.
    """
    rows, S, T = shape
    source_BS, source_lengths_B = _padded(
        store.source_ids, store.source_offsets, indices, (rows, S))
    labels_BT, target_lengths_B = _padded(
        store.target_ids, store.target_offsets, indices, (rows, T))
    inputs_BT = np.roll(labels_BT, 1, axis=1)
    inputs_BT[:, 0] = BOS
    inputs_BT[np.arange(T) >= target_lengths_B[:, None]] = PAD  # EOS is never an input
    return {'source_BS': source_BS, 'source_lengths_B': source_lengths_B, 'inputs_BT': inputs_BT,
            'labels_BT': labels_BT, 'target_lengths_B': target_lengths_B}


def _padded(ids: np.ndarray, offsets: np.ndarray, indices: np.ndarray,
            shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the examples as rows, PAD beyond; and their lengths."""
    starts, lengths = offsets[indices], offsets[indices + 1] - offsets[indices]
    if len(indices) > shape[0] or lengths.max(initial=0) > shape[1]:
        raise ValueError(f'{len(indices)} examples of up to {lengths.max(initial=0)} tokens do '
                         f'not fit in {shape}')
    columns = np.arange(shape[1])
    inside = columns < lengths[:, None]
    padded = np.full(shape, PAD, np.int32)
    padded[:len(indices)][inside] = ids[(starts[:, None] + columns)[inside]]
    lengths_B = np.zeros(shape[0], np.int32)
    lengths_B[:len(indices)] = lengths
    return padded, lengths_B
