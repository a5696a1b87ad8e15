"""Attention in memory linear in the length: a block of queries against a block of keys at a time.

The softmax is kept up to date as keys arrive (Milakov & Gimelshein 2018; Rabe & Staats 2021), and
the gradient makes each block of weights again from the saved logarithms of their sums (Dao et al.
2022, appendix B.2). Blocks that the mask's causality or window hides are skipped.

Within this file arrays are laid out by heads: q_BKGTH has the G = N/K query heads of each key head.
"""

from functools import partial

import jax
import jax.numpy as jnp

from xformer.config import UserError
from xformer.nn.masks import Mask
from xformer.nn.positions import by_distance

BLOCK = 512  # queries and keys of a block
NEVER = jnp.finfo(jnp.float32).min


def blockwise_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR=None,
                        drop_BNTS=None, block: int = BLOCK) -> jax.Array:
    """As `nn.attention`, without dropout of weights, whose factors would take all the memory."""
    if drop_BNTS is not None:
        raise UserError('model.attention=blockwise has no model.attention_dropout; set that to 0, '
                        'or use model.attention=xla')
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTNH, k_BSKH, v_BSKH = (_padded(x, block) for x in (q_BTNH, k_BSKH, v_BSKH))
    q_BKGTH = q_BTNH.reshape(B, -1, K, N // K, H).transpose(0, 2, 3, 1, 4)
    mask = mask.replace(
        key_lengths_B=jnp.full(1, S) if mask.key_lengths_B is None else mask.key_lengths_B,
        query_segments_BT=_padded(mask.query_segments_BT, block),
        key_segments_BS=_padded(mask.key_segments_BS, block))
    if bias_NR is not None:  # padding before and after, as the padded queries and keys have it
        bias_NR = jnp.pad(bias_NR, ((0, 0), (q_BKGTH.shape[3] - T, k_BSKH.shape[1] - S)))
    out_BKGTH = _attend(q_BKGTH, k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2), mask, bias_NR,
                        block)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, -1, N, H)[:, :T]


def _padded(x, block: int):
    """With zeros along the second axis up to whole blocks; what is shorter than one is one."""
    if x is None or x.shape[1] <= block:
        return x
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % block)] + [(0, 0)] * (x.ndim - 2))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q_BKGTH, k_BKSH, v_BKSH, mask: Mask, bias_NR, block: int):
    return _forward(q_BKGTH, k_BKSH, v_BKSH, mask, bias_NR, block)[0]


def _forward(q_BKGTH, k_BKSH, v_BKSH, mask: Mask, bias_NR, block: int):
    """(out_BKGTH, what the gradient needs): a block of queries after the other."""
    T, S = q_BKGTH.shape[3], k_BKSH.shape[2]
    queries, keys = min(T, block), min(S, block)

    def of_queries(first):
        q_BKGtH = _block(q_BKGTH, first, queries, 3)

        def with_keys(index, state):
            highest_BKGt, total_BKGt, out_BKGtH = state
            k_BKsH, v_BKsH = (_block(x, index * keys, keys, 2) for x in (k_BKSH, v_BKSH))
            scores, seen = _scores(q_BKGtH, k_BKsH, mask, bias_NR, first, index * keys, T)
            higher_BKGt = jnp.maximum(highest_BKGt, scores.max(-1))
            weights = jnp.where(seen, jnp.exp(scores - higher_BKGt[..., None]), 0.0)
            rescale_BKGt = jnp.exp(highest_BKGt - higher_BKGt)
            more_BKGtH = jnp.einsum('bkgts,bksh->bkgth', weights.astype(v_BKsH.dtype), v_BKsH,
                                    preferred_element_type=jnp.float32)
            return (higher_BKGt, total_BKGt * rescale_BKGt + weights.sum(-1),
                    out_BKGtH * rescale_BKGt[..., None] + more_BKGtH)

        empty_BKGt = jnp.zeros(q_BKGtH.shape[:-1])
        start = (empty_BKGt + NEVER, empty_BKGt, jnp.zeros(q_BKGtH.shape))
        within = _within(first, queries, mask.reach(), mask.offset, keys, S // keys)
        highest_BKGt, total_BKGt, out_BKGtH = jax.lax.fori_loop(*within, with_keys, start)
        total_BKGt = jnp.where(total_BKGt == 0, 1.0, total_BKGt)
        return ((out_BKGtH / total_BKGt[..., None]).astype(q_BKGTH.dtype),
                highest_BKGt + jnp.log(total_BKGt))

    out, log_total = jax.lax.map(of_queries, jnp.arange(0, T, queries))
    out_BKGTH, log_total_BKGT = _joined(out, 3), _joined(log_total, 3)
    return out_BKGTH, (q_BKGTH, k_BKSH, v_BKSH, mask, bias_NR, out_BKGTH, log_total_BKGT)


def _backward(block: int, saved, g_BKGTH):
    """Gradients of q, k, v and the bias: a block of keys after the other.

    Those of k and v are summed turned, of which XLA's CPU backend makes the products faster.
    """
    q_BKGTH, k_BKSH, v_BKSH, mask, bias_NR, out_BKGTH, log_total_BKGT = saved
    T, S = q_BKGTH.shape[3], k_BKSH.shape[2]
    queries, keys = min(T, block), min(S, block)
    scale = q_BKGTH.shape[-1] ** -0.5
    along_BKGT = (g_BKGTH.astype(jnp.float32) * out_BKGTH).sum(-1)
    least, most = mask.reach()
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def of_keys(carry, first):
        k_BKsH, v_BKsH = (_block(x, first, keys, 2) for x in (k_BKSH, v_BKSH))

        def with_queries(index, carry):
            dq_BKGTH, dbias_NR, dk_BKHs, dv_BKHs = carry
            at = index * queries
            q, g, along, log_total = (_block(x, at, queries, 3) for x in (
                q_BKGTH, g_BKGTH, along_BKGT, log_total_BKGT))
            scores, seen = _scores(q, k_BKsH, mask, bias_NR, at, first, T)
            weights = jnp.where(seen, jnp.exp(scores - log_total[..., None]), 0.0)
            dweights = product('bkgth,bksh->bkgts', g, v_BKsH)
            dscores = weights * (dweights - along[..., None])
            if bias_NR is not None:
                dbias_NR = _add_bias_gradient(dbias_NR, dscores.sum(0), at, first, T)
            dscores = (dscores * scale).astype(q.dtype)
            dq = product('bkgts,bksh->bkgth', dscores, k_BKsH)
            return (_add_block(dq_BKGTH, dq, at, 3), dbias_NR,
                    dk_BKHs + product('bkgth,bkgts->bkhs', q, dscores),
                    dv_BKHs + product('bkgth,bkgts->bkhs', g, weights.astype(g.dtype)))

        zero_BKHs = jnp.zeros(k_BKsH.swapaxes(2, 3).shape)
        within = _within(first, keys, (-most, -least), -mask.offset, queries, T // queries)
        *carry, dk_BKHs, dv_BKHs = jax.lax.fori_loop(
            *within, with_queries, (*carry, zero_BKHs, zero_BKHs))
        return tuple(carry), (dk_BKHs.swapaxes(2, 3), dv_BKHs.swapaxes(2, 3))

    start = jnp.zeros(q_BKGTH.shape), None if bias_NR is None else jnp.zeros(bias_NR.shape)
    (dq_BKGTH, dbias_NR), (dk, dv) = jax.lax.scan(of_keys, start, jnp.arange(0, S, keys))
    return (dq_BKGTH.astype(q_BKGTH.dtype), _joined(dk, 2).astype(k_BKSH.dtype),
            _joined(dv, 2).astype(v_BKSH.dtype), None, dbias_NR)


_attend.defvjp(_forward, _backward)


def _scores(q_BKGtH, k_BKsH, mask: Mask, bias_NR, first_query, first_key, T: int):
    """(scores_BKGts, whether each is seen) of a block, NEVER where not."""
    queries, keys = q_BKGtH.shape[3], k_BKsH.shape[2]
    scores = jnp.einsum('bkgth,bksh->bkgts', q_BKGtH, k_BKsH, preferred_element_type=jnp.float32)
    scores = scores * q_BKGtH.shape[-1] ** -0.5
    if bias_NR is not None:
        start, R = _distances_at(first_query, first_key, queries, keys, T)
        bias_NTS = by_distance(_block(bias_NR, start, R, 1), queries, keys)
        scores = scores + bias_NTS.reshape(1, *scores.shape[1:])
    seen = mask.to_bool(queries, keys, first_query, first_key)[:, None, None]
    return jnp.where(seen, scores, NEVER), seen


def _add_bias_gradient(dbias_NR, dscores_KGts, first_query, first_key, T: int):
    """With the gradients of a block's scores added at their distances."""
    queries, keys = dscores_KGts.shape[2:]
    start, R = _distances_at(first_query, first_key, queries, keys, T)
    spread = partial(by_distance, query_length=queries, key_length=keys)
    [more_NR] = jax.linear_transpose(spread, jnp.zeros((len(dbias_NR), R)))(
        dscores_KGts.reshape(-1, queries, keys))
    return _add_block(dbias_NR, more_NR, start, 1)


def _distances_at(first_query, first_key, queries: int, keys: int, T: int):
    """(first, number) of the distances within a block, among those of T queries and all keys."""
    return first_key - first_query + T - queries, queries + keys - 1


def _within(first, length: int, reach: tuple[float, float], offset, block: int, count: int):
    """(begin, end) of the blocks that anything from `first` on, of that length, can reach.

    `offset` is added to `first`: one number, or one for each example.
    """
    low, high = jnp.min(first + offset) + reach[0], jnp.max(first + offset) + length - 1 + reach[1]
    begin = jnp.clip(jnp.floor(low / block), 0, count)
    end = jnp.clip(jnp.floor(high / block) + 1, begin, count)
    return begin.astype(jnp.int32), end.astype(jnp.int32)


def _block(x, first, length: int, axis: int):
    return jax.lax.dynamic_slice_in_dim(x, first, length, axis)


def _add_block(x, more, first, axis: int):
    block = _block(x, first, more.shape[axis], axis) + more
    return jax.lax.dynamic_update_slice_in_dim(x, block, first, axis)


def _joined(blocks, axis: int):
    """Blocks along a new first axis, as the one axis that they are blocks of."""
    x = jnp.moveaxis(blocks, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2:])
