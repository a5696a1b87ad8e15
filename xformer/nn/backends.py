"""Which form of attention computes it: asked for by name, or chosen by what it has to do.

reference  the definition (`nn.attention`)
xla        two matrix products and the softmax between: fastest while the scores are few
blockwise  memory linear in the length (`nn.blockwise`)
cudnn      NVIDIA's fused kernel (Dao et al. 2022), through JAX
splash     JAX's fused kernel for TPUs

A form that cannot do what it is asked for says so, and names one that can.
"""

import jax
import jax.numpy as jnp

from xformer.config import UserError
from xformer.nn.attention import cached_attention, reference_attention, xla_attention
from xformer.nn.blockwise import blockwise_attention
from xformer.nn.masks import Mask

FEW_SCORES = 1024 ** 2  # of one head: what xla is fastest for
MOST_MASKED = 8192 ** 2  # queries times keys for which cudnn takes a mask of its own
LANES = 128  # of a TPU's registers: what splash's blocks and heads are multiples of


def attend(backend: str, q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR=None,
           drop_BNTS=None) -> jax.Array:
    """out_BTNH by one of BACKENDS, or with `auto` by the one that suits."""
    if backend == 'auto':
        backend = suitable(q_BTNH, k_BSKH, mask, bias_NR, drop_BNTS)
    return BACKENDS[backend](q_BTNH, k_BSKH, v_BSKH, mask, bias_NR, drop_BNTS)


def attend_to_cache(q_BTNH, k_XHS, v_XSH, mask: Mask, bias_NR=None, lines_BGM=None) -> jax.Array:
    """out_BTNH of queries to a cache (see `cached_attention`): few at a time, or a long prompt."""
    if lines_BGM is not None or q_BTNH.shape[1] * v_XSH.shape[1] <= FEW_SCORES:
        return cached_attention(q_BTNH, k_XHS, v_XSH, mask, bias_NR, lines_BGM)
    k_BSKH, v_BSKH = (x_XSH.reshape(len(q_BTNH), -1, *x_XSH.shape[1:]).swapaxes(1, 2)
                      for x_XSH in (k_XHS.swapaxes(1, 2), v_XSH))
    return blockwise_attention(q_BTNH, k_BSKH, v_BSKH, mask, bias_NR)


def suitable(q_BTNH, k_BSKH, mask: Mask, bias_NR, drop_BNTS) -> str:
    """The name of the one of BACKENDS that `auto` takes."""
    if drop_BNTS is not None:
        return 'xla'
    scores = q_BTNH.shape[1] * k_BSKH.shape[1]
    lacks = any(_cudnn_lacks(q_BTNH, k_BSKH, mask, bias_NR, drop_BNTS).values())
    if (jax.default_backend() == 'gpu' and not lacks
            and (mask.key_segments_BS is None or scores <= MOST_MASKED)):
        return 'cudnn'
    return 'xla' if scores <= FEW_SCORES else 'blockwise'


def cudnn_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR=None, drop_BNTS=None,
                    implementation: str = 'cudnn') -> jax.Array:
    """Of 16-bit numbers, on an NVIDIA GPU. Causality, windows and lengths cost no memory; packed
    documents take a mask of every query and key, shared by the heads.
    """
    if implementation == 'cudnn':
        _require('cudnn', 'gpu', _cudnn_lacks(q_BTNH, k_BSKH, mask, bias_NR, drop_BNTS))
    B, T = q_BTNH.shape[:2]
    packed_B1TS = None
    if mask.key_segments_BS is not None:
        packed_B1TS = mask.to_bool(T, k_BSKH.shape[1])[:, None]
    out_BTNH = jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, mask=packed_B1TS, is_causal=mask.causal,
        key_value_seq_lengths=mask.key_lengths_B,
        local_window_size=None if mask.window is None else (mask.window - 1, 0),
        implementation=implementation)
    return _zero_where_blind(out_BTNH, mask, k_BSKH.shape[1])


def _cudnn_lacks(q_BTNH, k_BSKH, mask: Mask, bias_NR, drop_BNTS) -> dict[str, bool]:
    """{what the kernel cannot do: whether it is wanted}."""
    H = q_BTNH.shape[3]
    odd = (q_BTNH.shape[1] | k_BSKH.shape[1]) % 2 > 0  # gradients under a mask are for even lengths
    return _kernels_lack(mask, bias_NR, drop_BNTS) | {
        'packed documents in rows of odd length': odd and mask.key_segments_BS is not None,
        'windows that look ahead': mask.window is not None and not mask.causal,
        'model.dtype=float32': q_BTNH.dtype == jnp.float32,
        'heads wider than 128 or no multiple of 8': H > 128 or H % 8 > 0}


def _kernels_lack(mask: Mask, bias_NR, drop_BNTS) -> dict[str, bool]:
    whole = isinstance(mask.offset, int) and mask.offset == 0 and mask.key_starts_B is None
    return {'relative and ALiBi positions': bias_NR is not None,
            'model.attention_dropout': drop_BNTS is not None, 'reading a cache': not whole}


def splash_attention(q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR=None, drop_BNTS=None,
                     interpret: bool = False) -> jax.Array:
    """On a TPU; `interpret` runs the kernel anywhere, slowly. Lengths and heads are padded to
    multiples of its lanes.
    """
    if not interpret:
        _require('splash', 'tpu', _kernels_lack(mask, bias_NR, drop_BNTS))
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    B, T, N, H = q_BTNH.shape
    S = k_BSKH.shape[1]

    def heads_first(x):
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % LANES), (0, 0), (0, -H % LANES)))
        return x.transpose(0, 2, 1, 3)

    q_BNTH, k_BKSH, v_BKSH = map(heads_first, (q_BTNH * H ** -0.5, k_BSKH, v_BSKH))
    queries, keys = (next(size for size in (4 * LANES, 2 * LANES, LANES) if x.shape[2] % size == 0)
                     for x in (q_BNTH, k_BKSH))
    kernel = splash.make_splash_mha(
        _splash_mask(mask, N, q_BNTH.shape[2], k_BKSH.shape[2]), interpret=interpret,
        head_shards=1, q_seq_shards=1, block_sizes=splash.BlockSizes(
            queries, keys, keys, block_q_dkv=queries, block_kv_dkv=keys,
            block_kv_dkv_compute=keys, block_q_dq=queries, block_kv_dq=keys))
    queries_BT, keys_BS = _segments(mask, B, T, S)
    segments = splash.SegmentIds(jnp.pad(queries_BT, ((0, 0), (0, -T % LANES))),
                                 jnp.pad(keys_BS, ((0, 0), (0, -S % LANES)), constant_values=-1))
    out_BNTH = jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH, segments)
    return _zero_where_blind(out_BNTH.transpose(0, 2, 1, 3)[:, :T, :, :H], mask, S)


def _splash_mask(mask: Mask, N: int, T: int, S: int):
    """Causality and the window as the kernel takes them: known before it is compiled."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    if mask.window is not None:
        before = mask.window - 1
        one = masks.LocalMask((T, S), (before, 0 if mask.causal else before), 0)
    else:
        one = (masks.CausalMask if mask.causal else masks.FullMask)((T, S))
    return masks.MultiHeadMask([one] * N)


def _segments(mask: Mask, B: int, T: int, S: int):
    """(queries_BT, keys_BS): the document of each, -1 for a key that is padding."""
    queries_BT, keys_BS = jnp.zeros((B, T), jnp.int32), jnp.zeros((B, S), jnp.int32)
    if mask.key_segments_BS is not None:
        queries_BT = mask.query_segments_BT
        keys_BS = jnp.where(mask.key_segments_BS > 0, mask.key_segments_BS, -1)
    if mask.key_lengths_B is not None:
        keys_BS = jnp.where(jnp.arange(S)[None] < mask.key_lengths_B[:, None], keys_BS, -1)
    return queries_BT, keys_BS


def _zero_where_blind(out_BTNH, mask: Mask, key_length: int):
    """Zeros for queries that see no key, of which these kernels make what they like."""
    mask_BTS = mask.to_bool(out_BTNH.shape[1], key_length)
    if mask_BTS is None:
        return out_BTNH
    return jnp.where(mask_BTS.any(-1)[:, :, None, None], out_BTNH, 0)


def _require(backend: str, platform: str, lacks: dict[str, bool]) -> None:
    """Raises UserError, which names a form that can, if this one cannot or is not at home here."""
    instead = 'xla' if lacks['model.attention_dropout'] else 'blockwise'
    for what, wanted in lacks.items():
        if wanted:
            raise UserError(f'model.attention={backend} does not do {what}; use '
                            f'model.attention={instead}')
    if jax.default_backend() != platform:
        raise UserError(f'model.attention={backend} needs a {platform.upper()}, and JAX shows '
                        f'{jax.default_backend()}; use model.attention={instead}')


BACKENDS = {'reference': reference_attention, 'xla': xla_attention,
            'blockwise': blockwise_attention, 'cudnn': cudnn_attention,
            'splash': splash_attention}
