"""Masks against a loop over examples, queries and keys."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.nn.masks import Mask

B, T, S = 3, 4, 6
STARTS, LENGTHS = [0, 1, 6], [6, 2, 0]
QUERY_SEGMENTS = [[1, 1, 2, 2], [1, 2, 3, 0], [0, 0, 0, 0]]
KEY_SEGMENTS = [[1, 1, 1, 2, 2, 0], [3, 2, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
OFFSETS = {'none': 0, 'scalar': 2, 'each': [0, 3, 5]}


def by_loops(causal, window, offsets, lengths, segments, starts=False):
    """mask_BTS, one query and one key at a time."""
    allowed_BTS = np.zeros((B, T, S), bool)
    for b, t, s in itertools.product(range(B), range(T), range(S)):
        query = offsets[b] + t
        sees = True
        if causal and s > query:
            sees = False
        if window is not None and not -window < s - query < window:
            sees = False
        if starts and s < STARTS[b]:
            sees = False
        if lengths and s >= LENGTHS[b]:
            sees = False
        if segments and (KEY_SEGMENTS[b][s] == 0 or KEY_SEGMENTS[b][s] != QUERY_SEGMENTS[b][t]):
            sees = False
        allowed_BTS[b, t, s] = sees
    return allowed_BTS


@pytest.mark.parametrize(('causal', 'window', 'offset', 'lengths', 'segments', 'starts'), list(
    itertools.product((False, True), (None, 1, 3), OFFSETS, *[(False, True)] * 3)))
def test_every_combination_is_what_loops_say(causal, window, offset, lengths, segments, starts):
    mask = Mask(causal=causal, window=window, offset=jnp.array(OFFSETS[offset]),
                key_starts_B=jnp.array(STARTS) if starts else None,
                key_lengths_B=jnp.array(LENGTHS) if lengths else None,
                query_segments_BT=jnp.array(QUERY_SEGMENTS) if segments else None,
                key_segments_BS=jnp.array(KEY_SEGMENTS) if segments else None)
    mask_BTS = mask.to_bool(T, S)
    expected = by_loops(causal, window, np.broadcast_to(OFFSETS[offset], B), lengths, segments,
                        starts)
    if mask_BTS is None:
        assert expected.all()
    else:
        assert mask_BTS.dtype == bool and mask_BTS.shape[1:] == (T, S)
        np.testing.assert_array_equal(np.broadcast_to(mask_BTS, expected.shape), expected)


def test_nothing_given_is_no_mask_at_all():
    assert Mask().to_bool(T, S) is None
    assert Mask(offset=3).to_bool(T, S) is None


def test_the_batch_axis_is_one_when_no_part_depends_on_the_example():
    assert Mask(causal=True, window=2, offset=1).to_bool(T, S).shape == (1, T, S)
    assert Mask(key_lengths_B=jnp.array(LENGTHS)).to_bool(T, S).shape == (B, T, S)


def test_a_mask_passes_through_jit_with_a_traced_offset():
    mask = Mask(causal=True, offset=jnp.array([0, 1, 2]), key_lengths_B=jnp.array(LENGTHS))
    traced_BTS = jax.jit(lambda mask: mask.to_bool(T, S))(mask)
    np.testing.assert_array_equal(traced_BTS, by_loops(True, None, [0, 1, 2], True, False))
