"""Scaled dot-product attention: its definition, and faster forms held to it.

Source: Vaswani et al. 2017, section 3.2.1, equation 1. Every form takes the same arguments:

    q_BTNH, k_BSKH, v_BSKH   queries of all heads; keys and values of K heads, each of which serves
                             N/K query heads (K = N is the original; Ainslie et al. 2023)
    mask                     which query may see which key (`nn.masks.Mask`)
    bias_NR                  added to the scores by distance (`nn.positions.distances`), or None
    drop_BNTS                dropout factors (0 or 1/(1-rate)) of the weights, or None

and returns out_BTNH. Scores and softmax are float32 whatever the inputs' type. A masked weight
is exactly zero; a query that may see no key at all gets zeros.
"""

import jax
import jax.numpy as jnp

from xformer.nn.masks import Mask
from xformer.nn.positions import by_distance


def masked_softmax(scores: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Softmax over the last axis of the float32 scores; zero where masked, also in whole rows."""
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    highest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.where(mask, jnp.exp(scores - highest), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / jnp.where(total == 0.0, 1.0, total)


@jax.custom_vjp
def _softmax(scores: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`masked_softmax`, whose own gradient needs fewer passes over memory than the derived one."""
    return masked_softmax(scores, mask)


def _softmax_gradient(weights, g):
    return weights * (g - (weights * g).sum(axis=-1, keepdims=True)), None


_softmax.defvjp(lambda scores, mask: (masked_softmax(scores, mask),) * 2, _softmax_gradient)


def attend_one_head(q_TH, k_SH, v_SH, mask_TS=None, bias_TS=None, drop_TS=None) -> jax.Array:
    """The definition, for one head of one example: softmax(q kᵀ / √H + bias) v."""
    scores_TS = jnp.matmul(q_TH, k_SH.T, preferred_element_type=jnp.float32)
    scores_TS = scores_TS * q_TH.shape[-1] ** -0.5
    if bias_TS is not None:
        scores_TS = scores_TS + bias_TS
    weights_TS = masked_softmax(scores_TS, mask_TS)
    if drop_TS is not None:
        weights_TS = weights_TS * drop_TS
    return weights_TS.astype(v_SH.dtype) @ v_SH


def reference_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR=None,
                        drop_BNTS=None) -> jax.Array:
    """`attend_one_head` lifted over heads, then over the batch."""
    def axis(value, index):
        return None if value is None else index

    B, T, N, _ = q_BTNH.shape
    S = k_BSKH.shape[1]
    k_BSNH, v_BSNH = (jnp.repeat(each, N // k_BSKH.shape[2], axis=2) for each in (k_BSKH, v_BSKH))
    bias_NTS = None if bias_NR is None else by_distance(bias_NR, T, S)
    mask_BTS = mask.to_bool(T, S)
    if mask_BTS is not None:
        mask_BTS = jnp.broadcast_to(mask_BTS, (B, T, S))
    over_heads = jax.vmap(
        attend_one_head, in_axes=(1, 1, 1, None, axis(bias_NTS, 0), axis(drop_BNTS, 0)),
        out_axes=1)
    over_batch = jax.vmap(
        over_heads, in_axes=(0, 0, 0, axis(mask_BTS, 0), None, axis(drop_BNTS, 0)))
    return over_batch(q_BTNH, k_BSNH, v_BSNH, mask_BTS, bias_NTS, drop_BNTS)


def attention_weights(q_BTNH, k_BSKH, mask: Mask, bias_NR=None) -> jax.Array:
    """weights_BNTS, float32: what each query of each head looks at."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    if K == N:
        scores_BNTS = jnp.einsum('btnh,bsnh->bnts', q_BTNH, k_BSKH,
                                 preferred_element_type=jnp.float32)
    else:
        scores_BNTS = jnp.einsum('btkgh,bskh->bkgts', q_BTNH.reshape(B, T, K, N // K, H), k_BSKH,
                                 preferred_element_type=jnp.float32).reshape(B, N, T, S)
    return _weights(scores_BNTS * H ** -0.5, mask, bias_NR)


def _weights(scores_BNTS, mask: Mask, bias_NR) -> jax.Array:
    T, S = scores_BNTS.shape[2:]
    if bias_NR is not None:
        scores_BNTS = scores_BNTS + by_distance(bias_NR, T, S)[None]
    mask_BTS = mask.to_bool(T, S)
    return _softmax(scores_BNTS, None if mask_BTS is None else mask_BTS[:, None])


def xla_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR=None, drop_BNTS=None,
                  long: int = 128) -> jax.Array:
    """The same as two batched matrix products, which XLA fuses with the softmax between.

    Causal rows of `long` tokens or more are taken in four parts, each without the keys that come
    after it: 5/8 of the work.
    """
    T = q_BTNH.shape[1]
    if not (mask.causal and T >= long and isinstance(mask.offset, int) and mask.offset == 0):
        return _attend_at_once(q_BTNH, k_BSKH, v_BSKH, mask, bias_NR, drop_BNTS)
    size, parts = -(-T // 4), []
    for first in range(0, T, size):
        last = min(first + size, T)
        k_BsKH, v_BsKH = k_BSKH[:, :last], v_BSKH[:, :last]
        distances = last - first + k_BsKH.shape[1] - 1
        bias = None if bias_NR is None else bias_NR[:, T - last:][:, :distances]
        drop = None if drop_BNTS is None else drop_BNTS[:, :, first:last, :last]
        parts.append(_attend_at_once(q_BTNH[:, first:last], k_BsKH, v_BsKH,
                                     mask.part(first, last), bias, drop))
    return jnp.concatenate(parts, axis=1)


def _attend_at_once(q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR, drop_BNTS) -> jax.Array:
    weights_BNTS = attention_weights(q_BTNH, k_BSKH, mask, bias_NR)
    if drop_BNTS is not None:
        weights_BNTS = weights_BNTS * drop_BNTS
    weights_BNTS = weights_BNTS.astype(v_BSKH.dtype)
    B, N, T, S = weights_BNTS.shape
    K = v_BSKH.shape[2]
    if K == N:
        return jnp.einsum('bnts,bsnh->btnh', weights_BNTS, v_BSKH)
    out_BTKGH = jnp.einsum('bkgts,bskh->btkgh', weights_BNTS.reshape(B, K, N // K, T, S), v_BSKH)
    return out_BTKGH.reshape(q_BTNH.shape)


def by_head(x_BSKH: jax.Array) -> jax.Array:
    """x_XSH, a row for each head of each example: X = B·K."""
    B, S, K, H = x_BSKH.shape
    return x_BSKH.swapaxes(1, 2).reshape(B * K, S, H)


def cached_attention(q_BTNH, k_XHS, v_XSH, mask: Mask, bias_NR=None,
                     lines_BGM=None) -> jax.Array:
    """The same for keys and values of a cache, `by_head`, laid out as the products take them.

    With lines_BGM, the T = G queries are hypotheses of one example, and slot m·G + j of the cache
    is what hypothesis j wrote at position m: of each position, hypothesis g sees the slot of
    lines_BGM[b, g, m] alone. When beams change their order, so do lines, and no cache is copied.
    """
    B, T, N, H = q_BTNH.shape
    X, S, _ = v_XSH.shape
    q_XRH = q_BTNH.swapaxes(1, 2).reshape(X, -1, H)  # R: the queries of N/K heads
    scores_XRS = jnp.matmul(q_XRH, k_XHS, preferred_element_type=jnp.float32)
    scores_BNTS = scores_XRS.reshape(B, N, T, S) * H ** -0.5
    if lines_BGM is None:
        weights_BNTS = _weights(scores_BNTS, mask, bias_NR)
    else:
        weights_BNTS = _weights_of_lines(scores_BNTS, mask, bias_NR, lines_BGM)
    weights_XRS = weights_BNTS.astype(v_XSH.dtype).reshape(X, -1, S)
    return (weights_XRS @ v_XSH).reshape(B, N, T, H).swapaxes(1, 2)


def _weights_of_lines(scores_BNGS, mask: Mask, bias_NR, lines_BGM) -> jax.Array:
    B, G, M = lines_BGM.shape
    mask_B1M = mask.to_bool(1, M)
    seen_BGMG = (lines_BGM[..., None] == jnp.arange(G)[None, None, None]) & mask_B1M[..., None]
    if bias_NR is not None:
        bias_N1S = jnp.repeat(by_distance(bias_NR, 1, M), G, axis=2)
        scores_BNGS = scores_BNGS + bias_N1S[None]
    return masked_softmax(scores_BNGS, seen_BGMG.reshape(B, 1, G, M * G))
