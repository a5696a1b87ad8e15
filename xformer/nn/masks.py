"""Which query may see which key: a small specification, turned into booleans in one place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Packing(NamedTuple):
    """Several documents in one row: which one a token belongs to, and its place in it."""

    segments_BT: jax.Array  # documents count from 1 in every row; 0 is padding
    positions_BT: jax.Array  # restart at 0 in every document


def row_positions(length: int, offset=0, packing: Packing | None = None) -> jax.Array:
    """positions_BT of the tokens of a row: the packing's, or one row for all from `offset` on."""
    return offset + jnp.arange(length)[None] if packing is None else packing.positions_BT


@struct.dataclass
class Mask:
    """A query sees a key when every part that is given allows it.

    causal: no key after the query's own position.
    window: only keys fewer than `window` positions away (before it, if also causal).
    offset: position of the first query, for decoding: a scalar or one per example [B].
    key_starts_B, key_lengths_B: keys before the start, at or beyond the length are padding.
    query_segments_BT, key_segments_BS: only keys of the query's own document. Documents packed
        into one row count from 1; 0 is padding and neither sees nor is seen.
    """

    causal: bool = struct.field(pytree_node=False, default=False)
    window: int | None = struct.field(pytree_node=False, default=None)
    offset: jax.Array | int = 0
    key_starts_B: jax.Array | None = None
    key_lengths_B: jax.Array | None = None
    query_segments_BT: jax.Array | None = None
    key_segments_BS: jax.Array | None = None

    def packed(self, queries: Packing | None, keys: Packing | None = None) -> 'Mask':
        """This and, if rows are packed, segments; the keys are the queries' own unless given."""
        if queries is None:
            return self
        return self.replace(query_segments_BT=queries.segments_BT,
                            key_segments_BS=(keys or queries).segments_BT)

    def part(self, first: int, last: int) -> 'Mask':
        """Of queries first ≤ t < last and the keys before `last`, of a mask that has no offset."""
        segments = {} if self.key_segments_BS is None else {
            'query_segments_BT': self.query_segments_BT[:, first:last],
            'key_segments_BS': self.key_segments_BS[:, :last]}
        return self.replace(offset=first, **segments)

    def reach(self) -> tuple[float, float]:
        """The least and the greatest distance, key - query, that a query may see: -inf … inf."""
        far = jnp.inf if self.window is None else self.window - 1
        return -far, 0 if self.causal else far

    def to_bool(self, query_length: int, key_length: int, first_query=0, first_key=0
                ) -> jax.Array | None:
        """mask_BTS, true where attention is allowed (B is 1 if nothing depends on the example),
        of that many queries and keys from the first ones on.

        None when no part is given: every query sees every key.
        """
        query_BT1 = (jnp.reshape(self.offset, (-1, 1, 1)) + first_query
                     + jnp.arange(query_length)[None, :, None])
        key_11S = first_key + jnp.arange(key_length)[None, None, :]
        parts = []
        if self.causal:
            parts.append(key_11S <= query_BT1)
        if self.window is not None:
            parts.append(jnp.abs(query_BT1 - key_11S) < self.window)
        if self.key_starts_B is not None:
            parts.append(key_11S >= self.key_starts_B[:, None, None])
        if self.key_lengths_B is not None:
            parts.append(key_11S < self.key_lengths_B[:, None, None])
        if self.key_segments_BS is not None:
            query_BT, key_BS = (
                jax.lax.dynamic_slice_in_dim(segments, first, length, axis=1)
                for segments, first, length in (
                    (self.query_segments_BT, first_query, query_length),
                    (self.key_segments_BS, first_key, key_length)))
            parts.append((query_BT[:, :, None] == key_BS[:, None]) & (key_BS[:, None] > 0))
        if not parts:
            return None
        mask_BTS = parts[0]
        for part in parts[1:]:
            mask_BTS = mask_BTS & part
        return jnp.broadcast_to(mask_BTS, (mask_BTS.shape[0], query_length, key_length))
