"""The pieces of a block: linear maps, LayerNorm, dropout, attention with heads, feed-forward.

Parameters are float32; a layer computes in the type of its input, except for softmax and the
statistics of norms, which are float32.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.nn import attention as attention_lib
from xformer.nn.masks import Mask

glorot_uniform = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')

ACTIVATIONS = {
    'relu': jax.nn.relu,
    'gelu': functools.partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x_NI, kernel_IO, out_type):
    """x kernel: the plain matrix product, with its own gradient only for the sake of speed."""
    return jnp.matmul(x_NI, kernel_IO, preferred_element_type=out_type)


def _product_gradient(out_type, saved, g_NO):
    """(g kernelᵀ, xᵀ g). XLA's CPU backend is nearly twice as fast at xᵀ g when its longer side
    comes last: a kernel that narrows gets (gᵀ x)ᵀ, behind a barrier lest XLA simplify it back.
    """
    x_NI, kernel_IO = saved
    g_NO = g_NO.astype(x_NI.dtype)
    if x_NI.shape[1] > g_NO.shape[1]:
        kernel_gradient = jax.lax.optimization_barrier(g_NO.T @ x_NI).T
    else:
        kernel_gradient = x_NI.T @ g_NO
    return g_NO @ kernel_IO.T, kernel_gradient


_product.defvjp(lambda x_NI, kernel_IO, out_type: (_product(x_NI, kernel_IO, out_type),
                                                   (x_NI, kernel_IO)), _product_gradient)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array, out_type=None) -> jax.Array:
    """x [..., I] @ kernel [I, O] + bias [O], in the type of x; summed and returned in `out_type`.

    The leading axes are flattened to one axis of tokens first: XLA's CPU backend takes twice as
    long for the kernel's gradient when it has to contract two axes.
    """
    y = _product(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype), out_type)
    return (y + bias.astype(y.dtype)[None]).reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nn.Module):
    """A linear map to `features`, Glorot-uniform kernel and zero bias."""

    features: int
    out_type: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', glorot_uniform, (x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return linear(x, kernel, bias, self.out_type)


def layer_norm(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array) -> jax.Array:
    """Zero mean and unit variance over the last axis, then scale and bias (Ba et al. 2016)."""
    ones = (1,) * (x.ndim - 1)
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + 1e-6)
    return (normal * scale_D.reshape(*ones, -1) + bias_D.reshape(*ones, -1)).astype(x.dtype)


class LayerNorm(nn.Module):
    """`layer_norm` with scale 1 and bias 0 to begin with."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        return layer_norm(x, self.param('scale', nn.initializers.ones, shape),
                          self.param('bias', nn.initializers.zeros, shape))


def dropout_factors(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Independent factors, 0 with probability `rate`, else 1/(1-rate): float32 of `shape`.

    Element i, counted modulo 2^32, hashes (key, i) with a 32-bit integer finaliser (the
    `lowbias32` constants of C. Wellons' hash-prospector). Counters make the factors independent
    of device layout, and the few integer operations fuse with whatever uses them; threefry costs
    more than the matrix products it would regularise on a CPU.
    """
    key0, key1 = jax.random.key_data(key).astype(jnp.uint32)
    bits = jnp.zeros((1,) * len(shape), jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        bits = bits + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    bits = _hash(_hash(bits * jnp.uint32(0x9E3779B9) ^ _hash(key0 ^ _hash(key1))) + key1)
    return jnp.where(bits >= jnp.uint32(round(rate * 2**32)), 1.0 / (1.0 - rate), 0.0)


def _hash(bits: jax.Array) -> jax.Array:
    """A bijection of 32-bit integers in which every bit depends on every bit."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


class Dropout(nn.Module):
    """Dropout while the 'dropout' random stream is given (training), else the identity."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        factors = self.factors(x.shape)
        return x if factors is None else x * factors.astype(x.dtype)

    def factors(self, shape: tuple[int, ...]) -> jax.Array | None:
        if self.rate == 0.0 or not self.has_rng('dropout'):
            return None
        return dropout_factors(self.make_rng('dropout'), self.rate, shape)


class MultiHeadAttention(nn.Module):
    """Project to heads, attend, concatenate, project (Vaswani et al. 2017, section 3.2.2).

    Keys and values are computed by a call of their own, so that decoding can keep them.
    """

    d_model: int
    num_heads: int
    dropout: float
    backend: str

    def setup(self):
        self.query, self.key, self.value, self.out = (Linear(self.d_model) for _ in range(4))
        self.drop = Dropout(self.dropout)

    def _heads(self, x_BTD: jax.Array) -> jax.Array:
        return x_BTD.reshape(*x_BTD.shape[:2], self.num_heads, self.d_model // self.num_heads)

    def keys_values(self, source_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """k_BSNH and v_BSNH of what is attended to."""
        return self._heads(self.key(source_BSD)), self._heads(self.value(source_BSD))

    def weights(self, x_BTD: jax.Array, k_BSNH: jax.Array, mask: Mask) -> jax.Array:
        """The attention map weights_BNTS, for looking at."""
        mask_BTS = mask.to_bool(x_BTD.shape[1], k_BSNH.shape[1])
        return attention_lib.attention_weights(self._heads(self.query(x_BTD)), k_BSNH, mask_BTS)

    def __call__(self, x_BTD, k_BSNH, v_BSNH, mask: Mask) -> jax.Array:
        """out_BTD. The batch of x may be a multiple G of that of the keys: the G hypotheses of
        one example share its keys, and are attended for as G·T queries of that example.
        """
        B, S = k_BSNH.shape[:2]
        T = x_BTD.shape[1]
        q_BTNH = self._heads(self.query(x_BTD))
        mask_BTS = mask.to_bool(T, S)
        if x_BTD.shape[0] != B:
            groups = x_BTD.shape[0] // B
            q_BTNH = q_BTNH.reshape(B, groups * T, *q_BTNH.shape[2:])
            mask_BTS = None if mask_BTS is None else jnp.tile(mask_BTS, (1, groups, 1))
        drop_BNTS = self.drop.factors((B, self.num_heads, q_BTNH.shape[1], S))
        out = attention_lib.BACKENDS[self.backend](
            q_BTNH, k_BSNH, v_BSNH, mask_BTS, drop_BNTS=drop_BNTS)
        return self.out(out.reshape(x_BTD.shape))


class FeedForward(nn.Module):
    """Position-wise: linear, activation, linear (Vaswani et al. 2017, section 3.3)."""

    d_ff: int
    activation: str
    dropout: float

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        h_BTF = ACTIVATIONS[self.activation](Linear(self.d_ff, name='up')(x_BTD))
        return Linear(x_BTD.shape[-1], name='down')(Dropout(self.dropout)(h_BTF))
